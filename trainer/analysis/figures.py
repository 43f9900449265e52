"""Pictures: single images beside their classes, and both modalities in one plane. PNG, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from trainer.analysis.explain import MOST_PICTURES
from trainer.analysis.gap import ADAPTED, GENERATED, TEMPLATE, Gap, Space
from trainer.report.figures import CONTROL, OURS, REFERENCE, save
from trainer.report.lettering import labels, plain

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_POINTS = 300
"""Images of the plane, drawn by seed."""
SEED = 1
PLANE = {"images": ("#7fb89a", "o"), TEMPLATE: ("#4a4d52", "^"), GENERATED: (CONTROL, "D"), ADAPTED: (OURS, "s")}
"""What the plane shows: colour and mark."""


def explanations(rows: Sequence[dict[str, Any]], pictures: Mapping[str, Image], path: Path) -> int:
    """Each readable image beside a bar chart of its classes (figure 5); returns how many are shown."""
    shown = [row for row in rows if row["path"] in pictures][:MOST_PICTURES]
    if not shown:
        return 0
    lines = max(sum(1 + len(c["prompts"]) for c in row["classes"]) for row in shown)
    height = max(2.6, 0.9 + 0.19 * lines)
    spaced = ConstrainedLayoutEngine(h_pad=0.15)  # inches; it overlooks the titles of pictures
    figure = Figure(figsize=(12.5, height * len(shown) + 0.5), layout=spaced)
    axes = figure.subplots(len(shown), 3, squeeze=False, width_ratios=[1.0, 1.15, 2.6])
    for (left, middle, right), row in zip(axes, shown, strict=True):
        left.imshow(np.asarray(pictures[row["path"]]))
        left.set_title(plain(Path(row["path"]).name, 30), fontsize=9)
        left.axis("off")
        _bars(middle, row["classes"])
        _sentences(right, row["classes"])
    figure.supxlabel(
        "Grey: cosine of the image to the class's template; blue: to the vector that the classifier has for the class. "
        "Right: reference prompts nearest to the image, with cosine and, where known, attention.",
        fontsize=8, color="#444444",
    )  # fmt: skip
    save(figure, path)
    return len(shown)


def _bars(axis: Axes, classes: Sequence[dict[str, Any]]) -> None:
    for place, each in enumerate(classes):
        axis.barh(place - 0.18, each["cos_template"], height=0.34, color=REFERENCE)
        if each["cos_adapted"] is not None:
            axis.barh(place + 0.18, each["cos_adapted"], height=0.34, color=OURS)
    shown = labels([c["class"] for c in classes], 24)
    names = [f"{name}\n{100 * c['probability']:.1f} %" for name, c in zip(shown, classes, strict=True)]
    axis.set_yticks(range(len(classes)), names, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="#444444", lw=0.6)
    axis.set_xlabel("cosine to the image", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _sentences(axis: Axes, classes: Sequence[dict[str, Any]]) -> None:
    axis.axis("off")
    lines: list[tuple[str, str]] = []
    for name, each in zip(labels([c["class"] for c in classes], 40), classes, strict=True):
        lines.append((name, "bold"))
        for p in each["prompts"]:
            share = "" if p["attention"] is None else f"  {100 * p['attention']:3.0f} %"
            lines.append((f"{p['cosine']:.2f}{share}  {plain(p['prompt'], 84)}", "normal"))
    for place, (line, weight) in enumerate(lines):
        axis.text(0, 1 - (place + 0.5) / len(lines), line, fontsize=7.5, weight=weight, va="center")


def plane(space: Space, rows: Sequence[Gap], path: Path) -> None:
    """Images and text in the plane of the first two principal components of all points shown (figure 8)."""
    from sklearn.decomposition import PCA

    rng = torch.Generator().manual_seed(SEED)
    drawn = torch.randperm(len(space.images), generator=rng)[:MOST_POINTS].to(space.images.labels.device)
    points: dict[str, Tensor] = {"images": space.images.embeddings[drawn]}
    points |= {name: text[drawn] for name, text in space.texts.items() if name in PLANE}
    stacked = torch.cat(list(points.values())).cpu().numpy()
    where = PCA(2, svd_solver="full").fit(stacked)
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axis = figure.subplots()
    distances = {row.text: row.distance for row in rows}
    for name, each in points.items():
        flat = where.transform(each.cpu().numpy())
        label = f"{name} ({distances[name]:.2f})" if name in distances else name
        colour, mark = PLANE[name]
        axis.scatter(flat[:, 0], flat[:, 1], s=14, color=colour, marker=mark, alpha=0.6, linewidths=0, label=label)
        middle = flat.mean(0)
        axis.scatter(middle[0], middle[1], s=90, marker="X", color=colour, edgecolors="black", linewidths=0.8)
    share = 100 * where.explained_variance_ratio_
    axis.set(
        title=plain(f"{space.dataset}: images and text of their own class, encoder {space.encoder}", 90),
        xlabel=f"first principal component ({share[0]:.0f} % of the variance)",
        ylabel=f"second ({share[1]:.0f} %)",
    )
    axis.title.set_fontsize(10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, title="distance from the images' centre", title_fontsize=8)
    figure.supxlabel(
        f"{len(drawn)} {space.split} images drawn by seed. Crosses: centres. The distances are those of the whole "
        "space and split.",
        fontsize=8, color="#444444",
    )  # fmt: skip
    save(figure, path)
