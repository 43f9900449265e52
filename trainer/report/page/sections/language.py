"""What the language model wrote: captions of images, and answers to questions about them."""

from __future__ import annotations

from trainer.report.page.blocks import Block, Card, Cards, Section, Text
from trainer.report.page.dataset import DataSet
from trainer.report.page.thumbnails import thumbnails

CAPTIONS, ANSWERS = "captions.csv", "answers.csv"
MOST = 24
"""Of each, the first ones."""


def captions(of: DataSet) -> Section | None:
    """A sheet of the first test images; None where captioning was not among the protocols."""
    rows = of.sheet(CAPTIONS, ("image_id", "caption", "reference"))
    if not rows:
        return None
    cards = [
        (row["image_id"], [row["caption"] or "(nothing)"], [Text([f"A person wrote: {row['reference']}"])])
        for row in rows[:MOST]
    ]
    return _section(of, "captions", "Captions", "captions", rows, cards)


def answers(of: DataSet) -> Section | None:
    """The first questions of the test images; None where vqa was not among the protocols."""
    rows = of.sheet(ANSWERS, ("image_id", "question", "answer", "usual_answer", "accuracy"))
    if not rows:
        return None
    cards = [
        (
            row["image_id"],
            [row["question"], f"answer: {row['answer'] or '(nothing)'}"],
            [Text([f"People mostly said: {row['usual_answer']}", f"Accuracy of the answer: {row['accuracy']}"])],
        )
        for row in rows[:MOST]
    ]
    return _section(of, "answers", "Answers", "answers", rows, cards)


def _section(
    of: DataSet, key: str, title: str, what: str, rows: list[dict[str, str]],
    cards: list[tuple[str, list[str], list[Text]]],
) -> Section:  # fmt: skip
    pictures, without = thumbnails(of, [image_id for image_id, *_ in cards])
    blocks: list[Block] = [Text([without])] if without else []
    blocks.append(
        Cards(
            f"The first {len(cards)} of {len(rows)} {what}",
            [Card(image_id, pictures.get(image_id), lines, opened) for image_id, lines, opened in cards],
        )
    )
    return Section(key, title, blocks, f"By {rows[0]['method']}; not chosen, in the order of the test images.")
