"""How well sentences find their class among all, without any image; and which classes lie nearest to each other.

A sentence that names its class is near to the name whatever else it says. So it is also looked at with its name taken
out ("a thing with eight legs and two claws"): what is left has to describe the class. It finds sentences that say
nothing or something else; it does not foretell how well images are classified (`docs/prompts.md` has both).
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from pipeline.prompts.clean import name_stems, stem_of
from pipeline.prompts.questions import readable
from stages.command import progress

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

TEMPLATE = "a photo of a {}."
"""What stands for a class: it is compared with sentences and with other classes."""
MASK = "thing"
CHUNK = 1024
"""Sentences looked at between two steps of the progress bar."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """How well some sentences find their class among all.

    Attributes:
        sentences: how many there are.
        top1: share that lies nearer to its own class than to every other, fraction, in the encoder's text space.
        rank: mean rank of the own class, 1 to the number of classes.
        unnamed_top1: the same share with the class's name taken out of the sentence, by `encode_sentences`.
        unnamed_rank: its mean rank.
    """

    sentences: int
    top1: float
    rank: float
    unnamed_top1: float
    unnamed_rank: float


class Finder:
    """Looks for the class of a sentence among all.

    Args:
        names: class_id -> class name.
        encoder: reads sentences.

    Attributes:
        settings: what decides, for the provenance.
    """

    def __init__(self, names: Mapping[int, str], encoder: "Encoder") -> None:
        self.settings = {"encoder": encoder.name, "fingerprint": encoder.fingerprint}
        self._names, self._encoder = names, encoder
        self._position = {class_id: position for position, class_id in enumerate(names)}
        self._known: dict[tuple[bool, str], Float[np.ndarray, " D"]] = {}

    def nearest(self, count: int) -> dict[int, list[str]]:
        """The names of the `count` other classes whose names read most alike, the nearest first; the earlier of equal
        ones goes first.
        """
        anchors = self._anchors(unnamed=True)
        near = anchors @ anchors.T
        np.fill_diagonal(near, -np.inf)
        order = np.argsort(-near.round(5), axis=1, kind="stable")[:, : min(count, len(self._names) - 1)]
        names = list(self._names.values())
        return {class_id: [names[i] for i in row] for class_id, row in zip(self._names, order, strict=True)}

    def unnamed_ranks(self, rows: Rows) -> Int[np.ndarray, " N"]:
        """The rank of its own class for every row (`text`, `class_id`), its name taken out of the sentence."""
        texts = [without_name(row["text"], self._names[row["class_id"]]) for row in rows]
        return self._ranks(rows, texts, unnamed=True)

    def vectors(self, rows: Rows) -> Float[np.ndarray, "N D"]:
        """Unit vectors of sentences, for comparing them with each other."""
        return self._embedded([row["text"] for row in rows], unnamed=True)

    def score(self, rows: Rows) -> tuple[TextScore | None, dict[int, TextScore]]:
        """All kept sentences together (None: there is none), and those of every class that has some."""
        rows = [row for row in rows if row["drop_reason"] is None]
        if not rows:
            return None, {}
        named = self._ranks(rows, [row["text"] for row in rows], unnamed=False)
        unnamed = self.unnamed_ranks(rows)
        by_class: defaultdict[int, list[int]] = defaultdict(list)
        for position, row in enumerate(rows):
            by_class[row["class_id"]].append(position)
        return _score(named, unnamed), {
            class_id: _score(named[by_class[class_id]], unnamed[by_class[class_id]])
            for class_id in self._names
            if class_id in by_class
        }

    def worst(self, rows: Rows, count: int) -> list[int]:
        """The classes that fewest of their sentences find without the name, the worst first; never one that all find.

        Of equal ones the one with the larger mean rank goes first; a class without a sentence is no candidate.
        """
        _, by_class = self.score(rows)
        found = [class_id for class_id, score in by_class.items() if score.unnamed_top1 < 1]
        return sorted(found, key=lambda each: (by_class[each].unnamed_top1, -by_class[each].unnamed_rank))[:count]

    def _ranks(self, rows: Rows, texts: list[str], *, unnamed: bool) -> Int[np.ndarray, " N"]:
        anchors = self._anchors(unnamed=unnamed).T
        ranks = np.ones(len(rows), int)
        for start in progress(range(0, len(rows), CHUNK), what="score", unit="part"):
            part = slice(start, start + CHUNK)
            own = [self._position[row["class_id"]] for row in rows[part]]
            near = self._embedded(texts[part], unnamed=unnamed) @ anchors
            ranks[part] += (near > near[np.arange(len(own)), own][:, None]).sum(axis=1)
        return ranks

    def _anchors(self, *, unnamed: bool) -> Float[np.ndarray, "C D"]:
        return self._embedded(
            [TEMPLATE.replace("{}", readable(name)) for name in self._names.values()], unnamed=unnamed
        )

    def _embedded(self, texts: Sequence[str], *, unnamed: bool) -> Float[np.ndarray, "N D"]:
        """Embeddings of sentences, each encoded once."""
        new = [text for text in dict.fromkeys(texts) if (unnamed, text) not in self._known]
        encode = self._encoder.encode_sentences if unnamed else self._encoder.encode_text
        if new:
            self._known.update(zip(((unnamed, text) for text in new), encode(new).numpy(), strict=True))
        return np.stack([self._known[unnamed, text] for text in texts])


def without_name(text: str, class_name: str) -> str:
    """A sentence with every word of its class's name replaced by `thing`, whatever its ending."""
    stems = name_stems(class_name)
    return re.sub(r"[^\W_]+", lambda word: MASK if stem_of(word[0]) in stems else word[0], text)


def _score(named: Int[np.ndarray, " N"], unnamed: Int[np.ndarray, " N"]) -> TextScore:
    return TextScore(
        sentences=len(named), top1=float((named == 1).mean()), rank=float(named.mean()),
        unnamed_top1=float((unnamed == 1).mean()), unnamed_rank=float(unnamed.mean()),
    )  # fmt: skip
