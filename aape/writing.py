"""Arrays straight to the stores of a data set, as `pipeline ingest --encoder-name` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aape.arrays import ArrayLike, as_array, plain_errors
from stages.arrays import Values


def write_features(
    dataset: str,
    *,
    embedding: ArrayLike,
    encoder: str,
    class_id: ArrayLike | None = None,
    label: Sequence[Any] | ArrayLike | None = None,
    labels: ArrayLike | None = None,
    split: Sequence[str] | None = None,
    image_id: Sequence[Any] | None = None,
    view: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    text_template: ArrayLike | None = None,
    templates: Sequence[str] | None = None,
    prompts: ArrayLike | None = None,
    prompt_class_id: ArrayLike | None = None,
    prompt_source: Sequence[str] | None = None,
    prompt_text: Sequence[str] | None = None,
    cache: str | Path = "cache",
    precision: str = "float16",
) -> list[str]:
    """Write manifest, images, text and prompts of a data set, for `trainer run`, `pipeline sql` and `open_features`.

    The arrays are kept beside the stores, in `cache/features/DATASET.npz`: it is their source, as a file would be.

    Args:
        dataset: its name.
        embedding: (N, D) of images, NumPy or torch, of any length.
        encoder: what made them, as it is to be called.
        class_id: (N,) from 0; -1 is unlabelled.
        label: (N,) class names, in place of `class_id`.
        labels: (N, C) of 0 and 1, in place of `class_id`, where an image may have several classes or none.
        split: (N,) train, val or test; drawn by seed without it.
        image_id: (N,) names; without them the number of the row.
        view: (N,) 0 is the image itself.
        class_names: (C,) in the order of the class ids.
        text_template: (C, D) or (C, T, D).
        templates: (T,) what they say, one `{}` each.
        prompts: (P, D) reference prompts.
        prompt_class_id: (P,) whose.
        prompt_source: (P,) who wrote them.
        prompt_text: (P,) what they say.
        cache: folder of the stores.
        precision: float16 or float32.

    Returns:
        Lines on what was found and done: counts, lengths, names that stood twice.

    Raises:
        ValueError: what `pipeline ingest` refuses, in the same words.
    """
    from pipeline.ingest import ingest
    from stages.files import atomic_file
    from stages.names import dataset_name
    from stages.params import DataParams, EmbedParams, check

    given = {
        "embedding": embedding, "class_id": class_id, "label": label, "labels": labels, "split": split,
        "image_id": image_id, "view": view, "class_names": class_names, "text_template": text_template,
        "templates": templates,
        "prompts": prompts, "prompt_class_id": prompt_class_id, "prompt_source": prompt_source,
        "prompt_text": prompt_text,
    }  # fmt: skip
    arrays = {key: _array(key, value) for key, value in given.items() if value is not None}
    with plain_errors():
        embed = check(EmbedParams, {"precision": precision}, where="write_features")
        file = Path(cache) / "features" / f"{dataset_name(dataset)}.npz"
        _check(arrays, dataset)
        with atomic_file(file) as work, work.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)
        data = DataParams(encoder_name=encoder)
        return ingest(dataset, str(file), data=data, cache=Path(cache), embed=embed).notes


def _array(key: str, value: Any) -> np.ndarray:
    """A plain array, of text or of numbers."""
    array = np.asarray(as_array(value))
    if array.dtype.kind == "O" and all(isinstance(text, str) for text in array.reshape(-1).tolist()):
        array = array.astype(str)  # as pandas keeps text
    if array.dtype.kind == "O":
        raise ValueError(f"{key} holds Python objects of several kinds; expected numbers, or text alone.")
    return array


def _check(arrays: Mapping[str, np.ndarray], dataset: str) -> None:
    """Refuse what is wrong before a file is written."""
    from pipeline.features import check_features

    values: dict[str, Values] = {
        key: [str(text) for text in array.tolist()] if array.dtype.kind == "U" else array
        for key, array in arrays.items()
    }
    check_features(values, where=dataset)
