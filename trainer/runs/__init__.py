"""A run: what it fits, the fits on disk, what is judged, and the record that it leaves."""
