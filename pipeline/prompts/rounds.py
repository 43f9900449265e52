"""What is asked in which round: every class the same at first, then the classes that have too few kept sentences.

A question of which most answers were dropped makes room for a spare one. All of it follows from the class list, the
questions and the answers so far, so that a killed run, or a repeated one, asks the same again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.prompts.engines import Request
from pipeline.prompts.questions import QuestionTemplate, fill

Rows = Sequence[Mapping[str, Any]]
JUDGED_FROM = 10
"""Answers to a question from which on it is judged."""
MOSTLY = 0.5
"""Share of a question's answers that are dropped from which on it fails, fraction."""


@dataclass(frozen=True, kw_only=True)
class ClassRequest:
    """One question template about one class, to be answered `n` times: the samples `first`, `first` + 1, ..."""

    class_id: int
    class_name: str
    template: QuestionTemplate
    first: int
    n: int
    others: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The question as it is asked."""
        return fill(self.template.text, self.class_name, self.others)

    def as_request(self, seed: int) -> Request:
        """What an engine is asked; its own seed depends on class, question and sample, never on order or number."""
        text = "\0".join(map(str, (seed, self.class_name, self.template.question_id, self.first)))
        own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF
        return Request(question=self.question, seed=own, n=self.n)


def first_round(
    names: Mapping[int, str],
    templates: Sequence[QuestionTemplate],
    samples: int,
    nearest: Mapping[int, Sequence[str]] | None = None,
) -> list[ClassRequest]:
    """Every question about every class, `samples` times.

    Args:
        nearest: class_id -> the other classes that a question may name.
    """
    return [
        ClassRequest(
            class_id=class_id, class_name=name, template=template, first=0, n=samples,
            others=tuple((nearest or {}).get(class_id, ())),
        )
        for class_id, name in names.items()
        for template in templates
    ]  # fmt: skip


def lacking(rows: Iterable[Mapping[str, Any]], names: Mapping[int, str], wanted: int) -> dict[int, str]:
    """The classes with fewer than `wanted` kept sentences, of those in `names`."""
    kept = Counter(row["class_id"] for row in rows if row["drop_reason"] is None)
    return {class_id: name for class_id, name in names.items() if kept[class_id] < wanted}


def next_round(
    rows: Rows,
    names: Mapping[int, str],
    templates: Sequence[QuestionTemplate],
    wanted: int,
    *,
    most: int | None = None,
    nearest: Mapping[int, Sequence[str]] | None = None,
) -> list[ClassRequest]:
    """What is missing from classes with fewer than `wanted` kept sentences, spread over the questions.

    Args:
        rows: all answers so far (`class_id`, `question_id`, `drop_reason`).
        names: the classes to look at.
        most: answers that a question is asked for, at most.
        nearest: as `first_round` has it.
    """
    kept = Counter(row["class_id"] for row in rows if row["drop_reason"] is None)
    asked = Counter((row["class_id"], row["question_id"]) for row in rows)
    found = []
    for class_id, name in names.items():
        missing = max(0, wanted - kept[class_id])
        for position, template in enumerate(templates):
            n = missing // len(templates) + (position < missing % len(templates))
            if n:
                first = asked[class_id, template.question_id]
                found.append(
                    ClassRequest(
                        class_id=class_id, class_name=name, template=template, first=first, n=min(n, most or n),
                        others=tuple((nearest or {}).get(class_id, ())),
                    )
                )  # fmt: skip
    return found


def failing(rows: Rows, *, sound: Iterable[str] = ()) -> dict[str, tuple[int, int]]:
    """The questions of which most answers were dropped: question_id -> (dropped, answers).

    Args:
        sound: drop reasons that say nothing against the question.
    """
    answers = Counter(row["question_id"] for row in rows)
    good = {None, *sound}
    dropped = Counter(row["question_id"] for row in rows if row["drop_reason"] not in good)
    return {name: (dropped[name], n) for name, n in answers.items() if n >= JUDGED_FROM and dropped[name] > MOSTLY * n}


def in_use(
    asked: Sequence[QuestionTemplate], spare: Sequence[QuestionTemplate], failed: Iterable[str]
) -> dict[str, QuestionTemplate]:
    """The questions that are asked from now on, by the id of the one whose place each has.

    A question that failed makes room for the next spare one that did not; it stays where there is none left.
    """
    failed = set(failed)
    rest = iter([template for template in spare if template.question_id not in failed])
    return {
        template.question_id: next(rest, template) if template.question_id in failed else template for template in asked
    }


def batches(requests: Sequence[ClassRequest], answers: int) -> Iterator[list[ClassRequest]]:
    """Cut into batches of at most `answers` answers each; a question asked more often than that is a batch alone."""
    batch: list[ClassRequest] = []
    for request in requests:
        if batch and sum(each.n for each in batch) + request.n > answers:
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
