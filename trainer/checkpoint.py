"""What was fitted, on disk: `checkpoint.safetensors` (tensors), `checkpoint.json` (everything else). Never pickle.

A classifier comes with the text of its classes; what was learnt from captions has none. The JSON holds class names, the
predictor (`trainer/packing.py`), the caller's provenance (encoder, its fingerprint, width), the sha256 of the tensor
file and one over itself, so that a truncated, mixed or hand-edited pair is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from stages.errors import UserError
from stages.files import write_bytes, write_text
from stages.stores.provenance import named_fingerprint
from trainer.confidence import Calibration, Distance
from trainer.data import ClassText
from trainer.methods.base import Predictor
from trainer.packing import pack, unpack

TENSORS, RECORD = "checkpoint.safetensors", "checkpoint.json"
FORMAT = 2
SCORES, KNOWN, DISTANCES = "confidence.scores", "confidence.known", "confidence.distances"
IMAGE_MEAN = "text.image_mean"
"""What stands in the place of `text.template` where there was no text."""


class _Provenance(BaseModel):
    """What the caller says of the embeddings; further keys (data set, seed, code version) are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)
    encoder: str
    encoder_fingerprint: str
    width: int


class _CalibratedOn(BaseModel):
    """The images that the temperature was fitted on: how many, and what they were."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    images: int = Field(ge=1)
    source: str


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Literal[2]
    names: tuple[str, ...]
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    calibrated_on: _CalibratedOn | None = None
    predictor: dict[str, Any]
    provenance: _Provenance
    tensors_sha256: str


@dataclass(frozen=True)
class Learned:
    """Something that was learned, ready to serve.

    Attributes:
        path: the JSON file.
        predictor: what it does is its protocol's business.
        provenance: `encoder`, `encoder_fingerprint`, `width`, and whatever the caller added.
    """

    path: Path
    predictor: Any
    provenance: Mapping[str, Any]

    def require_encoder(self, *, name: str, fingerprint: str, width: int) -> None:
        """Refuse an encoder other than the one that the classifier was trained with.

        Raises:
            UserError: the widths or the fingerprints differ.
        """
        made_with = f"made with encoder {self.provenance['encoder']}"
        if width != self.provenance["width"]:
            raise UserError(
                f"{self.path}: {made_with}, {self.provenance['width']} wide, and {name} is {width} wide: "
                f"use {self.provenance['encoder']} or train again"
            )
        expected = self.provenance["encoder_fingerprint"]
        if fingerprint != expected and expected != named_fingerprint(name, width):
            raise UserError(
                f"{self.path}: {made_with} ({expected[:12]}), and the {name} at hand is {fingerprint[:12]}: "
                "use the same weights or train again"
            )


@dataclass(frozen=True)
class Checkpoint(Learned):
    """A loaded classifier, ready to serve.

    Attributes:
        predictor: gives logits.
        text: the classes it was saved with; prompts are stored as their mean, and whole only for a predictor that
            attends over them.
        calibration: None where nothing was held out to calibrate on.
        distance: None likewise.
    """

    predictor: Predictor
    text: ClassText
    calibration: Calibration | None = None
    distance: Distance | None = None

    @property
    def temperature(self) -> float:
        """softmax(logits / temperature) are the probabilities; 1 where nothing was fitted."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def logits(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Calibrated scores of unit images: softmax gives the probabilities."""
        return self.predictor.logits(images, self.text) / self.temperature


