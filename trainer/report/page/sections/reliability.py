"""Whether the probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

from stages import UserError
from stages.extras import installed
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table
from trainer.report.page.dataset import DataSet

FILE = "reliability.csv"


@dataclass(frozen=True)
class Bin:
    """One bin of confidence of one method; fractions of 1."""

    method: str
    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


def section(of: DataSet) -> Section | None:
    """The reliability diagram of the best method, and the calibration error of all."""
    bins = read_bins(of)
    methods = list(dict.fromkeys(each.method for each in bins))
    shown = of.best.name if of.best.name in methods else methods[0]
    own = [each for each in bins if each.method == shown]
    blocks: list[Block] = []
    if installed("vl_convert"):
        from trainer.report.page.charts import reliability

        said = f"Reliability of {shown}: accuracy by mean confidence in {len(own)} bins"
        drawn = reliability([(each.confidence, each.accuracy, each.count) for each in own], about=said)
        blocks.append(
            Chart(drawn, f"{said}. On the dashed line they agree; below it the method is surer than it should be. "
                  "Larger dots hold more images.")
        )  # fmt: skip
    rows = [
        [Cell(f"{100 * b.lower:.0f} to {100 * b.upper:.0f}", b.lower), Cell(str(b.count), b.count),
         Cell(f"{100 * b.confidence:.1f}", b.confidence), Cell(f"{100 * b.accuracy:.1f}", b.accuracy)]
        for b in own
    ]  # fmt: skip
    columns = [Column(title, number=True) for title in ("confidence", "images", "mean confidence", "accuracy")]
    blocks.append(Table(f"Reliability of {shown}, percent", columns, rows))
    errors = [(method, calibration_error([b for b in bins if b.method == method])) for method in methods]
    blocks.append(
        Table(
            "Expected calibration error on the test images, percent",
            [Column("method", code=True), Column("error", number=True)],
            [[Cell(method), Cell(f"{100 * error:.1f}", error)] for method, error in errors],
            first=10,
        )
    )
    lead = "Of the images that a method is 80 % sure of, 80 % should be right."
    return Section("confidence", "Confidence", blocks, lead)


def read_bins(of: DataSet) -> list[Bin]:
    """The bins that hold an image.

    Raises:
        UserError: the run has no such file, or it is damaged.
    """
    import csv

    file = of.run / FILE
    if not file.is_file():
        raise UserError(f"the run has no {FILE}")
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            found = [
                Bin(row["method"], float(row["lower"]), float(row["upper"]), int(row["count"]),
                    float(row["confidence"] or "nan"), float(row["accuracy"] or "nan"))
                for row in csv.DictReader(stream)
                if int(row["count"])
            ]  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
        raise UserError(f"{file}: not what it should be ({error}): run `trainer run` again") from error
    if not found:
        raise UserError(f"{file}: no test image was judged")
    return found


def calibration_error(bins: list[Bin]) -> float:
    """Mean distance of accuracy and confidence over the images."""
    whole = sum(each.count for each in bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / whole
