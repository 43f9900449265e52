"""Data sets that come as embeddings: named arrays, checked, and written as the stores that embedding would give."""

from pipeline.features.checks import KEYS, FeatureSet, check_features, read_features
from pipeline.features.stores import take, write_stores

__all__ = [
    "KEYS",
    "FeatureSet",
    "check_features",
    "read_features",
    "take",
    "write_stores",
]
