"""Visual question answering (protocol 7): `[image] Q: question A:`, with K examples before it, by VQA2's accuracy.

What is fitted is captioning's: no answer is learned from. K training questions with their images stand before each test
question, drawn by seed. Beside the rows of captioning the language model answers without an image.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trainer.data.captions import CaptionFeatures
from trainer.language.methods import VQA_METHODS, registry
from trainer.language.places import language_of, spoken_by
from trainer.language.questions import Asking, Questions, answers, choose_answers, prompts_of, read_questions
from trainer.language.vqa import ANSWER_TYPES, answer_type, normalised, question_type, usual_answer, vqa_accuracy
from trainer.methods import Registry
from trainer.protocols.base import Reads, Score, Sheet, TestSplits, mean
from trainer.protocols.captioning import SMALL, Captioning

FILE, TYPES = "answers.csv", "question_types.csv"
"""What each method answers to each test question, and its accuracy by type of question."""


@dataclass(frozen=True)
class VQA(Captioning):
    """VQA accuracy, by type of answer, and of the likeliest choice where there are choices."""

    name: ClassVar[str] = "vqa"
    headline: ClassVar[tuple[str, ...]] = ("vqa_accuracy",)
    reads: ClassVar[Reads] = "questions"
    by_shots: ClassVar[bool] = True
    without_shots: ClassVar[bool] = True

    @classmethod
    def registry(cls) -> Registry:
        """The rows of captioning, and the language model alone."""
        return registry(VQA_METHODS)

    @property
    def title(self) -> str:
        """Name and shots, and where else something was learned."""
        elsewhere = f", also learnt on {', '.join(self.places)}" if self.places else ""
        return f"{self.name}, {self.shots} examples in context{elsewhere}"

    def unfit(self, features: CaptionFeatures) -> str | None:
        """No training questions for the examples, or no training captions."""
        there = len(read_questions(features, "train"))
        if self.shots != "all" and there < self.shots:
            return (
                f"{self.shots} examples in context are asked for and {there} training questions have answers: lower "
                f"--shots to {there}" + ("" if there else ", or put images with questions into the split train")
            )
        return super().unfit(features)

    def caveats(self, features: CaptionFeatures) -> list[str]:
        """Lines on what is learned and how."""
        left = read_questions(features, "train").unanswered
        lines = [f"{features.dataset}: {left} training questions have no answer and are no examples"] if left else []
        return [*super().caveats(features), *lines]

    def score(
        self, predictor: Any, features: CaptionFeatures, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Answers to the test questions."""
        test, train = read_questions(features, "test"), read_questions(features, "train")
        if not len(test):
            return Score({"vqa_accuracy": mean([])})
        asking = Asking(language_of(predictor, features.device), predictor)
        prompts = prompts_of(
            asking, test, train, shots=len(train) if self.shots == "all" else self.shots, seed=predictor.seed
        )
        said = answers(asking, test, prompts, what=f"answers to {features.dataset}")
        chosen = choose_answers(asking, test, prompts, what=f"choices of {features.dataset}")
        return replace(_score(test, said, chosen), notes=spoken_by(predictor))

    def remarks(self, features: CaptionFeatures, tests: TestSplits) -> list[str]:
        """How much the test questions can tell, and which were left out."""
        test = read_questions(features, "test")
        lines = []
        if 0 < len(test) < SMALL:
            margin = 196 * (0.25 / len(test)) ** 0.5
            lines.append(
                f"{features.dataset}: {len(test)} questions are judged: a share of 50 % of so few is known to "
                f"± {margin:.0f} points, which the intervals over seeds do not show"
            )
        if test.unanswered:
            lines.append(f"{features.dataset}: {test.unanswered} test questions have no answer and are not judged")
        few = sum(len(asked.answers) < 4 for asked in test.asked)
        if few:
            lines.append(
                f"{features.dataset}: {few} test questions have fewer than 4 answers: VQA accuracy, which leaves one "
                "out and wants three that agree, cannot reach 1 there; exact_match counts the usual answer alone"
            )
        if any(asked.choices for asked in test.asked):
            lines.append(
                f"{features.dataset}: choice_accuracy is the VQA accuracy of the likeliest choice: the manifest does "
                "not say which choice counts as right"
            )
        return lines


def _score(test: Questions, said: Sequence[str], chosen: Sequence[str | None]) -> Score:
    """Means over the questions, over those of each type of answer, and lines on each question."""
    values = [vqa_accuracy(answer, asked.answers) for answer, asked in zip(said, test.asked, strict=True)]
    kinds = [answer_type(asked.answers) for asked in test.asked]
    usual = [usual_answer(asked.answers) for asked in test.asked]
    exact = [normalised(a) == normalised(b) for a, b in zip(said, usual, strict=True)]
    picked = [
        None if choice is None else vqa_accuracy(choice, asked.answers)
        for choice, asked in zip(chosen, test.asked, strict=True)
    ]
    metrics = {"vqa_accuracy": mean(values), "exact_match": mean([float(each) for each in exact])}
    for kind in ANSWER_TYPES:
        some = [value for value, found in zip(values, kinds, strict=True) if found == kind]
        if some:
            metrics[f"vqa_{kind.replace('/', '_')}"] = mean(some)
    choices = [value for value in picked if value is not None]
    if choices:
        metrics["choice_accuracy"] = mean(choices)
    rows = [
        (
            asked.image_id, asked.question_id, asked.question, question_type(asked.question), kind, answer, most, value,
            choice, choice_value,
        )
        for asked, kind, answer, most, value, choice, choice_value in zip(
            test.asked, kinds, said, usual, values, chosen, picked, strict=True
        )
    ]  # fmt: skip
    columns = (
        "image_id", "question_id", "question", "question_type", "answer_type", "answer", "usual_answer", "accuracy",
        "choice", "choice_accuracy",
    )  # fmt: skip
    by_type = Sheet(("question_type", "questions", "accuracy"), list(_by_type(test, values)))
    return Score(metrics, sheets={FILE: Sheet(columns, rows), TYPES: by_type})


def _by_type(test: Questions, values: Sequence[float]) -> Iterator[tuple[str, int, float]]:
    """Type of question, how many there are, and their accuracy."""
    found: dict[str, list[float]] = defaultdict(list)
    for asked, value in zip(test.asked, values, strict=True):
        found[question_type(asked.question)].append(value)
    for kind in sorted(found):
        yield kind, len(found[kind]), round(mean(found[kind]), 6)
