"""How a known data set is got and laid out, for a person who has nothing of it: `pipeline datasets NAME --how`.

What is not known for sure is "not stated".
"""

from collections.abc import Sequence

from pipeline.registry.cards import COOP, Card, Item
from stages.text import counted

NOT_STATED = "not stated"
SAME = "the same archive"


def how(card: Card) -> str:
    """Where a data set comes from, its licence and size, its official split file, and how its folder has to look."""
    classes = f", {card.classes:,} classes" if card.classes else ""
    facts = {
        "what": f"{card.title}{classes}",
        "from": card.homepage or card.addresses() or NOT_STATED,
        "licence": card.licence or NOT_STATED,
        "download": download(card.layout),
        "images": images(card),
        "split file": split_file(card),
        "cite": card.citation,
    }
    lines = [f"{key + ':':<12}{value}" for key, value in facts.items()]
    lines += ["", "FOLDER, by any name, has to hold:"]
    for item in card.layout:
        lines += [f"  {' or '.join(item.path)}{_holds(item)}", f"      {item.what}; get: {item.get}{_size(item)}"]
    if card.addresses():
        lines += ["", card.addresses()]
    lines += ["", f"then: pipeline ingest {card.name} --source FOLDER"]
    return "\n".join(lines)


def download(items: Sequence[Item]) -> str:
    """Size of the archives of some items, as far as it is stated."""
    known = sum(item.bytes or 0 for item in items)
    if not known:
        return f"size {NOT_STATED}"
    rest = sum(item.bytes is None and item.get != SAME for item in items)
    return shown(known) + f", and {counted(rest, 'file')} whose size is {NOT_STATED}" * bool(rest)


def shown(n_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"


def images(card: Card) -> str:
    """How many images there are in each split."""
    if not card.images_of:
        return NOT_STATED
    return ", ".join(f"{count:,} {split}" for split, count in card.images_of.items())


def split_file(card: Card) -> str:
    """Which official file says what belongs to which split, and where it is to be had."""
    item = next((item for item in card.layout if card.split_file in item.path), None)
    if item is not None:
        where = COOP if "CoOp" in item.get else item.get
        return f"{card.split_file}, {item.what} ({where})"
    if card.name == "fgvc_aircraft":
        return "images_variant_{train,val,test}.txt, in the archive"
    if card.split is not None:
        return f"none: every image is {card.split}"
    return "none: the folders and files themselves say it" + "; val serves as test" * card.val_is_test


def _holds(item: Item) -> str:
    return f"  ({item.folders:,} folders)" if item.folders else ""


def _size(item: Item) -> str:
    return f" ({shown(item.bytes)})" if item.bytes else f" (size {NOT_STATED})" * (item.get != SAME)
