"""The test images that were wrong and most certain, each with what spoke for the wrong and for the right class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages import UserError
from trainer.report.page.blocks import Block, Card, Cards, Cell, Column, Section, Table, Text
from trainer.report.page.dataset import DataSet
from trainer.report.page.thumbnails import thumbnails
from trainer.runs.record import Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.analysis.prompts import Reference

MOST = 24
"""Images that are shown."""
SENTENCES = 3
"""Sentences a class."""


def section(of: DataSet) -> Section | None:
    """Cards that open; None where every image is right."""
    if not of.judges_classes:
        return None
    wrong = sorted(
        (line for line in of.predictions if line.actual != line.predicted),
        key=lambda line: (-line.probability, line.image_id),
    )
    if not wrong:
        return None
    shown = wrong[:MOST]
    blocks: list[Block] = []
    explained, why_not = _explained(of, shown)
    pictures, without = thumbnails(of, [line.image_id for line in shown])
    said = [line for line in (without, why_not) if line]
    if said:
        blocks.append(Text(said))
    blocks.append(
        Cards(
            f"{len(shown)} of {len(wrong)} wrong test images, the most certain first",
            [
                Card(
                    title=line.image_id,
                    picture=pictures.get(line.image_id),
                    lines=[
                        f"{line.predicted} ({100 * line.probability:.0f} %)",
                        f"labelled {line.actual}",
                    ],
                    blocks=explained.get(line.image_id, [Text([line.image_id])]),
                )
                for line in shown
            ],
        )
    )
    lead = (
        f"By {of.best}, of {len(of.predictions)} test images. A wrong label in the data looks like this too: open "
        "a picture to see which sentences are near to the image, of the class it was taken for and of its own."
    )
    return Section("errors", "Worst errors", blocks, lead)


def _explained(of: DataSet, lines: list[Prediction]) -> tuple[dict[str, list[Block]], str]:
    """image_id -> what opens on click, and one line where nothing can be explained."""
    import torch

    from trainer.analysis.parts import score_parts
    from trainer.analysis.prompts import find_reference

    try:
        features, found = of.features, of.checkpoint
        test = features.test()
        main = of.record.sources[:1]
        reference = find_reference(found, features.with_main_source(main[0]) if main else features)
    except UserError as error:
        return {}, f"No explanations: {error}."
    where = {image_id: at for at, image_id in enumerate(test.image_ids)}
    lines = [line for line in lines if line.image_id in where]
    if not lines:
        return {}, "No explanations: the stores hold other images than those that were judged."
    images = test.images.embeddings[[where[line.image_id] for line in lines]].float()
    label = {name: at for at, name in enumerate(found.text.names)}
    strange = next((name for line in lines for name in (line.actual, line.predicted) if name not in label), None)
    if strange is not None:
        return {}, f"No explanations: the predictions name a class {strange[:60]!r} that the classifier does not know."
    with torch.no_grad():
        scores = {"probability": found.logits(images).softmax(dim=-1)}
        if found.text.is_text:
            scores["cosine to the template"] = images @ found.text.template.float().T
        for name, values in score_parts(found.predictor, images, found.text).items():
            scores[f"score from {name}"] = values
    explained: dict[str, list[Block]] = {}
    for b, line in enumerate(lines):
        sides = [("answer", label[line.predicted]), ("label", label[line.actual])]
        explained[line.image_id] = [
            _scores(sides, found.text.names, scores, b),
            *([] if reference is None else _sentences(sides, found.text.names, reference, images[b])),
            Text([f"Image: {line.image_id}; runner-up: {line.runner_up} ({100 * line.runner_up_probability:.0f} %)"]),
        ]
    return explained, "" if reference is not None else "There are no embedded sentences that could speak for a class."


def _scores(sides: list[tuple[str, int]], names: tuple[str, ...], scores: dict[str, Tensor], b: int) -> Table:
    columns = [Column("score"), *(Column(f"{names[label]} ({head})", number=True) for head, label in sides)]
    rows = [
        [Cell(name), *(Cell(f"{float(values[b, label]):.3f}", float(values[b, label])) for _, label in sides)]
        for name, values in scores.items()
    ]
    return Table("What the classifier computed", columns, rows)


def _sentences(
    sides: list[tuple[str, int]], names: tuple[str, ...], reference: Reference, image: Tensor
) -> list[Block]:
    from trainer.analysis.prompts import nearest_prompts

    rows = [
        [Cell(f"{names[label]} ({head})"), Cell(str(found["prompt"])),
         Cell(f"{found['cosine']:.3f}", float(found["cosine"] or 0))]
        for head, label in sides
        for found in nearest_prompts(reference, image, label, count=SENTENCES, shares=None)
    ]  # fmt: skip
    if not rows:
        return []
    kind = "those it was trained with" if reference.learned else "for comparison: it was not trained with these"
    return [
        Table(
            f"Nearest sentences of {reference.source} ({kind})",
            [Column("class"), Column("sentence"), Column("cosine", number=True)],
            rows,
        )
    ]
