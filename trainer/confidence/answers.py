"""What `trainer predict` answers beside the likeliest classes: sets that miss rarely, and no class at all.

An image gets no label where the likeliest class is not likely enough, or where it lies too far from everything that the
classes were learned from. Its probabilities are shown all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.text import counted
from trainer.confidence.conformal import fewest_images, prediction_sets, threshold
from trainer.confidence.distance import KEPT

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint

FAR, UNSURE = "none of these", "unsure"
"""How the reason of an empty label begins."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        abstain_below: no label below this probability.
        error_rate: share of images whose set may miss the right class.
        none_of_these: no label for images that lie too far away.
        keep: share of images of the classes that may not be taken for such.
    """

    abstain_below: float | None = None
    error_rate: float | None = None
    none_of_these: bool = False
    keep: float = KEPT

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            UserError: (exit code 2) names the option, the value and the range.
        """
        for option, value in (("--error-rate", self.error_rate), ("--keep", self.keep)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{option} {value:g}: expected a share above 0 and below 1, such as 0.1", exit_code=2)
        if self.abstain_below is not None and not 0 < self.abstain_below <= 1:
            raise UserError(
                f"--abstain-below {self.abstain_below:g}: expected a probability above 0 and at most 1, such as 0.6",
                exit_code=2,
            )

    @property
    def labels(self) -> bool:
        """Whether each row gets a label and the reason where it has none."""
        return self.abstain_below is not None or self.none_of_these or self.error_rate is not None


@dataclass(frozen=True)
class Answers:
    """What was asked for, with what the checkpoint knows of it.

    Attributes:
        names: of the classes.
        largest: the largest 1 - p of a class in a set; None: every class is in.
        far: the largest distance of an image of the classes; None where it was not asked for.
        notes: lines for the user.
    """

    wanted: Wanted
    found: Checkpoint
    largest: float | None
    far: float | None
    notes: tuple[str, ...]

    def of(self, shares: Float[Tensor, "B C"], images: Float[Tensor, "B D"]) -> list[dict[str, Any]]:
        """For each image what is added to its row: `label` and `reason`, and `set` where sets were asked for.

        The set is None where the image is none of the classes.
        """
        wanted, names = self.wanted, self.found.text.names
        rows: list[dict[str, Any]] = [{} for _ in shares]
        if wanted.labels:
            values, labels = shares.max(1)
            distances = self.found.distance.of(images).tolist() if self.far is not None and self.found.distance else []
            for i, (row, value, label) in enumerate(zip(rows, values.tolist(), labels.tolist(), strict=True)):
                reason = ""
                if wanted.abstain_below is not None and value < wanted.abstain_below:
                    reason = f"{UNSURE}: probability {value:.4f} is below {wanted.abstain_below:g}"
                if self.far is not None and distances[i] > self.far:
                    reason = f"{FAR}: distance {distances[i]:.4f} is above {self.far:.4f}"
                row |= {"label": "" if reason else names[label], "reason": reason}
        if wanted.error_rate is not None:
            likely = shares.argsort(stable=True, dim=1, descending=True).tolist()
            inside = prediction_sets(shares, self.largest).tolist()
            for row, order, own in zip(rows, likely, inside, strict=True):
                row["set"] = None if row["reason"].startswith(FAR) else [names[label] for label in order if own[label]]
        return rows


def answers(found: Checkpoint, wanted: Wanted) -> Answers:
    """Look up what is needed.

    Raises:
        UserError: the checkpoint does not know it, since no labelled image was held out when it was made.
    """
    largest = far = None
    notes = []
    if wanted.abstain_below is not None and found.calibration is None:
        notes.append("the probabilities are as the method gives them: nothing was held out to calibrate them on")
    scores = None if found.calibration is None else found.calibration.scores
    if wanted.error_rate is not None:
        if scores is None:
            raise _nothing_held_out(found, "--error-rate")
        largest = threshold(scores, wanted.error_rate)
        if largest is None:
            notes.append(
                f"every set holds all classes: {counted(len(scores), 'labelled image')} held out, and an error rate of "
                f"{wanted.error_rate:g} needs {fewest_images(wanted.error_rate)}"
            )
    if wanted.none_of_these:
        if found.distance is None:
            raise _nothing_held_out(found, "--none-of-these")
        far = found.distance.limit(wanted.keep)
        held = len(found.distance.distances)
        if held < fewest_images(1 - wanted.keep):
            notes.append(
                f"{counted(held, 'labelled image')} held out, too few to keep {wanted.keep:.0%} of the classes' own "
                f"images for sure: the farthest of them is the limit"
            )
    return Answers(wanted, found, largest, far, tuple(notes))


def _nothing_held_out(found: Checkpoint, option: str) -> UserError:
    return UserError(
        f"{found.path}: cannot serve {option}: no labelled image was held out when it was made; run `trainer run` "
        "again, with validation images or more than one shot"
    )


def counts(rows: Sequence[dict[str, Any]], wanted: Wanted) -> list[str]:
    """Lines that count what got no label, and how large the sets are; nothing of images that cannot be read.

    An image that is none of the classes has no set.
    """
    read = [row for row in rows if not row["error"]]
    lines = []
    if wanted.labels and read:
        for begin, what in ((UNSURE, f"below {wanted.abstain_below}"), (FAR, "too far from every class")):
            of = [row for row in read if row["reason"].startswith(begin)]
            if of or (wanted.none_of_these if begin == FAR else wanted.abstain_below is not None):
                lines.append(f"{len(of)} of {counted(len(read), 'image')} without a label: {what}")
    sizes = [len(row["set"]) for row in read if row.get("set") is not None]
    if wanted.error_rate is not None and sizes:
        lines.append(
            f"sets that miss the right class in at most {100 * wanted.error_rate:.4g}% of images like those held out: "
            f"{sum(sizes) / len(sizes):.2f} classes on average, one alone for {sizes.count(1)} of {len(sizes)}"
        )
    return lines
