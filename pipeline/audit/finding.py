"""What the audit finds about one image, and the columns of its list."""

from dataclasses import dataclass

KINDS = (
    "same-file", "same-pixels", "near-duplicate", "unreadable", "wrong-label", "outlier", "blank", "tiny", "dark",
    "bright", "blurred",
)  # fmt: skip
"""Kinds of findings, the most urgent first."""
OF_TEST = frozenset(KINDS) - {"wrong-label", "outlier"}
"""Kinds for which test images are looked at: what a model would learn from is decided without them."""
COLUMNS = (
    "rank", "kind", "score", "image_id", "path", "split", "class_name", "suggested", "probability", "other_image_id",
    "other_path", "other_split", "other_class_name", "detail", "action", "label",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        score: 0 to 1, 1 the surest.
        suggested, probability: for wrong labels, the class that the other images say.
        other: id of the image that is the evidence.
    """

    kind: str
    score: float
    image_id: str
    detail: str
    suggested: str | None = None
    probability: float | None = None
    other: str | None = None
