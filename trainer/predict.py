"""Classify image files with a checkpoint: encoder and head only, no language model (section 3.3, test time)."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages import UserError
from stages.command import progress, table
from stages.names import is_left_behind


def find_checkpoint(results: Path, dataset: str | None) -> Path:
    """The checkpoint of a data set, or the only one there is.

    Raises:
        UserError: there is none, or more than one to choose from.
    """
    found = {p.parent.parent.name: p.parent for p in sorted(results.glob("runs/*/checkpoint/checkpoint.json"))}
    if dataset is not None and dataset in found:
        return found[dataset]
    if dataset is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise UserError(f"{results}/runs: no checkpoint there yet: run `trainer run` first, or give --checkpoint DIR")
    asked = f"no checkpoint of {dataset!r}" if dataset is not None else "several checkpoints"
    raise UserError(f"{results}/runs: {asked}; choose with --dataset: {', '.join(found)}", exit_code=2)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders searched for images by their name, sorted.

    Raises:
        UserError: a folder without images. A file that is not there becomes a row with its error.
    """
    from pipeline.images import SUFFIXES

    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        inside = [p for p in inside if not any(map(is_left_behind, p.relative_to(path).parts))]
        if not inside:
            raise UserError(f"{path}: no image in this folder (looked for {', '.join(sorted(SUFFIXES))})")
        files += inside
    return files


def predict_files(
    files: Sequence[Path], checkpoint: Path, *, top: int, batch: int, device: str
) -> tuple[list[dict[str, Any]], str]:
    """Rows `{path, error, classes: [{class, probability}]}` in the order of the files, and the encoder's note.

    Raises:
        UserError: the checkpoint is damaged, or this machine's encoder is not the one it was trained with.
    """
    import torch

    from pipeline.encoders import load_encoder
    from pipeline.images import ImageError, open_rgb
    from trainer.checkpoint import load_checkpoint

    found = load_checkpoint(checkpoint)
    encoder = load_encoder(found.provenance["encoder"], device=device)
    found.require_encoder(name=encoder.name, fingerprint=encoder.fingerprint, width=encoder.width)
    rows: list[dict[str, Any]] = []
    batches = [files[i : i + batch] for i in range(0, len(files), batch)]
    for chunk in progress(batches, what="predicting", unit="batch"):
        own: list[dict[str, Any]] = [{"path": str(path), "error": None, "classes": []} for path in chunk]
        pixels = []
        for row in own:
            try:
                pixels.append(encoder.preprocess(open_rgb(Path(row["path"]))))
            except ImageError as error:
                row["error"] = str(error)
        if pixels:
            with torch.inference_mode():
                # Stored embeddings are float16: the same rounding here gives the same answer as in training.
                images = encoder.encode_images(torch.stack(pixels)).half().float()
                shares = found.predictor.logits(images, found.text).softmax(dim=-1)
            values, labels = shares.topk(min(top, shares.shape[1]), dim=-1)
            readable = (row for row in own if row["error"] is None)
            for row, value, label in zip(readable, values.tolist(), labels.tolist(), strict=True):
                row["classes"] = [
                    {"class": found.text.names[i], "probability": round(v, 4)}
                    for i, v in zip(label, value, strict=True)
                ]
        rows += own
    return rows, encoder.note


def text_of(rows: list[dict[str, Any]], *, top: int, as_csv: bool) -> str:
    """The rows as a table or as CSV, one line an image."""
    most = max((len(row["classes"]) for row in rows), default=top) or 1
    names = ["path", *(name for i in range(1, most + 1) for name in (f"class_{i}", f"probability_{i}")), "error"]
    lines = []
    for row in rows:
        cells = [cell for c in row["classes"] for cell in (c["class"], f"{c['probability']:.4f}")]
        lines.append([row["path"], *cells, *[""] * (2 * most - len(cells)), row["error"] or ""])
    if not as_csv:
        return table(names, lines)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    return text.getvalue().rstrip("\n")
