"""Sentences that no language model wrote about the class: what its sentences have to beat (`docs/prompts.md`).

waffle: random words and random characters in the place of a description, the same for every class (Roth et al.,
"Waffling around for Performance", ICCV 2023). shuffled: the sentences about another class, with the own name in them.
names: further names of a class, each in the data set's templates.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence

from stages import UserError, display_name

PAIRS, PARTS = 15, 2
"""Sentences of words and as many of characters, as published; words, or runs of characters, in each."""
LENGTH = 5
"""Characters of a run."""
WORD = re.compile(r"[^\W\d_]{3,}")
CHARACTERS = string.ascii_letters + string.digits + "!#$%&*+-=?@"

Sentences = dict[str, list[str]]
"""Class name -> its sentences, as `pipeline import-prompts` reads them."""


def waffle(names: Sequence[str], template: str, *, words: Sequence[str] = (), seed: int = 1) -> Sentences:
    """`a photo of a NAME, which has foot loud.` and `a photo of a NAME, which has jmhj4, !J#mq.`

    Args:
        template: with one `{}`.
        words: to draw from; without any there are characters alone, twice as many.
    """
    rng = random.Random(seed)
    known = sorted(set(words))
    drawn = []
    for _ in range(PAIRS):
        runs = [["".join(rng.choices(CHARACTERS, k=LENGTH)) for _ in range(PARTS)] for _ in range(1 if known else 2)]
        drawn += [" ".join(rng.choices(known, k=PARTS))] if known else []
        drawn += [", ".join(run) for run in runs]
    stem = template.rstrip(" .")
    return {name: [f"{stem.replace('{}', display_name(name))}, which has {each}." for each in drawn] for name in names}


def words_of(given: Mapping[str, Sequence[str]]) -> list[str]:
    """The words of these sentences, in lower case, without those of the class names."""
    own = {word.lower() for name in given for word in WORD.findall(name)}
    return sorted({w.lower() for each in given.values() for text in each for w in WORD.findall(text)} - own)


def shuffled(given: Mapping[str, Sequence[str]], *, seed: int = 1) -> Sentences:
    """For every class the sentences about another one, all of them in one random circle, its own name in them.

    A sentence that does not name its class gets the own name before it: `NAME: sentence`.

    Raises:
        UserError: fewer than two classes.
    """
    if len(given) < 2:
        raise UserError("sentences of another class need at least two classes")
    order = list(given)
    random.Random(seed).shuffle(order)
    return {
        own: [_renamed(text, other, own) for text in given[other]]
        for own, other in zip(order, [*order[1:], order[0]], strict=True)
    }


def named(given: Mapping[str, Sequence[str]], templates: Sequence[str]) -> Sentences:
    """Every template with the class's own name, then with each further one."""
    return {
        name: [
            template.replace("{}", each)
            for each in dict.fromkeys(map(display_name, (name, *others)))
            for template in templates
        ]
        for name, others in given.items()
    }


def _renamed(text: str, other: str, own: str) -> str:
    words = re.escape(display_name(other)).replace(r"\ ", r"[\s_-]+")
    found, count = re.subn(rf"(?<!\w){words}", lambda _: display_name(own), text, flags=re.IGNORECASE)
    return found if count else f"{display_name(own)}: {text}"
