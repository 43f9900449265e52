"""What was found for images and for captions: the worst misses and some hits."""

from __future__ import annotations

from stages import UserError
from trainer.report.page.blocks import Block, Card, Cards, Picture, Section, Text
from trainer.report.page.dataset import DataSet
from trainer.report.page.thumbnails import thumbnails

FILE = "retrieval.csv"
COLUMNS = ("direction", "image_id", "caption", "rank", "found")
MISSES, HITS = 12, 6
"""Queries of each direction that are shown."""
TITLES = {"i2t": "captions by an image", "t2i": "images by a caption"}


def section(of: DataSet) -> Section | None:
    """Both directions; None where retrieval was not among the protocols."""
    rows = of.sheet(FILE, COLUMNS)
    if not rows:
        return None
    try:
        ranked = sorted(((int(row["rank"]), row) for row in rows), key=lambda pair: -pair[0])
    except ValueError as error:
        raise UserError(f"{of.run / FILE}: a rank that is no number: run `trainer run` again") from error
    shown = {
        direction: [
            *[pair for pair in ranked if pair[1]["direction"] == direction and pair[0] > 1][:MISSES],
            *[pair for pair in ranked if pair[1]["direction"] == direction and pair[0] == 1][:HITS],
        ]
        for direction in TITLES
    }
    wanted = [row["image_id"] for pairs in shown.values() for _, row in pairs]
    pictures, without = thumbnails(of, [*wanted, *(row["found"] for _, row in shown["t2i"])])
    blocks: list[Block] = [Text([without])] if without else []
    for direction, pairs in shown.items():
        if pairs:
            of_all = sum(row["direction"] == direction for row in rows)
            caption = f"{TITLES[direction].capitalize()}: {len(pairs)} of {of_all} queries, the worst first, then hits"
            blocks.append(Cards(caption, [_card(direction, rank, row, pictures) for rank, row in pairs]))
    lead = f"By {rows[0]['method']}. The rank is that of the first caption of the image, or of the caption's own image."
    return Section("retrieval", "Retrieval", blocks, lead)


def _card(direction: str, rank: int, row: dict[str, str], pictures: dict[str, str]) -> Card:
    image_id, found = row["image_id"], row["found"]
    lines = [f"rank {rank}", row["caption"]]
    opened: list[Block] = [Text([f"Image: {image_id}"])]
    if rank > 1 and direction == "i2t":
        opened.insert(0, Text([f"Found first: {found}"]))
    elif rank > 1:
        about = f"Found first: {found}"
        opened.insert(0, Picture(pictures[found], about) if found in pictures else Text([about]))
    return Card(image_id, pictures.get(image_id), lines, opened)
