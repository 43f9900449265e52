"""Every method of the registry as a scikit-learn classifier over embeddings.

Cosines are compared, so rows of any length are taken and normalised. Labels may be anything that scikit-learn takes;
`classes_` holds them sorted. A fit runs on one thread, as in `trainer run`, and the same `random_state` gives the same
bytes. Beside `fit(X, y)` a method reads class text, and validation images for its choices where there are some.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from aape.arrays import DTYPES, ArrayLike, as_array, one_thread, plain_errors, unit_rows
from aape.classes import Classes
from aape.saving import UNKNOWN, described, read, save
from stages.device import pick_device
from stages.errors import nearest
from stages.training import TrainParams
from trainer.confidence import Calibration, unseen
from trainer.data import ClassText, Images, Task
from trainer.methods import FITS_ALONE, Method, Predictor, methods
from trainer.packing import canonical

PROTOTYPES = "image prototypes"
IMAGES_ALONE = ("nearest-centroid", "logistic", "aape-plus-no-text")
"""Methods whose result does not depend on class text."""
TILE = 4096
"""Images scored at once."""
RandomState = int | np.random.RandomState | None


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What all estimators share; made by its subclasses.

    Attributes:
        classes_: the labels of y, sorted.
        n_features_in_: D.
        text_source_: where class text came from: `templates`, `prompts`, `templates and prompts`, `image prototypes`.
        info_: what was chosen (`lr`, `tau`, ...), on which images (`selection`), and what it cost.
        seed_: the integer that `random_state` stood for.
        text_: the fitted classes as the trainer's tensors.
        predictor_: the fitted method.
        calibration_: temperature of the probabilities, fitted on X_val; None where there was no X_val of every class.
    """

    device: str | None
    random_state: RandomState
    seed_: int
    text_source_: str
    info_: dict[str, float | str | int]
    classes_: Shaped[np.ndarray, " C"]
    n_features_in_: int
    text_: ClassText
    predictor_: Predictor
    calibration_: Calibration | None

    @property
    def method_name(self) -> str:
        """As in `trainer run --methods`."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """The `train:` settings to change."""
        return {}

    def _method(self) -> Method:
        return make_method(self.method_name, self._settings())

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        templates: ArrayLike | None = None,
        prompts: Sequence[ArrayLike] | ArrayLike | None = None,
        text: Classes | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Learn from images and class text.

        Args:
            X: (B, D) image embeddings of any length, NumPy or torch.
            y: (B,) labels: numbers or strings.
            class_names: C names. With integer labels the position is the label, with strings the names are the labels;
                for anything else a mapping label -> name. None: the labels are the names, and text stands in the order
                of the sorted labels.
            templates: (C, D) or (C, T, D) embeddings of "a photo of a {class}", in the order of the names.
            prompts: C arrays (N_c, D) of reference prompts, as many a class as there are, or one array (C, N, D).
            text: names, templates and prompts in one.
            X_val: (V, D) images to make choices on, no part of X; without them a part of X is held out.
            y_val: (V,) their labels, all of them labels of y.

        Raises:
            ValueError: what scikit-learn refuses, zero vectors, one class, a class without a name or without prompts
                beside others that have some, text of another width or for another number of classes.
        """
        method = self._method()
        rows, labels = validate_data(self, as_array(X), as_array(y), dtype=DTYPES)
        check_classification_targets(labels)
        images = unit_rows(rows, name="X")
        self.classes_, labels = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes, but the data contains only one class: "
                f"{self.classes_.tolist()[0]!r}."
            )
        self.seed_, device = self._seed(), self._device()
        train = Images(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
        val = self._validation(X_val, y_val, like=train)
        if text is None:
            text = self._named(class_names, templates, prompts)
        elif any(value is not None for value in (class_names, templates, prompts)):
            raise ValueError("text holds names, templates and prompts: give either text or these.")
        with plain_errors(), one_thread():
            self.text_ = self._class_text(text, train, method)
            task = Task(self.text_, train, val)
            self.predictor_ = canonical(method.fit(task, seed=self.seed_))
            self.calibration_ = self._calibration(task)
        self.info_ = dict(self.predictor_.info) | {"temperature": self._temperature}
        return self

    def decision_function(self, X: ArrayLike, *, text: Classes | None = None) -> Float[np.ndarray, "B ..."]:
        """Scores whose softmax gives the probabilities: (B, C), or for two classes (B,), above 0 for the second."""
        scores = self._logits(X, text)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: ArrayLike, *, text: Classes | None = None) -> Float[np.ndarray, "B C"]:
        """Probabilities (B, C) in the order of `classes_`, or of the names of `text`.

        Calibrated where `fit` was given X_val, and those of a checkpoint of `trainer run`.
        """
        scores = self._logits(X, text)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def predict(self, X: ArrayLike, *, text: Classes | None = None) -> Shaped[np.ndarray, " B"]:
        """The likeliest label of each image, a NumPy array.

        Args:
            X: (B, D) image embeddings.
            text: choose among these classes instead, fitted ones (known by name), new ones, or both; gives their names,
                or their labels where it was made with a mapping.

        Raises:
            ValueError: not fitted, input that cannot be used, or a method that knows only the classes of `y`.
        """
        found = self._logits(X, text).argmax(axis=1)
        labels = self.classes_ if text is None else np.array(text.labels or text.names)
        return np.asarray(labels[found])

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy."""
        return float(super().score(X, as_array(y), as_array(sample_weight)))

    def save(self, folder: str | Path, *, encoder: str | None = None, encoder_fingerprint: str | None = None) -> Self:
        """Write a checkpoint, which `load` reads, and with an encoder named also `trainer predict`.

        Args:
            folder: made where it is missing; an older checkpoint is replaced.
            encoder: whose embeddings these are, as in the stores' footers.
            encoder_fingerprint: hash of its weights, likewise.

        Raises:
            ValueError: not fitted, or a folder that cannot be written.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        saved = described(
            self.classes_,
            method=self.method_name,
            arguments={**self._arguments(), "random_state": self.seed_},
            text_source=self.text_source_,
            feature_names=None if names is None else [str(name) for name in names],
        )
        provenance = {
            "encoder": encoder or UNKNOWN,
            "encoder_fingerprint": encoder_fingerprint or UNKNOWN,
            "width": self.n_features_in_,
            "seed": self.seed_,
        }
        save(Path(folder), self.predictor_, self.text_, saved, provenance=provenance, calibration=self.calibration_)
        return self

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> Self:
        """A fitted estimator from its checkpoint, or from one of `trainer run`, whose labels are the class names.

        Raises:
            ValueError: no checkpoint, not a whole one, or one of another method (`aape.load` takes any).
        """
        checkpoint, saved = read(Path(folder), device=device)
        made = cls._for(saved.method, {**saved.arguments, "device": device})
        made.classes_, made.text_source_ = saved.classes(), saved.text_source
        made.n_features_in_ = int(checkpoint.provenance["width"])
        made.seed_ = int(saved.arguments.get("random_state", checkpoint.provenance.get("seed", 1)))
        if saved.feature_names is not None:
            made.feature_names_in_ = np.array(saved.feature_names, dtype=object)
        made.text_, made.predictor_ = checkpoint.text, checkpoint.predictor
        made.calibration_ = checkpoint.calibration
        made.info_ = dict(checkpoint.predictor.info) | {"temperature": checkpoint.temperature}
        return made

    @classmethod
    def _for(cls, method: str, arguments: Mapping[str, Any]) -> Self:
        """An unfitted estimator of a method.

        Raises:
            ValueError: this class is of another method.
        """
        raise NotImplementedError

    def _arguments(self) -> dict[str, Any]:
        """The arguments that differ from the defaults, but for the device."""
        default = type(self)().get_params(deep=False)
        given = {name: plain(value) for name, value in self.get_params(deep=False).items() if name != "device"}
        return {name: value for name, value in given.items() if value != plain(default[name])}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "predictor_")  # scikit-learn would take `lambda_`, an argument, for a fitted attribute

    def _device(self) -> torch.device:
        with plain_errors():
            return pick_device(self.device or "cpu")

    def _seed(self) -> int:
        """An integer stays what it is, so that it means what it means to `trainer run --seeds`."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _validation(self, X_val: ArrayLike | None, y_val: ArrayLike | None, *, like: Images) -> Images:
        if X_val is None and y_val is None:
            return like.take(torch.arange(0, device=like.labels.device))
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val belong together: one of them is missing.")
        rows, labels = validate_data(self, as_array(X_val), as_array(y_val), dtype=DTYPES, reset=False)
        known = np.isin(labels, self.classes_)
        if not known.all():
            raise ValueError(f"y_val holds class {labels[~known].tolist()[0]!r}, which y does not.")
        device = like.labels.device
        embeddings = torch.from_numpy(unit_rows(rows, name="X_val")).to(device)
        return Images(embeddings, torch.from_numpy(np.searchsorted(self.classes_, labels)).to(device))

    def _named(
        self,
        class_names: Sequence[str] | Mapping[Any, str] | None,
        templates: ArrayLike | None,
        prompts: Sequence[ArrayLike] | ArrayLike | None,
    ) -> Classes:
        if class_names is None:
            class_names = {label: str(label) for label in self.classes_.tolist()}
        return Classes(class_names, templates, prompts)

    def _class_text(self, classes: Classes, train: Images, method: Method) -> ClassText:
        """Text of the classes of y, in the order of `classes_`."""
        rows = self._rows(classes)
        if classes.width not in (None, self.n_features_in_):
            raise ValueError(
                f"X has {self.n_features_in_} features, but {classes.source} have {classes.width}: all must come from "
                "the same encoder."
            )
        unused = len(classes.names) - len(rows)
        if unused:
            first = next(each for i, each in enumerate(classes.names) if i not in rows)
            warnings.warn(
                f"{unused} of {len(classes.names)} named classes have no sample in y and are left out of the fit "
                f"(first: {first!r}).",
                UserWarning,
                stacklevel=3,
            )
        self.text_source_ = classes.source or PROTOTYPES
        if classes.source:
            text = classes.tensors(train.labels.device).select(rows)
            return self._by_template(text) if text.prompts is None and _needs_prompts(method) else text
        if method.needs != "images":
            warnings.warn(
                f"{type(self).__name__} was given no class text: the mean image of each class stands in for it "
                f"(text_source_ = {PROTOTYPES!r}). Give fit templates= or prompts=, embedded by the same encoder.",
                UserWarning,
                stacklevel=3,
            )
        sums = train.embeddings.new_zeros(len(rows), self.n_features_in_)
        template = normalize(sums.index_add_(0, train.labels, train.embeddings), dim=-1)
        text = ClassText(tuple(classes.names[row] for row in rows), template, is_text=method.needs != "images")
        return text.named_by_template() if _needs_prompts(method) else text

    def _rows(self, classes: Classes) -> list[int]:
        """Where the text of each class of y stands."""
        if classes.labels is not None:
            position = {label: i for i, label in enumerate(classes.labels)}
        elif self.classes_.dtype.kind in "iu":
            position = dict(enumerate(range(len(classes.names))))
        else:
            position = {name: i for i, name in enumerate(classes.names)}
        found = [position.get(label) for label in self.classes_.tolist()]
        missing = [label for label, row in zip(self.classes_.tolist(), found, strict=True) if row is None]
        if missing:
            known = list(position)
            raise ValueError(
                f"{len(missing)} classes of y have no name (first: {missing[0]!r}); class_names has {len(known)}, for "
                f"the labels {known[0]!r} to {known[-1]!r}. For other labels give a mapping label -> name."
            )
        return [row for row in found if row is not None]

    def _by_template(self, text: ClassText) -> ClassText:
        warnings.warn(
            f"{type(self).__name__} reads reference prompts and was given none: the template of each class stands in.",
            UserWarning,
            stacklevel=4,
        )
        return text.named_by_template()

    def _logits(self, X: ArrayLike, text: Classes | None) -> Float[np.ndarray, "B C"]:
        check_is_fitted(self)
        rows = unit_rows(validate_data(self, as_array(X), dtype=DTYPES, reset=False), name="X")
        served = self.text_ if text is None else self._other(text)
        device = served.template.device
        found: list[Tensor] = []
        with plain_errors(), torch.no_grad():
            for start in range(0, len(rows), TILE):
                tile = torch.from_numpy(rows[start : start + TILE]).to(device)
                found.append(self.predictor_.logits(tile, served).double().cpu())
        return torch.cat(found).numpy() / self._temperature

    @property
    def _temperature(self) -> float:
        return 1.0 if self.calibration_ is None else self.calibration_.temperature

    def _calibration(self, task: Task) -> Calibration | None:
        """Fitted on validation images of every class; on parts of X, the method would have to be fitted once more."""
        images = unseen(task, task.val.take(torch.arange(0, device=task.val.labels.device)), seed=self.seed_)
        if images is None or images.refit is not None:
            return None
        return images.measured(self.predictor_, task.text)[0]

    def _other(self, classes: Classes) -> ClassText:
        method = self._method()
        if not method.serves_new_classes:
            able = ", ".join(m.name for m in methods(["all"], settings=TrainParams()) if m.serves_new_classes)
            raise ValueError(f"{type(self).__name__} knows only the classes of y; text can be given to: {able}.")
        if classes.width not in (None, self.n_features_in_):
            raise ValueError(
                f"text has {classes.width} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input."
            )
        if self.text_source_ == PROTOTYPES:
            warnings.warn(
                f"{type(self).__name__} was fitted with image prototypes as class text: how well it serves classes "
                "that are known by text was never measured.",
                UserWarning,
                stacklevel=4,
            )
        text = classes.tensors(self.text_.template.device)
        if text.prompts is None and self.info_.get("class_text") == "prompts":
            return self._by_template(text)
        return text


def plain(value: Any) -> Any:
    """A number of NumPy's as Python's, an array or tuple as a list, and so inside a mapping."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return list(map(plain, value)) if isinstance(value, tuple | np.ndarray) else value


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """The registry's method.

    Raises:
        ValueError: an unknown name, or a setting that is none or out of range.
    """
    if name not in FITS_ALONE:
        raise ValueError(f"unknown method {name!r}; {nearest(name, list(FITS_ALONE))}")
    given = {key: plain(value) for key, value in settings.items()}
    try:
        params = TrainParams.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{fault['loc'][0]}={given.get(str(fault['loc'][0]))!r}: {fault['msg']}.") from error
    return methods([name], settings=params)[0]


def _needs_prompts(method: Method) -> bool:
    """Whether a fit without prompts is refused; AAPE+ takes the template where there are none."""
    return method.uses_prompts and method.name != "aape-plus"
