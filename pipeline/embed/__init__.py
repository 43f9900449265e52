"""Sentences and images to embeddings: decode -> preprocess -> encode -> write; resumable, nothing silently lost."""

from pipeline.embed.base import EmbedSummary
from pipeline.embed.images import embed_images
from pipeline.embed.text import embed_text

__all__ = ["EmbedSummary", "embed_images", "embed_text"]
