"""What an encyclopaedia says of the classes, cut to sentences: from a Wikipedia dump, or from a file `{class: text}`.

After KAPT (Kan et al., "Knowledge-Aware Prompt Tuning for Generalizable Vision-Language Models", ICCV 2023), which
takes Wikipedia's words about a class as external knowledge. There they enter as tokens of a prompt, a discrete and a
learnt one, in front of the frozen text encoder, beside an adaptation head on patch features; here the sentences are a
prompt source, which every method that reads prompts can use: the tokens and the patches have no cached form.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.prompts.clean import DropReason, clean, sentences
from pipeline.prompts.dump import Page, is_dump, pages
from pipeline.prompts.wikitext import has_markup, is_disambiguation, listed_titles, plain
from stages import UserError, display_name
from stages.command import progress
from stages.text import counted, read_text

MOST = 30
"""Sentences of a class that are kept, unless the user says; CuPL has 20 to 90."""
LONGEST = 2**22
"""Characters of a text at most."""
HOPS = 3
"""Times the file is read for redirects that lead on."""
SHOWN = 5


@dataclass(frozen=True)
class Article:
    """The text about a class.

    Attributes:
        names: what its sentences may name their subject by: the class name, and the title of the article.
    """

    names: tuple[str, ...]
    text: str


@dataclass
class Articles:
    """What was found.

    Attributes:
        of: class_id -> its article.
        missing: class_id of those without an article.
        ambiguous: class_id -> titles, one of which it may be.
        unused: keys of a file that are no class of the data set.
        notes: lines to say.
    """

    of: dict[int, Article] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    ambiguous: dict[int, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def folded(name: str) -> str:
    """A name blind to case, underscores, hyphens and spaces."""
    return re.sub(r"[\s_\-‐‑–]+", "", display_name(name)).casefold() or name


def texts_of(file: Path) -> dict[str, str] | None:
    """The texts of a JSON file `{class: text}`; None where it is none such, and may be a file of sentences."""
    if file.suffix.lower() != ".json":
        return None
    text = read_text(file)
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(each, tuple) for each in pairs):
        return None
    if not all(isinstance(value, str) for _, value in pairs):
        return None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{file}: {name!r:.80} stands there twice; join its texts")
        if not value.strip():
            raise UserError(f"{file}: the text of {name!r:.80} is empty; write it, or take the class out")
        if len(value) > LONGEST:
            raise UserError(f"{file}: the text of {name!r:.80} has {len(value)} characters, expected at most {LONGEST}")
        found[name] = value
    return found


def articles_of_texts(names: Mapping[int, str], given: Mapping[str, str], *, where: Path) -> Articles:
    """The texts of a file by class.

    Raises:
        UserError: two texts of one class.
    """
    keys: dict[str, list[str]] = {}
    for key in given:
        keys.setdefault(folded(key), []).append(key)
    found, taken, marked = Articles(), set(), 0
    for class_id, name in names.items():
        candidates = [name] if name in given else keys.get(folded(name), [])
        if len(candidates) > 1:
            raise UserError(f"{where}: {' and '.join(map(repr, candidates))} are both the class {name!r}; join them")
        if not candidates:
            found.missing.append(class_id)
            continue
        text = given[candidates[0]]
        taken.add(candidates[0])
        if has_markup(text):
            marked += 1
            text = plain(text)
        found.of[class_id] = Article((name,), text)
    found.unused = sorted(set(given) - taken)
    if marked:
        found.notes.append(f"{counted(marked, 'text')} held wiki markup, which was taken off")
    return found


def read_titles(file: Path, names: Mapping[int, str]) -> dict[int, str]:
    """class_id -> title of its article, of a JSON file `{class: title}`.

    Raises:
        UserError: another shape, or a class that the data set does not have.
    """
    given = texts_of(file) if file.suffix.lower() == ".json" else None
    if given is None:
        raise UserError(f"{file}: expected a JSON file {{class name: title of its article}}")
    ids = {folded(name): class_id for class_id, name in names.items()}
    strange = [key for key in given if folded(key) not in ids]
    if strange:
        raise UserError(f"{file}: {_listed(strange)}: no class of the data set has this name; write it as the set does")
    return {ids[folded(key)]: title.strip() for key, title in given.items()}


def articles_of_dump(names: Mapping[int, str], file: Path, titles: Mapping[int, str] | None = None) -> Articles:
    """The articles of a dump whose titles, or redirects to them, are the classes.

    Args:
        titles: class_id -> title, where it is another one than the class name.

    The very title comes before one that differs in case and separators. A page that lists several articles of the name,
    or several such titles, leave the class open: guessing would put sentences about another thing into the source.
    """
    called = {class_id: (titles or {}).get(class_id, name) for class_id, name in names.items()}
    asked = {folded(name) for name in called.values()}
    hits: dict[str, dict[str, Page]] = {}
    by_title: dict[str, Page] = {}
    for page in progress(pages(file), what=f"reading {file.name}", unit="page"):
        key = folded(page.title)
        if key in asked:
            hits.setdefault(key, {})[page.title] = by_title[page.title] = page
    for _ in range(HOPS):
        ahead = {_titled(page.redirect) for page in by_title.values() if page.redirect} - set(by_title)
        if not ahead:
            break
        fresh = {page.title: page for page in _some(file, ahead)}
        by_title |= fresh
        if not fresh:
            break
    found = Articles()
    for class_id, name in names.items():
        pages_of = hits.get(folded(called[class_id]), {})
        targets = _targets(pages_of, by_title)
        exact = _titled(called[class_id])
        if exact in pages_of:
            targets = _targets({exact: pages_of[exact]}, by_title) or targets
        _settle(found, class_id, name, targets)
    return found


def _settle(found: Articles, class_id: int, name: str, targets: Mapping[str, Page]) -> None:
    if not targets:
        found.missing.append(class_id)
    elif len(targets) > 1:
        found.ambiguous[class_id] = sorted(targets)
    else:
        title, page = next(iter(targets.items()))
        if is_disambiguation(title, page.text):
            found.ambiguous[class_id] = listed_titles(page.text)
        else:
            found.of[class_id] = Article(tuple(dict.fromkeys((name, title))), plain(page.text))


def _targets(start: Mapping[str, Page], by_title: Mapping[str, Page]) -> dict[str, Page]:
    """title -> article that these pages are or lead to."""
    found = {}
    for page in start.values():
        seen: set[str] = set()
        at: Page | None = page
        while at is not None and at.redirect is not None and at.title not in seen:
            seen.add(at.title)
            at = by_title.get(_titled(at.redirect))
        if at is not None and at.redirect is None:
            found[at.title] = at
    return found


def _some(file: Path, titles: set[str]) -> Iterator[Page]:
    for page in progress(pages(file), what=f"redirects of {file.name}", unit="page"):
        if page.title in titles:
            yield page


def _titled(name: str) -> str:
    """A name as a title: MediaWiki writes the first letter large and no underscores; a section is cut off."""
    name = display_name(name.partition("#")[0])
    return name[:1].upper() + name[1:]


@dataclass(frozen=True)
class Sentences:
    """The sentences of a class.

    Attributes:
        rows: (sentence, why it is dropped) in the order of the text, up to the last that is needed.
        beyond: sentences behind it, which were not looked at.
    """

    rows: Sequence[tuple[str, DropReason | None]]
    beyond: int


def cut(article: Article, *, most: int) -> Sentences:
    """An article's sentences, cleaned as a language model's are, until `most` are kept."""
    rows: list[tuple[str, DropReason | None]] = []
    seen: set[str] = set()
    kept = 0
    every = sentences(article.text)
    for done, sentence in enumerate(every):
        if kept == most:
            return Sentences(rows, len(every) - done)
        text, reason = _cleaned(sentence, article.names)
        rows.append((text, reason))
        if reason is None and text.casefold() not in seen:
            seen.add(text.casefold())
            kept += 1
    return Sentences(rows, 0)


def _cleaned(sentence: str, names: Sequence[str]) -> tuple[str, DropReason | None]:
    """The sentence, and why it is dropped whichever of the names it may use."""
    found = [clean(sentence, class_name=name, question="", finish_reason="stop") for name in names]
    best = next((each for each in found if each.drop_reason is None), found[0])
    return best.text, best.drop_reason


def said(names: Mapping[int, str], found: Articles, *, beyond: int, most: int) -> list[str]:
    """Lines on classes without an article, on those that several articles may be, and on what was not looked at."""
    lines = list(found.notes)
    if found.missing:
        what = counted(len(found.missing), "class has", "classes have")
        instead = ", the template stands in" * bool(found.of)
        lines.append(f"{what} no article{instead}: {_listed([names[i] for i in found.missing])}")
    if found.ambiguous:
        which = [
            f"{display_name(names[i])} ({_listed(titles, 3) or 'a page of disambiguation'})"
            for i, titles in found.ambiguous.items()
        ]
        what = counted(len(found.ambiguous), "class is", "classes are")
        lines.append(
            f"{what} the name of several articles and left out: {_listed(which)}; name the right ones with --titles, a "
            "file {class: title}"
        )
    if beyond:
        lines.append(f"{counted(beyond, 'sentence')} behind the first {most} kept of a class were not taken (--most)")
    return lines


def _listed(names: Sequence[str], most: int = SHOWN) -> str:
    return ", ".join(display_name(name)[:60] for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def is_encyclopaedia(file: Path) -> bool:
    """Whether a file is a dump by its name, or holds texts in place of sentences."""
    return is_dump(file) or texts_of(file) is not None


def read_articles(names: Mapping[int, str], file: Path, titles: Path | None = None) -> Articles:
    """The articles of a dump, or of a file `{class: text}`, by class.

    Args:
        titles: see `read_titles`; of a dump alone.

    Raises:
        UserError: it cannot be read, or has no article of any class.
    """
    given = None if is_dump(file) else texts_of(file)
    if given is None:
        found = articles_of_dump(names, file, None if titles is None else read_titles(titles, names))
    else:
        found = articles_of_texts(names, given, where=file)
    if not found.of:
        mend = "say which article a class is with --titles, a file {class: title}"
        if given is not None:
            mend = f"its keys have to be the names of classes, and are {_listed([repr(name) for name in given], 3)}"
        raise UserError("; ".join([f"{file}: no article of any class", *said(names, found, beyond=0, most=0), mend]))
    return found