def save_checkpoint(
    folder: Path,
    predictor: Any,
    text: ClassText | None,
    *,
    provenance: Mapping[str, Any],
    calibration: Calibration | None = None,
    distance: Distance | None = None,
) -> None:
    """Write the pair into `folder` (made if missing), each file by rename, the JSON last.

    Args:
        folder: where it goes; an older pair is replaced.
        predictor: of any method of this package, or of any protocol.
        text: the classes it will serve; None for what serves none.
        provenance: JSON values; `encoder`, `encoder_fingerprint` and `width` are required. Times in the predictor's
            info are left out, so that the same training gives the same bytes.
        calibration: what is known of its confidence.
        distance: how far images of its classes lie from what it learned from.

    Raises:
        UserError: the folder cannot be written, or provenance lacks a key.
    """
    tensors = {} if text is None else _text_tensors(text, whole=getattr(predictor, "attends", False))
    if calibration is not None and calibration.scores is not None:
        tensors[SCORES] = calibration.scores
    if distance is not None:
        tensors |= {KNOWN: distance.known, DISTANCES: distance.distances}
    timeless = {key: value for key, value in predictor.info.items() if not key.endswith("seconds")}
    tree, of_predictor = pack(replace(predictor, info=timeless))
    tensors |= {f"predictor{path}": value for path, value in of_predictor.items()}
    blob = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    try:
        record = _Record.model_validate(
            {
                "format": FORMAT,
                "names": () if text is None else text.names,
                "temperature": 1.0 if calibration is None else calibration.temperature,
                "calibrated_on": calibration and {"images": calibration.images, "source": calibration.source},
                "predictor": tree,
                "provenance": dict(provenance),
                "tensors_sha256": hashlib.sha256(blob).hexdigest(),
            }
        ).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        raise UserError(f"cannot save a checkpoint in {folder}: {_first_fault(error)}") from error
    record["sha256"] = _digest(record)
    write_bytes(folder / TENSORS, blob)
    write_text(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _text_tensors(text: ClassText, *, whole: bool) -> dict[str, Tensor]:
    """The text of classes by name; the prompts as their mean, or whole."""
    tensors = {"text.template" if text.is_text else IMAGE_MEAN: text.template}
    if text.templates is not None:
        tensors["text.templates"] = text.templates
    if text.prompts is not None:
        tensors["text.prompt_mean"] = text.prompt_mean()
        if whole:
            prompts, mask = text.require_prompts()
            tensors |= {"text.prompts": prompts, "text.mask": mask}
    return tensors


def load_checkpoint(folder: Path, *, device: torch.device | str = "cpu", several: bool = False) -> Checkpoint:
    """Read a classifier back and refuse it unless it is whole. `require_encoder` compares it with an encoder.

    Args:
        several: one that gives an image several classes is taken too.

    Raises:
        UserError: one line that names the file, the value and the mend.
    """
    record, tensors = _read(folder, device)
    if not record.names:
        raise UserError(
            f"{folder / RECORD}: is of the protocol {_protocol(record)} and knows no class: give the checkpoint of a "
            "classifier, which few-shot keeps"
        )
    with _described(folder):
        confidence = _confidence(record, tensors)
        text = _text(record, tensors)
        predictor = _predictor(record, tensors)
    if is_multi_label(predictor) and not several:
        raise UserError(
            f"{folder / RECORD}: gives several classes an image: `trainer predict` serves it, and a checkpoint of "
            "few-shot is needed here"
        )
    with _described(folder), torch.no_grad():
        # shapes that do not belong together show here, not in front of a user's image
        predictor.logits(text.template[:1], text)
    return Checkpoint(folder / RECORD, predictor, record.provenance.model_dump(), text, *confidence)


def is_multi_label(predictor: Any) -> bool:
    """Whether it gives each class a probability of its own, and an image all classes above its threshold."""
    return hasattr(predictor, "threshold")


def load_learned(folder: Path, kind: type[Any], *, device: torch.device | str = "cpu") -> Learned:
    """Read back what was learnt from captions.

    Args:
        kind: the class that the predictor must be of, such as `CaptionAAPE`.

    Raises:
        UserError: one line that names the file, the value and the mend.
    """
    record, tensors = _read(folder, device)
    with _described(folder):
        predictor = _predictor(record, tensors)
    if not isinstance(predictor, kind):
        raise UserError(
            f"{folder / RECORD}: holds {type(predictor).__name__} of the protocol {_protocol(record)}, where "
            f"{kind.__name__} is needed: give the folder of another checkpoint"
        )
    return Learned(folder / RECORD, predictor, record.provenance.model_dump())


def _confidence(record: _Record, tensors: Mapping[str, Tensor]) -> tuple[Calibration | None, Distance | None]:
    on, scores, known = record.calibrated_on, tensors.get(SCORES), tensors.get(KNOWN)
    if scores is not None and scores.shape != (on.images if on else 0,):
        raise ValueError(f"{scores.shape[0]} scores of images")
    if known is not None and (known.shape[1] != record.provenance.width or not len(tensors[DISTANCES])):
        raise ValueError(f"rows of width {known.shape[1]} to compare with")
    return (
        None if on is None else Calibration(record.temperature, on.images, on.source, scores),
        None if known is None else Distance(known, tensors[DISTANCES]),
    )


def _protocol(record: _Record) -> str:
    return str((record.provenance.model_extra or {}).get("protocol", "?"))


@contextmanager
def _described(folder: Path) -> Iterator[None]:
    """Whatever goes wrong inside, it is no checkpoint: a file can be wrong in any way.

    Raises:
        UserError: something went wrong.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder / TENSORS}: does not hold what {RECORD} describes ({reason}): train again") from error


def _text(record: _Record, tensors: Mapping[str, Tensor]) -> ClassText:
    is_text = IMAGE_MEAN not in tensors
    template = tensors["text.template" if is_text else IMAGE_MEAN]
    if template.shape != (len(record.names), record.provenance.width):
        raise ValueError(f"template of shape {tuple(template.shape)} for {len(record.names)} classes")
    mean, templates = tensors.get("text.prompt_mean"), tensors.get("text.templates")
    if mean is None:
        return ClassText(record.names, template, templates=templates, is_text=is_text)
    if "text.prompts" in tensors:
        return ClassText(record.names, template, tensors["text.prompts"], tensors["text.mask"], templates)
    mask = torch.ones(len(record.names), 1, dtype=torch.bool, device=template.device)
    return ClassText(record.names, template, mean[:, None], mask, templates)


def _predictor(record: _Record, tensors: Mapping[str, Tensor]) -> Any:
    prefix = "predictor"
    return unpack(
        record.predictor,
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
    )


def read_provenance(folder: Path) -> Mapping[str, Any]:
    """What the caller of `save_checkpoint` said, without reading the tensors.

    Raises:
        UserError: as `load_checkpoint`.
    """
    return _read_record(folder).provenance.model_dump()


def _read(folder: Path, device: torch.device | str) -> tuple[_Record, dict[str, Tensor]]:
    record = _read_record(folder)
    path = folder / TENSORS
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise _unreadable(folder, path, error) from error
    found = hashlib.sha256(blob).hexdigest()
    if found != record.tensors_sha256:
        raise UserError(
            f"{path}: sha256 {found[:12]}, expected {record.tensors_sha256[:12]} ({len(blob)} bytes): "
            "it was cut off, changed or belongs to another checkpoint; train again"
        )
    with _described(folder):
        return record, {name: value.to(device) for name, value in load(blob).items()}


def _read_record(folder: Path) -> _Record:
    path = folder / RECORD
    try:
        content = json.loads(path.read_bytes())
        whole = isinstance(content, dict) and content.pop("sha256", None) == _digest(content)
    except OSError as error:
        raise _unreadable(folder, path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}): it was cut off or edited, train again") from error
    if not whole:
        raise UserError(f"{path}: was changed since it was saved (its sha256 does not fit): restore it or train again")
    try:
        return _Record.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_fault(error)}: made by another version, train again") from error


def _unreadable(folder: Path, path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"no checkpoint in {folder}: {path.name} is missing; run `trainer run` first")
    return UserError(f"{path}: cannot be read ({error.strerror or error})")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
