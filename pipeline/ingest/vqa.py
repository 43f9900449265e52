"""Questions and answers as VQA2 writes them: a file of questions and one of annotations, in JSON."""

import re
from dataclasses import dataclass, field
from typing import Any

from pipeline.ingest.base import Question
from pipeline.ingest.json_files import checked
from pipeline.ingest.places import Places
from pipeline.ingest.records import Records


@dataclass(slots=True)
class Asked:
    """One question of a question file."""

    question_id: int | str
    image_id: int | str
    question: str


@dataclass(slots=True)
class Questions:
    """`v2_OpenEnded_mscoco_val2014_questions.json`."""

    questions: list[Asked]
    data_subtype: str = ""


@dataclass(slots=True)
class Answer:
    """What one person answered."""

    answer: str | None


@dataclass(slots=True)
class Annotation:
    """The answers to one question."""

    question_id: int | str
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class Annotations:
    """`v2_mscoco_val2014_annotations.json`."""

    annotations: list[Annotation]


def is_questions(raw: Any) -> bool:
    """An object with a list of questions."""
    return isinstance(raw, dict) and isinstance(raw.get("questions"), list)


def is_annotations(raw: Any) -> bool:
    """An object with annotations that belong to questions."""
    notes = raw.get("annotations") if isinstance(raw, dict) else None
    if not isinstance(notes, list) or not notes:
        return notes == [] and "images" not in raw
    return isinstance(notes[0], dict) and "question_id" in notes[0]


def answers_of(raw: Any, *, where: str) -> dict[int | str, list[str]]:
    """question id -> what people answered, one answer a person; "" for one that says nothing.

    Raises:
        ValueError: a question stands there twice.
    """
    found: dict[int | str, list[str]] = {}
    for number, note in enumerate(checked(Annotations, raw, where=where).annotations):
        if note.question_id in found:
            raise ValueError(f"annotations.{number}: question {note.question_id!r} stands there twice; keep one")
        found[note.question_id] = [answer.answer or "" for answer in note.answers]
    return found


def add_questions(
    records: Records, raw: Any, known: dict[int | str, list[str]], places: Places, *, where: str, split: str | None
) -> None:
    """Take a question file; images are those of the captions, or COCO's by number, or named by the question file.

    A question without annotation has no answers.
    """
    file = checked(Questions, raw, where=where)
    subset = re.sub(r"^test-dev", "test", file.data_subtype)
    subset = subset if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", subset) else ""
    hints = [*([subset] if subset else []), *places.folders_like(("train", "val", "test"))]
    for asked in file.questions:
        path, own = records.paths.get(asked.image_id), None
        if path is None:
            own = split
            names = [str(asked.image_id)]
            if isinstance(asked.image_id, int):
                names = [f"COCO_{subset}_{asked.image_id:012d}.jpg", f"{asked.image_id:012d}.jpg"]
            path = records.paths[asked.image_id] = places.find(names[0], names=names[1:], hints=hints)
        question = Question(str(asked.question_id), asked.question, None, known.get(asked.question_id, []))
        records.add(path, split=own, questions=[question])
