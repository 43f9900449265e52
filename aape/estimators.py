"""The estimators by name: AAPE and its variants with the `train:` settings as arguments, and one for each other method.

The classes of the registry are generated, so a method that is added there is here as well: `gda` is `GDAClassifier`.
`classifier(name)` makes one without knowing what it is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from aape.base import Classifier, RandomState
from aape.saving import read
from stages.errors import nearest
from stages.training import TrainParams
from trainer.methods import FITS_ALONE, METHODS
from trainer.methods.aape import AAPE

WORDS = {
    "aape": "AAPE", "cupl": "CuPL", "gda": "GDA", "lp++": "LPPlusPlus", "taskres": "TaskRes", "h": "H",
    "ape": "APE", "timo": "TIMO", "clap": "CLAP", "awt": "AWT", "proker": "ProKeR",
    "cones": "ConES", "prograd": "ProGrad", "dapt": "DAPT", "lmpt": "LMPT",
}  # fmt: skip
"""Words of method names that are no plain word in a class name."""


class MethodClassifier(Classifier):
    """Any method by its name; see `Classifier` for what a fit takes and gives.

    Args:
        method: as in `trainer run --methods`.
        settings: the `train:` settings to change, for AAPE and its variants; the others have none.
        random_state: seed of start values, order and held-out images; an integer means what it means to `--seeds`.
        device: where to compute, such as `cuda`; None: the CPU.
    """

    def __init__(
        self,
        method: str = "aape-plus",
        *,
        settings: Mapping[str, Any] | None = None,
        random_state: RandomState = 1,
        device: str | None = None,
    ) -> None:
        self.method = method
        self.settings = settings
        self.random_state = random_state
        self.device = device

    @property
    def method_name(self) -> str:
        """As in `trainer run --methods`."""
        return self.method

    def _settings(self) -> dict[str, Any]:
        return dict(self.settings or {})

    @classmethod
    def _for(cls, method: str, arguments: Mapping[str, Any]) -> Self:
        known = inspect.signature(cls).parameters
        own = {key: value for key, value in arguments.items() if key in known}
        settings = {key: value for key, value in arguments.items() if key not in known}
        return cls(**{"method": method, **({"settings": settings} if settings else {}), **own})


class _OneMethod(Classifier):
    """A class that stands for one method."""

    _name: ClassVar[str]

    @property
    def method_name(self) -> str:
        """As in `trainer run --methods`."""
        return self._name

    @classmethod
    def _for(cls, method: str, arguments: Mapping[str, Any]) -> Self:
        if method != cls._name:
            reader = CLASSES[method].__name__ if method in CLASSES else "MethodClassifier"
            raise ValueError(
                f"the checkpoint is of method {method!r}, which {reader}.load reads, and aape.load as well."
            )
        known = inspect.signature(cls).parameters
        settings = {**arguments, **(arguments.get("settings") or {})}
        return cls(**{key: value for key, value in settings.items() if key in known})


class NamedClassifier(_OneMethod):
    """A method of the registry that has no settings; the name is the class's."""

    def __init__(self, *, random_state: RandomState = 1, device: str | None = None) -> None:
        self.random_state = random_state
        self.device = device


