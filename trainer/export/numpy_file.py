"""A head as twenty lines of NumPy and an .npz beside them: to be read, and to be run where nothing else is.

No name of the user's stands in the script; class names lie in the .npz as JSON, so that nothing has to be unpickled.
"""

from __future__ import annotations

import io
import json

import numpy as np

from trainer.checkpoint import Checkpoint
from trainer.export.heads import Head

SCRIPT = '''"""Class probabilities of image embeddings, with NumPy alone: `python head.py embeddings.npy`."""

import json
import sys
from pathlib import Path

import numpy as np

with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as file:
    head = {{name: file[name] for name in file.files}}
CLASSES = json.loads(head["classes"].tobytes())


def probabilities(images):
    """Embeddings (B, D) of the encoder in model-card.md -> probabilities (B, C), columns as CLASSES."""
    x = np.asarray(images, dtype=np.float32)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    {lines}
    shares = np.exp((scores - scores.max(axis=1, keepdims=True)) / head["temperature"])
    return shares / shares.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python head.py embeddings.npy", file=sys.stderr)
        sys.exit(2)
    for row in probabilities(np.load(sys.argv[1], allow_pickle=False)):
        print(f"{{row.max():.4f}} {{CLASSES[row.argmax()]!r}}")
'''


def script_of(head: Head) -> str:
    """head.py."""
    return SCRIPT.format(lines="\n    ".join(head.lines))


def arrays_of(head: Head, found: Checkpoint) -> bytes:
    """head.npz: the same bytes for the same classifier."""
    scalars = {name: getattr(head, name) for name in head.scalars} | {"temperature": found.temperature}
    arrays = {
        "classes": np.frombuffer(json.dumps(list(found.text.names)).encode(), dtype=np.uint8),
        **{name: value.detach().cpu().numpy() for name, value in head.named_buffers()},
        **{name: np.array(value, dtype=np.float32) for name, value in scalars.items()},
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
