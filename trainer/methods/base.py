"""What a method is: fitted on a task, it gives a predictor. Nothing of a test split is in its reach."""

from __future__ import annotations

from typing import Literal, Protocol

from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Task


class Predictor(Protocol):
    """A fitted method.

    Attributes:
        history: one record an epoch or step, for plots; empty where nothing is iterated.
        info: what was chosen (`lr`, `tau`, ...), `n_parameters`, `fit_seconds`.
    """

    history: list[dict[str, float]]
    info: dict[str, float | str | int]

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of unit images for the classes of `text`; softmax gives probabilities.

        Raises:
            UserError: `text` holds other classes than the predictor can serve.
        """
        ...


Needs = Literal["images", "text", "prompts"]


class Method(Protocol):
    """A way to make a classifier.

    Attributes:
        name: as on the command line and in tables.
        needs: what it cannot be fitted without: images alone, text that names the classes, or reference prompts.
        uses_prompts: whether reference prompts change the result.
        serves_new_classes: whether a predictor can serve classes that it was not fitted on.

    True attributes that few have: `reads_views` looks at the augmented views of the images that it judges, through
    `view_logits` of its predictor, and is left out where the store has none; `reads_student` likewise at a second
    encoder's embeddings, through `student_logits` where it judges by them; `reads_unlabelled` learns from images
    without labels, which some protocols give, and with `waits` also from those that come when they are judged;
    `without_labels` can be fitted where no image has one. A predictor with `split_logits` scores all images of a split
    together.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Needs: ...

    @property
    def uses_prompts(self) -> bool: ...

    @property
    def serves_new_classes(self) -> bool: ...

    def fit(self, task: Task, *, seed: int) -> Predictor:
        """Fit on the task's shots; the same seed gives the same predictor.

        Raises:
            UserError: the task is not one that can be learned (see `trainer.data.check_task`).
        """
        ...
