"""The questions a language model is asked about a class, and how a class name is put into them.

The shipped questions stand in `questions.yaml`, one list a data set and phrasing. A class name is data: it is inserted
as it is, on one line.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.errors import UserError
from stages.params import check, read_yaml

TABLE = Path(__file__).with_name("questions.yaml")
GENERIC = "generic"
KIND, OTHERS = "{kind}", "{others}"
"""Places in a question beside `{}`: what the classes are, and the classes that one is easily taken for."""
PHYSICAL = "a physical thing"
"""What the classes of a data set are of which nothing else is known."""


@dataclass(frozen=True, kw_only=True)
class QuestionTemplate:
    """One question with one `{}` (or `a(n) {}`) for the class name, and the name it has in the store."""

    question_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What the classes of a data set are asked.

    Attributes:
        asked: every class is asked these.
        spare: the next ones of the list; each takes the place of one that mostly fails.
        contrast: what tells a class from `{others}`; the first is asked, the next ones are spare.
    """

    asked: tuple[QuestionTemplate, ...]
    spare: tuple[QuestionTemplate, ...] = ()
    contrast: tuple[QuestionTemplate, ...] = ()

    @property
    def all(self) -> tuple[QuestionTemplate, ...]:
        """Every question that a class may be asked."""
        return (*self.asked, *self.spare, *self.contrast)


def questions_for(
    dataset: str, own: Sequence[str] | str | None = None, *, chat: bool = False, kind: str = ""
) -> Questions:
    """The questions for a data set: `own` if given, else its own from the table, else the generic ones.

    Args:
        own: questions in place of the table's, or a YAML file of them (`QuestionFile`).
        chat: the phrasing for models that follow instructions; else that for models that continue a text (CuPL's). As
            many are asked in either.
        kind: what the classes are (`a type of pet`), for `{kind}`; empty: not said.

    Raises:
        UserError: (exit code 2) a question without its place for the class name, or a file that is none of questions;
            all faults are named.
    """
    if isinstance(own, str):
        file = check(QuestionFile, read_yaml(Path(own)), where=own)
        return _questions("own", file.questions, file.ask, file.contrast, kind)
    table = load_table()
    slug = dataset.lower().replace("-", "_")
    slug = slug if slug in table.questions else GENERIC
    contrast = table.contrast.get(slug, table.contrast[GENERIC])
    if own is not None:
        faults = _faults("questions", list(own))
        if faults:
            raise UserError("; ".join(faults), exit_code=2)
        return _questions("own", own, None, contrast, kind)
    plain = table.questions[slug]
    if not chat:
        return _questions(slug, plain, None, contrast, kind)
    return _questions(f"{slug}-chat", table.chat.get(slug, table.chat[GENERIC]), len(plain), contrast, kind)


def _questions(name: str, questions: Sequence[str], ask: int | None, contrast: Sequence[str], kind: str) -> Questions:
    said = f" ({readable(kind)})" if kind else ""

    def templates(name: str, texts: Sequence[str]) -> tuple[QuestionTemplate, ...]:
        return tuple(
            QuestionTemplate(question_id=f"{name}-{n}", text=text.replace(KIND, said))
            for n, text in enumerate(texts, 1)
        )

    listed = templates(name, questions)
    return Questions(
        asked=listed[:ask], spare=listed[ask:] if ask else (), contrast=templates(f"{name}-contrast", contrast)
    )


class QuestionFile(BaseModel):
    """A file of questions that a user edits: `pipeline generate-prompts --show-questions` prints one to begin with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    questions: list[str] = Field(min_length=1, description="one `{}` each; the order in which they are taken")
    ask: int | None = Field(None, ge=1, description="how many of them every class is asked; null = all")
    contrast: list[str] = Field([], description="one `{}` and one `{others}` each; the first is asked")

    @model_validator(mode="after")
    def _places(self) -> "QuestionFile":
        faults = _faults("questions", self.questions) + (_faults("contrast", self.contrast) if self.contrast else [])
        faults += _without_others("contrast", self.contrast)
        if faults:
            raise ValueError("; ".join(faults))
        return self


def as_file(questions: Questions) -> str:
    """Questions as the YAML of a `QuestionFile`."""
    texts = [template.text for template in (*questions.asked, *questions.spare)]
    content = {"ask": len(questions.asked), "questions": texts, "contrast": [each.text for each in questions.contrast]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def fill(template: str, class_name: str, others: Sequence[str] = ()) -> str:
    """Put a class name into a question template, and into `{others}` the names of other classes: "an ant or a bee".

    `a(n) {}` gets the article by sound: "an hour", "a unicorn", "an X-ray". It gets none, and verbs beside it become
    plural, for an evident plural (the last word ends in s, but not in ss, us or is, and is no known exception), and
    none for a name of the table's `no_article` and for one that brings its own article.
    """
    before, place, after = template.partition("{}")
    before, after = _with_others(before, others), _with_others(after, others)
    return _filled(before, readable(class_name), after) if place else before


def _with_others(text: str, others: Sequence[str]) -> str:
    if OTHERS not in text:
        return text
    named = [_filled("a(n) ", readable(other), "") for other in others]
    return text.replace(OTHERS, " or ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named))


def _filled(before: str, name: str, after: str) -> str:
    """A name between two parts of a question."""
    marked = re.search(r"\b([Aa])\(n\) $", before)
    if not marked:
        return before + name + after
    before = before[: marked.start()]
    if is_plural(name):
        before = re.sub(r"\b([Dd])oes $", r"\1o ", before)
        after = re.sub(r"^((?: \([^()]*\))? )(looks|is|has)\b", lambda verb: verb[1] + _PLURAL_VERBS[verb[2]], after)
        return before + name + after
    if name.casefold() in load_table().no_article or re.match(r"(a|an|the)\s", name, re.IGNORECASE):
        return before + name + after
    article = article_for(name)
    return before + (article.capitalize() if marked[1] == "A" else article) + " " + name + after


def readable(class_name: str) -> str:
    """A class name as it stands in a sentence: underscores and control characters become spaces, never two of them."""
    kept = (" " if char == "_" or unicodedata.category(char)[0] in "CZ" else char for char in class_name)
    return " ".join("".join(kept).split())


def article_for(name: str) -> str:
    """`a` or `an` by the sound of the first word: numbers and abbreviations as they are read aloud."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    found = re.search(r"[A-Za-z]+|\d+", plain)
    if found is None:
        return "a"
    word = found[0]
    if word.isdigit():
        return "an" if re.fullmatch(r"8\d*|(11|18)(\d\d)?", word) else "a"
    spelled = len(word) == 1 or (word.isupper() and (len(word) <= 3 or not re.search("[AEIOUY]", word)))
    if spelled:
        return "an" if word[0].upper() in "AEFHILMNORSX" else "a"
    word = word.lower()
    if word.startswith(_SILENT_H):
        return "an"
    return "an" if word[0] in "aeiou" and not _CONSONANT_SOUND.match(word) else "a"


