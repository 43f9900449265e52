"""Spellings of one class: `Cat`, `cat`, ` cat ` and the two Unicode forms of `café` are one name, and it is said.

Names that differ by more than that (`bird_house`, `bird house`) are left to `base.check_listing`, which refuses them.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

from stages.errors import nearest

UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
"""What pasted names bring along and nobody sees; the joiners that some scripts and emoji need are not among it."""
SHOWN = 5
"""Joined classes that a line names; the others are counted."""


def tidy(name: str) -> str:
    """A name in composed Unicode (NFC), without spaces around it: the same text on every disk."""
    return unicodedata.normalize("NFC", name).strip()


def spelling_key(name: str) -> str:
    """What all spellings of one class have in common: not capitals, nor which spaces, nor what is not seen.

    That of `straße` is not that of `strasse`.
    """
    return unicodedata.normalize("NFC", " ".join(tidy(name).lower().translate(UNSEEN).split()))


def join_spellings(
    names_by_split: Mapping[str | None, Mapping[str, int]],
    wanted: Mapping[str, str] | None = None,
    *,
    ids: Mapping[str, int] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Give all spellings of a class one name.

    Args:
        names_by_split: split, or None where the source has none -> name as the source has it -> number of its images.
        wanted: the settings' `class_names`: name as the source has it -> name to use. They decide before all else:
            spellings that they name apart stay apart.
        ids: name as the source has it -> class id, where the source numbers its classes.

    Returns:
        Name as the source has it -> class name, for every name of the source; and lines for the user. The spelling
        kept is the one that most training images have (images without a split count as such), then most images.

    Raises:
        ValueError: spellings that may well be two classes: single letters (`A`, `a`) unless they have an id each, or
            words with two ids; a name in `wanted` that the source does not have.
    """
    train: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for split, counts in names_by_split.items():
        total.update(counts)
        train.update(counts if split in (None, "train") else {})
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(total):
        groups[spelling_key(name)].append(name)
    given = _given(wanted or {}, total)
    mapping: dict[str, str] = {}
    joined, apart = [], []
    for names in groups.values():
        spellings = sorted(set(map(tidy, names)))
        asked = {given[name] for name in spellings if name in given}
        decided = all(name in given for name in spellings)
        numbers = sorted({ids[name] for name in names}) if ids else []
        letters = len(spellings) > 1 and all(len(name) == 1 for name in spellings)
        if decided and len(asked) > 1:
            mapping |= {name: given[tidy(name)] for name in names}
        elif letters and not asked and len(numbers) == len(spellings):
            mapping |= {name: tidy(name) for name in names}
            apart.append(spellings)
        else:
            why = (
                "class_names names only some of them" if len(asked) > 1
                else f"they have the class ids {', '.join(map(str, numbers))}" if len(numbers) > 1 and not decided
                else "they may be two letters" if letters and not decided
                else None
            )  # fmt: skip
            if why:
                raise ValueError(_refusal(names, why))
            kept = max(names, key=lambda name: (train[name], total[name], name))
            mapping |= dict.fromkeys(names, next(iter(asked), tidy(kept)))
            others = [name for name in names if name != kept]
            if others:
                joined.append((mapping[kept], others, sum(total[name] for name in others)))
    return mapping, [*_said_joined(joined), *_said_apart(apart)]


def _given(wanted: Mapping[str, str], names: Mapping[str, int]) -> dict[str, str]:
    """The settings' names by tidy name.

    Raises:
        ValueError: one that is no class there.
    """
    known = set(map(tidy, names))
    unknown = sorted(name for name in wanted if tidy(name) not in known)
    if unknown:
        shown = sorted(known, key=lambda name: (spelling_key(name) != spelling_key(unknown[0]), name))[:20]
        raise ValueError(f"class_names has {unknown[0][:80]!r}, which is no class there; {nearest(unknown[0], shown)}")
    return {tidy(name): to for name, to in wanted.items()}


def _refusal(names: list[str], why: str) -> str:
    one, other = names[:2]
    return (
        f"classes {' and '.join(map(_shown, names))[:200]} differ in capitals, spaces or Unicode form alone, and "
        f"{why}: one class or two? Name each in class_names of the settings, with one "
        f"name or with two: {{{_shown(one)}: NAME, {_shown(other)}: NAME}}"
    )


def _said_joined(joined: list[tuple[str, list[str], int]]) -> list[str]:
    if not joined:
        return []
    shown = [f"{kept[:80]!r} (also {', '.join(map(_shown, others))[:160]})" for kept, others, _ in joined[:SHOWN]]
    more = f", and {len(joined) - SHOWN} more" if len(joined) > SHOWN else ""
    return [
        f"{len(joined)} classes stand there in several spellings, each is one class: {', '.join(shown)}{more}; "
        f"{sum(n for *_, n in joined)} images take the spelling kept (to keep two apart, name each in class_names)"
    ]


def _said_apart(apart: list[list[str]]) -> list[str]:
    if not apart:
        return []
    shown = "; ".join(" and ".join(map(_shown, letters)) for letters in apart[:SHOWN])
    more = f"; and {len(apart) - SHOWN} more" if len(apart) > SHOWN else ""
    return [f"{len(apart)} letters are several classes, as each has an id of its own: {shown}{more}"]


def _shown(name: str) -> str:
    """A name in quotes, with escapes where its Unicode form is the one that cannot be told by looking."""
    return (repr if unicodedata.is_normalized("NFC", name) else ascii)(name[:80])
