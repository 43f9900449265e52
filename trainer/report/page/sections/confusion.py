"""Which classes are taken for which: the pairs confused most, and the matrix with similar classes side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stages import UserError
from stages.extras import installed
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table, Text
from trainer.report.page.dataset import DataSet
from trainer.report.tables import MOST_PAIRS
from trainer.runs.record import AGAIN, CLASSES, PREDICTIONS

MOST_CLASSES = 120
"""With more classes the matrix is left out: its cells would be too small to read."""
NUMBERED_CLASSES = 12
"""Up to here the cells hold the counts."""


def section(of: DataSet) -> Section | None:
    """Test images, by the method that is best on validation images."""
    if not of.judges_classes:
        return None
    lines, names = of.predictions, [line.name for line in of.classes]
    images = Counter(line.actual for line in lines)
    pairs = Counter((line.actual, line.predicted) for line in lines if line.actual != line.predicted)
    most = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PAIRS]
    wrong = sum(pairs.values())
    blocks: list[Block] = []
    if most:
        rows = [
            [Cell(actual), Cell(taken), Cell(f"{n} of {images[actual]}", n),
             Cell(f"{100 * n / images[actual]:.0f}", n / images[actual], n / images[actual])]
            for (actual, taken), n in most
        ]  # fmt: skip
        columns = [Column("class"), Column("taken for"), Column("images", number=True), Column("percent", number=True)]
        blocks.append(Table(f"The {len(most)} pairs confused most, of {len(pairs)}", columns, rows, first=10))
    else:
        blocks.append(Text(["Every test image was given its class."]))
    if len(names) > MOST_CLASSES:
        blocks.append(
            Text([f"The matrix is left out: with {len(names)} classes (more than {MOST_CLASSES}) its cells would be "
                  "too small to read."])
        )  # fmt: skip
    elif installed("vl_convert"):
        from trainer.report.page.charts import heatmap

        matrix = counts(lines_of(of), len(names))
        order = by_similarity(matrix, _centres(of))
        place = {label: at for at, label in enumerate(order)}
        whole = matrix.sum(axis=1)
        cells = [
            (place[i], place[j], int(matrix[i, j]), int(whole[i])) for i, j in zip(*np.nonzero(matrix), strict=True)
        ]
        said = f"Confusion matrix of {len(names)} classes: {wrong} of {len(lines)} test images are off the diagonal"
        drawn = heatmap([names[i] for i in order], cells, about=said, numbers=len(names) <= NUMBERED_CLASSES)
        blocks.append(
            Chart(drawn, f"{said}. A row is what an image is, a column what it was taken for; blue is right, orange is "
                  "wrong, stronger is a larger share of the row. Classes that are alike stand side by side.",
                  whole=len(names) > 40)
        )  # fmt: skip
    lead = f"By {of.best}, the method that is best on validation images."
    return Section("confusion", "Confusion", blocks, lead)


def lines_of(of: DataSet) -> list[tuple[int, int]]:
    """(actual, predicted) of every test image, as places in the list of classes."""
    place = {line.name: at for at, line in enumerate(of.classes)}
    strange = next((n for line in of.predictions for n in (line.actual, line.predicted) if n not in place), None)
    if strange is not None:
        raise UserError(f"{PREDICTIONS} names a class {strange[:60]!r} that {CLASSES} does not: {AGAIN}")
    return [(place[line.actual], place[line.predicted]) for line in of.predictions]


def counts(pairs: Sequence[tuple[int, int]], classes: int) -> Int[np.ndarray, "C C"]:
    """How many images of a class (row) were taken for a class (column)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T), 1)
    return matrix


def by_similarity(matrix: Int[np.ndarray, "C C"], centres: Float[np.ndarray, "C D"] | None) -> list[int]:
    """The classes in an order in which those that are confused, or look alike, stand side by side.

    Hierarchical clustering (average linkage, leaves in the best order) of the share that two classes are confused and,
    a tenth as strong, of the cosine of their mean training images.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    alike = (share + share.T) / 2
    if centres is not None:
        alike = alike + 0.1 * centres @ centres.T
    distance = alike.max() - alike
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def _centres(of: DataSet) -> Float[np.ndarray, "C D"] | None:
    """Unit means of the training images; None where the stores are not there any more."""
    try:
        features = of.features
    except UserError:
        return None
    from torch.nn.functional import normalize

    from trainer.methods.common import class_sums

    found = normalize(class_sums(features.train.images.float32(), len(features.class_names)), dim=-1)
    return np.asarray(found.numpy(), dtype=np.float64)
