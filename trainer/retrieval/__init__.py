"""Ways to find captions by images and images by captions, each one line of CAPTION_METHODS.

Every method maps an image to a query in the space of the captions; the captions are matched as the encoder gives them.
"""

from trainer.retrieval.folds import CrossFitted, Folded, FoldedTask
from trainer.retrieval.methods import CAPTION_METHODS, GROUPS, CaptionMethod, CaptionPredictor, elsewhere

__all__ = [
    "CAPTION_METHODS", "GROUPS", "CaptionMethod", "CaptionPredictor", "CrossFitted", "Folded", "FoldedTask",
    "elsewhere",
]  # fmt: skip
