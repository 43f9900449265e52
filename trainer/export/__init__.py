"""`trainer export`: a classifier as a file that runs without this project, its class names, and a model card.

head.pt2             a program of torch.export
head.onnx            a program of ONNX
head.py, head.npz    NumPy alone
labels.json          class names in the order of the columns, the encoder, the temperature
model-card.md        what it was made from, how well it does, where its limits lie, how to call it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from stages.command import say
from stages.errors import UserError
from stages.files import write_bytes, write_text
from stages.text import counted
from trainer.checkpoint import Checkpoint
from trainer.export.card import LOADED, model_card
from trainer.export.heads import head_of
from trainer.export.numpy_file import arrays_of, script_of
from trainer.export.programs import onnx_of, program_of, torch_of
from trainer.runs.record import RunRecord

__all__ = ["Format", "export_head", "head_of", "program_of"]

Format = Literal["torch", "onnx", "numpy"]
PROGRAMS: dict[Format, tuple[str, ...]] = {
    "torch": ("head.pt2",),
    "onnx": ("head.onnx",),
    "numpy": ("head.py", "head.npz"),
}
"""Format -> files of the program."""
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_head(found: Checkpoint, folder: Path, *, form: Format, record: RunRecord | None = None) -> dict[str, str]:
    """Write the program, `labels.json` and `model-card.md` into `folder`, each by rename.

    The program of another format that an earlier export left there is removed, since the card describes one.

    Args:
        record: of the run that the checkpoint is of; without it the card has no metrics and no data.

    Returns:
        What was written: `program`, (`arrays`,) `labels`, `card`.

    Raises:
        UserError: the format needs a package that is not installed, the classifier cannot become a program, or the
            folder cannot be written.
    """
    files = {name: (folder / file, content) for name, (file, content) in _files(found, form, record).items()}
    earlier = _earlier(folder, form)
    for path, content in files.values():
        if isinstance(content, bytes):
            write_bytes(path, content)
        else:
            write_text(path, content)
    for path in earlier:
        path.unlink(missing_ok=True)
    if earlier:
        names = ", ".join(path.name for path in earlier)
        say(f"{folder}: {counted(len(earlier), 'file')} of an earlier export removed: {names}")
    return {name: str(path) for name, (path, _) in files.items()}


def _earlier(folder: Path, form: Format) -> list[Path]:
    """The programs of other formats that the card in the folder describes, and the next card will not."""
    try:
        said = (folder / "model-card.md").read_text(encoding="utf-8", errors="replace")
    except OSError:  # there is none, or none can be written either, which is said then
        return []
    described = [files for kind, files in PROGRAMS.items() if kind != form and "\n".join(LOADED[kind]) in said]
    return [folder / name for files in described for name in files if (folder / name).is_file()]


def _files(found: Checkpoint, form: Format, record: RunRecord | None) -> dict[str, tuple[str, str | bytes]]:
    """What a format consists of: name -> file and content."""
    labels = labels_of(found)
    beside: dict[str, tuple[str, str | bytes]] = {
        "labels": ("labels.json", json.dumps(labels, indent=1, ensure_ascii=False) + "\n"),
        "card": ("model-card.md", model_card(found, labels, form=form, record=record)),
    }
    if form == "numpy":
        head = head_of(found)
        return {"program": ("head.py", script_of(head)), "arrays": ("head.npz", arrays_of(head, found)), **beside}
    if form == "torch":
        return {"program": ("head.pt2", torch_of(program_of(found))), **beside}
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: `pip install {' '.join(missing)}`, or take --format numpy",
            exit_code=2,
        )
    return {"program": ("head.onnx", onnx_of(program_of(found))), **beside}


def labels_of(found: Checkpoint) -> dict[str, Any]:
    """What a program must know beside the head: classes in the order of the columns, and what the input has to be."""
    about: Mapping[str, Any] = found.provenance
    return {
        "classes": list(found.text.names),
        "width": about["width"],
        "encoder": about["encoder"],
        "encoder_fingerprint": about["encoder_fingerprint"],
        "preprocessing": "upright RGB picture, the encoder's own image transform, its image embedding divided by its "
        "length; stored embeddings were rounded to float16",
        "temperature": found.temperature,
        "method": about.get("name") or about.get("method"),
        "dataset": about.get("dataset"),
        "notes": about.get("notes", []),
    }