def is_plural(name: str) -> bool:
    """Whether a class name is evidently plural: `scissors`, `french fries`; not `bus`, `glass`, `iris`, `lens`."""
    last = name.split(" ")[-1].lower() if name else ""
    return bool(re.search(r"[a-z]{2}s$", last)) and not last.endswith(("ss", "us", "is")) and last not in _SINGULAR_S


_PLURAL_VERBS = {"looks": "look", "is": "are", "has": "have"}
_SILENT_H = ("hour", "honest", "honor", "honour", "heir")
# Written with a vowel, spoken with a consonant: "yoo" (unit, use, ewer, European) and "w" (one, once).
_CONSONANT_SOUND = re.compile(
    r"uni(?![mnd])|unan|us[aeu]|ut[eio]|ur[aeiu]|uk|ubi|uvu|uga|ufo|eu|ew|(one|once|ouija)$",
)
_SINGULAR_S = frozenset(
    {"asbestos", "atlas", "bias", "biceps", "canvas", "christmas", "cosmos", "gas", "hercules", "lens", "mercedes"}
    | {"news", "pancreas", "pyrenees", "rhinoceros", "series", "species", "thermos", "triceps", "triceratops"}
)


@dataclass(frozen=True, kw_only=True)
class QuestionTable:
    """The content of `questions.yaml`.

    Attributes:
        questions: by data set, for models that continue a text; their number holds for the next as well.
        chat: by data set, for models that follow instructions; the data sets without have the generic ones.
        contrast: by data set, what tells a class from others; the data sets without have the generic ones.
        no_article: lower-case names without an article.
    """

    questions: dict[str, list[str]]
    chat: dict[str, list[str]]
    contrast: dict[str, list[str]]
    no_article: frozenset[str]


@cache
def load_table(path: Path = TABLE) -> QuestionTable:
    """Read and check a table of questions.

    Raises:
        UserError: (exit code 2) all that is wrong with the file, in one line.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}", exit_code=2) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the keys {', '.join(_KEYS)}, found {content!r:.80}", exit_code=2)
    faults = [f"unknown key {key!r}" for key in content if key not in _KEYS]
    names = content.get("no_article") or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        faults.append(f"no_article: expected a list of names, found {names!r:.80}")
        names = []
    lists = {key: _lists(key, content.get(key), faults) for key in ("datasets", "chat", "contrast")}
    for slug, listed in lists["contrast"].items():
        faults += _without_others(f"contrast.{slug}", listed)
    if faults:
        raise UserError(f"{path}: " + "; ".join(faults), exit_code=2)
    return QuestionTable(
        questions=lists["datasets"], chat=lists["chat"], contrast=lists["contrast"],
        no_article=frozenset(name.casefold() for name in names),
    )  # fmt: skip


_KEYS = ("datasets", "chat", "contrast", "no_article")


def _lists(key: str, entries: Any, faults: list[str]) -> dict[str, list[str]]:
    """The lists of questions under one key, by data set; an entry that is a word stands for another one's list."""
    if not isinstance(entries, dict) or GENERIC not in entries:
        faults.append(f"{key}: expected a mapping with the key {GENERIC!r}, found {entries!r:.80}")
        return {}
    found: dict[str, list[str]] = {}
    for slug, entry in entries.items():
        listed = entries.get(entry) if isinstance(entry, str) else entry
        wrong = _faults(f"{key}.{slug}", listed)
        faults += wrong
        found[str(slug)] = listed if isinstance(listed, list) and not wrong else []
    return found


def _without_others(where: str, questions: Sequence[str]) -> list[str]:
    return [
        f"{where}[{number}]: expected exactly one {OTHERS} for the other classes, found {question!r:.80}"
        for number, question in enumerate(questions, 1)
        if question.count(OTHERS) != 1
    ]


def _faults(where: str, questions: Any) -> list[str]:
    """What is wrong with one list of questions."""
    if not isinstance(questions, list) or not questions:
        return [f"{where}: expected a list of questions, found {questions!r:.80}"]
    faults = []
    for number, question in enumerate(questions, 1):
        if not isinstance(question, str):
            faults.append(f"{where}[{number}]: expected a sentence, found {question!r:.80}")
        elif question.count("{}") != 1:
            faults.append(f"{where}[{number}]: expected exactly one {{}} for the class name, found {question!r:.80}")
    if len({str(question) for question in questions}) < len(questions):
        faults.append(f"{where}: a question stands there twice")
    return faults