class AAPEClassifier(_OneMethod):
    """AAPE (Huang et al., NeurIPS 2024): h and g on the shots, with p^a of the reference prompts as target of h.

    The arguments are the `train:` settings; `stages.training.TrainParams` says what each means.

    Args:
        random_state: seed of start values, order and held-out images; an integer means what it means to `--seeds`.
        device: where to compute, such as `cuda`; None: the CPU.
    """

    _name = "aape"

    def __init__(
        self,
        *,
        random_state: RandomState = 1,
        device: str | None = None,
        lambda_: float = 5.0,
        tau: float | Literal["auto", "learnt"] = "auto",
        class_text: Literal["auto", "template", "prompts"] = "auto",
        lr: float | Literal["auto"] = "auto",
        lr_grid: tuple[float, ...] = (0.05, 0.2),
        generator_lr: float = 0.1,
        epochs: int | Literal["auto"] = "auto",
        max_steps: int = 500,
        batch: int = 32,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        head: Literal["residual", "literal", "full", "none"] = "residual",
        classwise: bool = False,
        chain: int = 1,
        align: float = 0.0,
        image: bool = True,
        hidden: int = 32,
        distill: Literal["squared", "cosine"] = "squared",
        distill_by: Literal["image", "class"] = "image",
        distill_prompts: Literal["own", "another", "random"] = "own",
        aggregator: Literal["attention", "mlp", "mean", "random"] = "attention",
        query: Literal["mean", "image", "mean+image"] = "mean",
        heads: int = 4,
        head_width: int = 64,
        feed_forward: int = 128,
        dropout: float = 0.0,
        reward_weight: float = 1.0,
        reward_scale: float = 2.5,
        aggregator_lr: float = 1e-3,
        aggregator_steps: int = 30,
        detach: bool = True,
    ) -> None:
        self.random_state = random_state
        self.device = device
        self.lambda_ = lambda_
        self.tau = tau
        self.class_text = class_text
        self.lr = lr
        self.lr_grid = lr_grid
        self.generator_lr = generator_lr
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch = batch
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.head = head
        self.classwise = classwise
        self.chain = chain
        self.align = align
        self.image = image
        self.hidden = hidden
        self.distill = distill
        self.distill_by = distill_by
        self.distill_prompts = distill_prompts
        self.aggregator = aggregator
        self.query = query
        self.heads = heads
        self.head_width = head_width
        self.feed_forward = feed_forward
        self.dropout = dropout
        self.reward_weight = reward_weight
        self.reward_scale = reward_scale
        self.aggregator_lr = aggregator_lr
        self.aggregator_steps = aggregator_steps
        self.detach = detach

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TrainParams.model_fields if name not in ("captions", "language")}


class AAPEPlusClassifier(NamedClassifier):
    """AAPE+ (this project's own): the image attends over each class's prompts, beside a ridge regression on the shots.

    Nothing is trained by descent, and there are no settings.

    Args:
        random_state: seed of the validation images that are drawn; an integer means what it means to `--seeds`.
        device: where to compute, such as `cuda`; None: the CPU.
    """

    _name = "aape-plus"


def class_name(method: str) -> str:
    """What the class of a method is called: `tip-adapter-f` is `TipAdapterFClassifier`."""
    words = method.removesuffix("-plus").split("-")
    named = "".join(WORDS.get(word, word.capitalize().replace("+", "Plus")) for word in words)
    return f"{named}{'Plus' * method.endswith('-plus')}Classifier"


def _generated() -> dict[str, type[Classifier]]:
    """A class for each method of the registry."""
    found: dict[str, type[Classifier]] = {"aape": AAPEClassifier, "aape-plus": AAPEPlusClassifier}
    for name, make in ((name, METHODS[name]) for name in FITS_ALONE):
        if name in found:
            continue
        method = make(TrainParams())
        base = AAPEClassifier if isinstance(method, AAPE) else NamedClassifier
        about = (type(method).__doc__ or "").strip()
        members = {"_name": name, "__doc__": f"`{name}`. {about}", "__module__": __name__}
        found[name] = type(class_name(name), (base,), members)
    return found


CLASSES = _generated()
"""Method name -> its estimator."""
globals().update({made.__name__: made for made in CLASSES.values()})


def classifier(name: str, **arguments: Any) -> Classifier:
    """An unfitted estimator of the method of this name.

    Args:
        name: as in `trainer run --methods`.
        arguments: of the estimator: `random_state`, `device`, and for AAPE and its variants the `train:` settings.

    Raises:
        ValueError: an unknown name; suggests the nearest.
    """
    if name not in CLASSES:
        raise ValueError(f"unknown method {name!r}; {nearest(name, list(FITS_ALONE))}")
    return CLASSES[name](**arguments)


def load(folder: str | Path, *, device: str | None = None) -> Classifier:
    """The estimator in a folder, of whatever method; also a checkpoint of `trainer run`.

    Raises:
        ValueError: no checkpoint, or not a whole one.
    """
    _, saved = read(Path(folder), device=device)
    made: type[Classifier] = CLASSES.get(saved.method, MethodClassifier)
    return made.load(folder, device=device)
