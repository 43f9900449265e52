"""AAPE+ that looks at views: it is fitted on centre crops, and an image is judged by the mean of what is said of its
centre crop and of each of its views. Of the ways to weigh views that were tried none did better (`docs/aape-plus.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Task
from trainer.methods.aape_plus import AAPEPlus, AAPEPlusPredictor
from trainer.methods.base import Needs
from trainer.methods.common import SAW_VIEWS
from trainer.training import Info


@dataclass
class ViewedPredictor:
    """AAPE+ of one image, or the mean of its probabilities over the views of one."""

    inner: AAPEPlusPredictor
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """The prompts are needed one by one, and not only their mean."""
        return self.inner.attends

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of images of which there is the centre crop alone."""
        return self.inner.logits(images, text)

    @torch.no_grad()
    def view_logits(self, views: Float[Tensor, "B V D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Logarithms of the mean probabilities over all views, the centre crop among them."""
        every = self.inner.logits(views.flatten(0, 1), text).softmax(-1)
        mean: Tensor = every.view(*views.shape[:2], -1).mean(1)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


@dataclass(frozen=True)
class AAPEPlusViews:
    """`aape-plus`, judged by all views of an image where the store has some (`pipeline embed-images --views N`)."""

    name: str = "aape-plus-views"
    needs: Needs = "text"
    uses_prompts: bool = True
    serves_new_classes: bool = True
    reads_views: bool = True

    def fit(self, task: Task, *, seed: int) -> ViewedPredictor:
        """AAPE+ on the centre crops."""
        crops = replace(task, train=task.train.centre_crops(), val=task.val.centre_crops())
        found = AAPEPlus().fit(crops, seed=seed)
        assert isinstance(found, AAPEPlusPredictor)
        return ViewedPredictor(found, info=found.info | {"saw": SAW_VIEWS})
