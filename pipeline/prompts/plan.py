"""The order in which a data set is asked: descriptions, spare questions for those that fail, contrasts, topping up.

Everything follows from the answers so far, which grow between two steps: a killed run goes through the same steps.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.prompts.clean import SURPLUS
from pipeline.prompts.questions import Questions, QuestionTemplate
from pipeline.prompts.rounds import ClassRequest, failing, first_round, in_use, lacking, next_round
from pipeline.prompts.summary import reasons
from stages import display_name
from stages.command import say

Row = dict[str, Any]
Step = tuple[str, list[ClassRequest]]
"""What a step is called, and what is asked in it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a data set is asked, and until when.

    Attributes:
        names: class_id -> class name.
        samples: answers to a question about a class.
        rounds: times a class with too few kept sentences is asked, at most.
        keep: sentences that a class keeps in the end; None: all.
        nearest: class_id -> the classes that it is asked to be told from; None: no second round.
    """

    dataset: str
    names: Mapping[int, str]
    questions: Questions
    samples: int
    rounds: int
    keep: int | None = None
    nearest: Mapping[int, Sequence[str]] | None = None

    @property
    def contrast(self) -> tuple[QuestionTemplate, ...]:
        """The question of the second round; none where there is no such round."""
        return self.questions.contrast[:1] if self.nearest is not None else ()

    @property
    def templates(self) -> tuple[QuestionTemplate, ...]:
        """Every question that may be asked."""
        contrast = self.questions.contrast if self.contrast else ()
        return (*self.questions.asked, *self.questions.spare, *contrast)

    @property
    def asked(self) -> int:
        """Answers about a class, topping up not counted."""
        return self.samples * (len(self.questions.asked) + len(self.contrast))

    @property
    def wanted(self) -> int:
        """Kept sentences that a class should have."""
        return min(self.asked, self.keep or self.asked)

    def in_use(self, rows: Sequence[Row]) -> list[QuestionTemplate]:
        """The questions that are asked from now on, those that failed replaced as far as there are others."""
        failed = failing(rows, sound=SURPLUS)
        described = in_use(self.questions.asked, self.questions.spare, failed)
        told_apart = in_use(self.contrast, self.questions.contrast[1:], failed)
        return [*described.values(), *told_apart.values()]

    def steps(self, rows: Sequence[Row], classes: Mapping[int, str], is_over: Callable[[], bool]) -> Iterator[Step]:
        """What to ask, one step after the other.

        Args:
            rows: the answers so far, cleaned; they have grown when the next step is taken.
            classes: those that are topped up.
            is_over: whether classes that have nothing after all rounds are left alone.
        """
        done = 0
        if not rows:
            done = 1
            yield "round 1", first_round(self.names, self.questions.asked, self.samples)
            described = self.samples * len(self.questions.asked)
            yield from self._replacing(rows, self.questions.asked, self.questions.spare, described)
            if self.contrast:
                yield "nearest classes", first_round(self.names, self.contrast, self.samples, self.nearest)
                yield from self._replacing(rows, self.contrast, self.questions.contrast[1:], self.asked)
        for number in range(done + 1, self.rounds + 1):
            if requests := self._topping_up(rows, classes):
                yield f"round {number}", requests
        number = self.rounds
        while not is_over() and (requests := self._topping_up(rows, lacking(rows, classes, 1))):
            number += 1
            yield f"round {number}", requests

    def once_more(self, rows: Sequence[Row], class_ids: Sequence[int]) -> list[ClassRequest]:
        """Every question in use about these classes, `samples` times more."""
        asked = Counter((row["class_id"], row["question_id"]) for row in rows)
        again = first_round(
            {class_id: self.names[class_id] for class_id in class_ids}, self.in_use(rows), self.samples, self.nearest
        )
        return [replace(each, first=asked[each.class_id, each.template.question_id]) for each in again]

    def _topping_up(self, rows: Sequence[Row], classes: Mapping[int, str]) -> list[ClassRequest]:
        return next_round(rows, classes, self.in_use(rows), self.wanted, nearest=self.nearest)

    def _replacing(
        self,
        rows: Sequence[Row],
        asked: Sequence[QuestionTemplate],
        spare: Sequence[QuestionTemplate],
        wanted: int,
    ) -> Iterator[Step]:
        """Spare questions in the place of those that mostly failed, about classes with fewer sentences than wanted."""
        known = {row["question_id"] for row in rows}
        while True:
            failed = failing(rows, sound=SURPLUS)
            new = {old: each for old, each in in_use(asked, spare, failed).items() if each.question_id not in known}
            requests = next_round(
                rows, self.names, list(new.values()), wanted, most=self.samples, nearest=self.nearest
            ) if new else []  # fmt: skip
            if not requests:
                return
            for old, each in new.items():
                self._tell(old, each, rows, failed)
            known |= {each.question_id for each in new.values()}
            yield "spare questions", requests

    def _tell(
        self, old: str, new: QuestionTemplate, rows: Sequence[Row], failed: Mapping[str, tuple[int, int]]
    ) -> None:
        texts = {template.question_id: template.text for template in self.questions.all}
        dropped, answers = failed[old]
        why = reasons([row for row in rows if row["question_id"] == old])
        say(
            f"{self.dataset}: {dropped} of {answers} answers to {old} {display_name(texts[old])!r} were dropped "
            f"({why}): {new.question_id} {display_name(new.text)!r} takes its place"
        )
