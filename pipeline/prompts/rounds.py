"""What is asked in which round: every class the same at first, then the classes that have too few kept sentences.

Pure functions of the class list, the questions and the answers so far, so that a killed run, or a repeated one, asks
the same again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.prompts.engines import Request
from pipeline.prompts.questions import QuestionTemplate, fill


@dataclass(frozen=True, kw_only=True)
class ClassRequest:
    """One question template about one class, to be answered `n` times: the samples `first`, `first` + 1, ..."""

    class_id: int
    class_name: str
    template: QuestionTemplate
    first: int
    n: int

    def as_request(self, seed: int) -> Request:
        """What an engine is asked; its own seed depends on class, question and sample, never on order or number."""
        text = "\0".join(map(str, (seed, self.class_name, self.template.question_id, self.first)))
        own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF
        return Request(question=fill(self.template.text, self.class_name), seed=own, n=self.n)


def first_round(names: Mapping[int, str], templates: Sequence[QuestionTemplate], samples: int) -> list[ClassRequest]:
    """Every question about every class, `samples` times."""
    return [
        ClassRequest(class_id=class_id, class_name=name, template=template, first=0, n=samples)
        for class_id, name in names.items()
        for template in templates
    ]


def lacking(rows: Iterable[Mapping[str, Any]], names: Mapping[int, str], wanted: int) -> dict[int, str]:
    """The classes with fewer than `wanted` kept sentences, of those in `names`."""
    kept = Counter(row["class_id"] for row in rows if row["drop_reason"] is None)
    return {class_id: name for class_id, name in names.items() if kept[class_id] < wanted}


def next_round(
    rows: Sequence[Mapping[str, Any]], names: Mapping[int, str], templates: Sequence[QuestionTemplate], wanted: int
) -> list[ClassRequest]:
    """What is missing from classes with fewer than `wanted` kept sentences, spread over their questions.

    Args:
        rows: all answers so far (`class_id`, `question_id`, `drop_reason`).
        names: the classes to look at.
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
                found.append(ClassRequest(class_id=class_id, class_name=name, template=template, first=first, n=n))
    return found


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
