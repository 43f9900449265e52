"""The questions a language model is asked about a class, and how a class name is put into them.

The questions stand in `questions.yaml`, one list a data set. A class name is data: it is inserted as it is,
on one line.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stages.errors import UserError

TABLE = Path(__file__).with_name("questions.yaml")
GENERIC = "generic"


@dataclass(frozen=True, kw_only=True)
class QuestionTemplate:
    """One question with one `{}` (or `a(n) {}`) for the class name, and the name it has in the store."""

    question_id: str
    text: str


def questions_for(dataset: str, override: Sequence[str] | None = None) -> list[QuestionTemplate]:
    """The questions for a data set: `override` if given, else its own from the table, else the generic ones.

    Raises:
        UserError: (exit code 2) a question of `override` has not exactly one `{}`; all faults are named.
    """
    if override is not None:
        faults = _faults("questions", list(override))
        if faults:
            raise UserError("; ".join(faults), exit_code=2)
        return [QuestionTemplate(question_id=f"own-{n}", text=text) for n, text in enumerate(override, 1)]
    table = load_table().questions
    slug = dataset.lower().replace("-", "_")
    slug = slug if slug in table else GENERIC
    return [QuestionTemplate(question_id=f"{slug}-{n}", text=text) for n, text in enumerate(table[slug], 1)]


def fill(template: str, class_name: str) -> str:
    """Put a class name into a question template.

    `a(n) {}` gets the article by sound: "an hour", "a unicorn", "an X-ray". It gets none, and verbs beside it become
    plural, for an evident plural (the last word ends in s, but not in ss, us or is, and is no known exception), and
    none for a name of the table's `no_article` and for one that brings its own article.
    """
    name = readable(class_name)
    before, _, after = template.partition("{}")
    marked = re.search(r"\b([Aa])\(n\) $", before)
    if not marked:
        return before + name + after
    before = before[: marked.start()]
    if is_plural(name):
        before = re.sub(r"\b([Dd])oes $", r"\1o ", before)
        after = re.sub(r"^ (looks|is|has)\b", lambda verb: " " + _PLURAL_VERBS[verb[1]], after)
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
    """The content of `questions.yaml`: questions by data set, and the lower-case names without an article."""

    questions: dict[str, list[str]]
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
        raise UserError(f"{path}: expected the keys datasets and no_article, found {content!r:.80}", exit_code=2)
    faults = [f"unknown key {key!r}" for key in content if key not in ("datasets", "no_article")]
    names = content.get("no_article") or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        faults.append(f"no_article: expected a list of names, found {names!r:.80}")
        names = []
    entries = content.get("datasets")
    if not isinstance(entries, dict) or GENERIC not in entries:
        faults.append(f"datasets: expected a mapping with the key {GENERIC!r}, found {entries!r:.80}")
        entries = {}
    questions: dict[str, list[str]] = {}
    for slug, entry in entries.items():
        listed = entries.get(entry) if isinstance(entry, str) else entry
        faults += _faults(f"datasets.{slug}", listed)
        questions[str(slug)] = listed or []
    if faults:
        raise UserError(f"{path}: " + "; ".join(faults), exit_code=2)
    return QuestionTable(questions=questions, no_article=frozenset(name.casefold() for name in names))


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
