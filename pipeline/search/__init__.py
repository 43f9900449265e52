"""The images or sentences nearest to a sentence or a picture: exact, or through a FAISS index."""

from pipeline.search.find import (
    ImageHit,
    SentenceHit,
    check_encoder,
    embed_query,
    find_images,
    find_sentences,
    image_stores,
    require_known_encoder,
    sentence_stores,
    stored_query,
)
from pipeline.search.sheet import contact_sheet

__all__ = [
    "ImageHit",
    "SentenceHit",
    "check_encoder",
    "contact_sheet",
    "embed_query",
    "find_images",
    "find_sentences",
    "image_stores",
    "require_known_encoder",
    "sentence_stores",
    "stored_query",
]
