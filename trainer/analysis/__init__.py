"""What a trained classifier does: single images explained, its cost, the modality gap."""
