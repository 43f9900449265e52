"""A fitted estimator on disk, as a checkpoint of `trainer`: safetensors and JSON, never pickle.

The labels, and the arguments that made the estimator, stand in the checkpoint's provenance. A checkpoint of `trainer
run` has neither: its class names become the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from pydantic import BaseModel, ConfigDict, ValidationError

from aape.arrays import plain_errors
from stages.errors import UserError
from trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.confidence import Calibration
from trainer.data import ClassText
from trainer.methods import Predictor

KEY = "estimator"
UNKNOWN = "unknown"
"""The encoder of embeddings that came as arrays."""
KINDS = "iufbUO"
"""Kinds of labels: whole and real numbers, booleans, strings, and Python's own strings."""


class Saved(BaseModel):
    """What an estimator adds to a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str
    arguments: dict[str, Any]
    labels: list[bool | int | float | str]
    labels_dtype: str
    text_source: str
    feature_names: list[str] | None = None

    def classes(self) -> Shaped[np.ndarray, " C"]:
        """The labels, of the type they had.

        Raises:
            ValueError: not a type of labels.
        """
        dtype = np.dtype(self.labels_dtype)
        if dtype.kind not in KINDS:
            raise ValueError(f"labels of type {dtype}")
        return np.array(self.labels, dtype=dtype)


def save(
    folder: Path,
    predictor: Predictor,
    text: ClassText,
    saved: Saved,
    *,
    provenance: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Write a fitted estimator.

    Raises:
        ValueError: a folder that cannot be written.
    """
    with plain_errors():
        save_checkpoint(
            folder,
            predictor,
            text,
            provenance={**provenance, "method": saved.method, KEY: saved.model_dump(mode="json")},
            calibration=calibration,
        )


def described(classes: Shaped[np.ndarray, " C"], **rest: Any) -> Saved:
    """What an estimator with these labels adds.

    Raises:
        ValueError: labels that JSON cannot hold.
    """
    if classes.dtype.kind not in KINDS:
        raise ValueError(f"labels of type {classes.dtype} cannot be saved: use numbers or strings as labels.")
    return Saved(labels=classes.tolist(), labels_dtype=classes.dtype.str, **rest)


def read(folder: Path, *, device: str | None) -> tuple[Checkpoint, Saved]:
    """The checkpoint in a folder and what an estimator needs of it.

    Raises:
        ValueError: there is none, or not a whole one.
    """
    with plain_errors():
        checkpoint = load_checkpoint(folder, device=device or "cpu")
        names = checkpoint.text.names
        try:
            about = checkpoint.provenance.get(KEY)
            saved = Saved(
                method=checkpoint.provenance.get("method", "aape"), arguments={}, labels=list(names),
                labels_dtype=np.array(names).dtype.str, text_source="templates and prompts",
            ) if about is None else Saved.model_validate(about)  # fmt: skip
            if saved.classes().shape != (len(names),):
                raise ValueError(f"{len(saved.labels)} labels for {len(names)} classes")
        except (ValidationError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{checkpoint.path}: does not describe an estimator ({reason}): fit and save again"
            ) from error
    return checkpoint, saved
