"""Questions about images: read from the manifest, put to a language model, answered in words or by likelihood."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages import ManifestStore
from stages.command import progress
from stages.errors import UserError
from trainer.data.captions import CaptionFeatures
from trainer.data.pairs import Stored
from trainer.language.model import LanguageModel
from trainer.language.vqa import usual_answer


@dataclass(frozen=True)
class Asked:
    """A question about an image.

    Attributes:
        answers: of people; () where there are none.
        choices: to choose among; () for an open question.
    """

    image_id: str
    question_id: str
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Questions:
    """Questions with the vectors of their images.

    Attributes:
        asked: those that have answers.
        x: the image of each, unit rows.
        unanswered: how many were left out, since nobody answered them.
    """

    asked: tuple[Asked, ...]
    x: Float[Tensor, "questions D"]
    unanswered: int = 0

    def __len__(self) -> int:
        return len(self.asked)


def read_questions(features: CaptionFeatures, split: str) -> Questions:
    """The questions of a split whose images have an embedding, in the manifest's order."""
    source = features.rows
    manifest = ManifestStore(source.images.cache, features.dataset)
    rows = manifest.read(["image_id", "questions"], where={"split": [split]}).to_pylist()
    place = {image_id: i for i, image_id in enumerate(source.image_ids.tolist())}
    every = [
        (place[row["image_id"]], Asked(
            row["image_id"], each["question_id"], " ".join(each["question"].split()),
            tuple(answer for answer in each["answers"] or () if answer.strip()), tuple(each["choices"] or ()),
        ))
        for row in rows if row["image_id"] in place for each in row["questions"] or ()
    ]  # fmt: skip
    answered = [pair for pair in every if pair[1].answers]
    index = source.image_rows[np.array([i for i, _ in answered], dtype=np.int64)]
    x = Stored(source.images, index, features.device).all()
    return Questions(tuple(asked for _, asked in answered), x, len(every) - len(answered))


def draw_examples(questions: Questions, asked: Asked, shots: int, *, seed: int) -> list[int]:
    """Which questions stand before this one as examples: drawn by seed and question, so that no other one matters."""
    digest = hashlib.sha256(asked.question_id.encode()).digest()
    order = np.random.default_rng([seed, int.from_bytes(digest[:4], "big")]).permutation(len(questions))
    return [int(i) for i in order[:shots]]


class Asking:
    """Makes prompts: `[image] Q: question A: answer` a line for each example, then `[image] Q: question A:`.

    Args:
        predictor: what makes the prefix of an image.
    """

    def __init__(self, language: LanguageModel, predictor: Any) -> None:
        self.language, self.predictor = language, predictor
        self._start = self._words(language.start)

    def prompt(
        self, x: Float[Tensor, " D"], question: str, examples: Sequence[tuple[Float[Tensor, " D"], str, str]] = ()
    ) -> Float[Tensor, "tokens entries"]:
        """The input embeddings of a prompt.

        Args:
            examples: image, question and answer of each.

        Raises:
            UserError: it is longer than the model's context.
        """
        images = self.predictor.prefix(torch.stack([*(each for each, _, _ in examples), x]))
        texts = [f"Q: {asked} A: {answer}\n" for _, asked, answer in examples]
        parts = [self._start]
        for image, text in zip(images, [*texts, f"Q: {question} A:"], strict=True):
            parts += [image.to(self._start.dtype), self._words(self.language.tokens(text))]
        found = torch.cat(parts)
        room = self.predictor.settings.answer_tokens
        self.language.require_context(len(found) + room, what=f"the question {question!r:.60} with its examples")
        return found

    def _words(self, tokens: Sequence[int]) -> Float[Tensor, "tokens entries"]:
        return self.language.embed(torch.tensor(tokens, dtype=torch.long))


def prompts_of(
    asking: Asking, test: Questions, train: Questions, *, shots: int, seed: int
) -> list[Float[Tensor, "tokens entries"]]:
    """The prompt of every test question, each with examples of its own from the training questions.

    Raises:
        UserError: a prompt is longer than the model's context.
    """
    found = []
    for i, asked in enumerate(test.asked):
        drawn = draw_examples(train, asked, shots, seed=seed)
        examples = [(train.x[j], train.asked[j].question, usual_answer(train.asked[j].answers)) for j in drawn]
        found.append(asking.prompt(test.x[i], asked.question, examples))
    return found


def answers(
    asking: Asking, test: Questions, prompts: Sequence[Float[Tensor, "tokens entries"]], *, what: str
) -> list[str]:
    """What the model answers, cut at the tokens of the longest answer that people gave to the same question.

    In lower case and without a last dot, as people's answers are; nothing else is changed.
    """
    language, settings = asking.language, asking.predictor.settings
    longest = [max(len(language.tokens(f" {each}")) for each in asked.answers) for asked in test.asked]
    most = min(settings.answer_tokens, max(longest, default=1))
    said = language.generate(prompts, most=most, beams=settings.beams, batch=settings.decode_batch, what=what)
    return [plain(language.text(tokens[:cut])) for tokens, cut in zip(said, longest, strict=True)]


def plain(answer: str) -> str:
    """An answer in lower case, without a last dot."""
    return answer.lower().strip().removesuffix(".")


def choose_answers(
    asking: Asking, test: Questions, prompts: Sequence[Float[Tensor, "tokens entries"]], *, what: str
) -> list[str | None]:
    """The likeliest choice of each question by the mean log-likelihood of its tokens; None for an open question."""
    found: list[str | None] = []
    language = asking.language
    both = zip(test.asked, prompts, strict=True)
    for asked, prompt in progress(both, what=what, total=len(prompts), unit="question"):
        if not asked.choices:
            found.append(None)
            continue
        likely = language.likelihoods(prompt, [language.tokens(f" {choice}") for choice in asked.choices])
        found.append(asked.choices[int(likely.argmax())])
    return found


def require_examples(train: Questions, shots: int, *, dataset: str) -> None:
    """Refuse more examples than there are.

    Raises:
        UserError: says how many there are.
    """
    if shots > len(train):
        raise UserError(
            f"{dataset}: {shots} examples in context asked, and {len(train)} training questions have answers: lower "
            f"--shots to {len(train)}"
        )
