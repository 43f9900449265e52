"""The trained head as a program of plain tensor operations, for use without this project.

What is constant at inference is folded: class weights into the text side, h's second layer into g, the temperature into
the logits. Nothing of size B x C x D is made; the bottleneck heads need B x C x K (K = 32).
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.errors import UserError
from stages.files import write_bytes, write_text
from trainer.aape.classifier import Classifier
from trainer.aape.cosines import SMALLEST_SQUARE
from trainer.aape_plus.attention import SMALLEST_SQUARE as SMALLEST_SHARE
from trainer.checkpoint import Checkpoint
from trainer.data import ClassText
from trainer.methods.aape import AAPEPredictor
from trainer.methods.aape_plus import AAPEPlusPredictor
from trainer.methods.base import Predictor
from trainer.methods.gda import GDAPredictor
from trainer.methods.linear import LinearPredictor
from trainer.methods.text import TextPredictor
from trainer.text import class_weights

Format = Literal["torch", "onnx"]
FILES = {"torch": "head.pt2", "onnx": "head.onnx"}
INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"
EXAMPLE_ROWS = 3
"""Rows of the example input; PyTorch takes sizes 0 and 1 for constants."""
ONNX_PACKAGES = ("onnx", "onnxscript")


class LinearHead(nn.Module):
    """softmax(x W^T + b): linear classifiers, class texts, and AAPE without image conditioning."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Float[Tensor, "C D"], bias: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        return torch.softmax(images @ self.weight.T + self.bias, dim=-1)


class QueryHead(nn.Module):
    """Head `none`: softmax(cos(h(x), w_c) / tau)."""

    down: Tensor
    up: Tensor
    weight: Tensor

    def __init__(self, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        super().__init__()
        assert classifier.h is not None
        self.register_buffer("down", classifier.h.down.detach())
        self.register_buffer("up", classifier.h.up.detach())
        self.register_buffer("weight", weights / tau)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        generated = torch.relu(images @ self.down.T) @ self.up.T
        return torch.softmax(normalize(generated, dim=-1) @ self.weight.T, dim=-1)


class BottleneckHead(nn.Module):
    """Heads `residual` and `literal`: `CosineInBottleneck`, with B h(x) = (B U2) relu(U1 x)."""

    down: Tensor
    inner: Tensor
    v: Tensor
    a: Tensor
    vw: Tensor
    gram: Tensor
    ww: Tensor
    weight: Tensor

    def __init__(self, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        super().__init__()
        assert classifier.h is not None
        assert classifier.b is not None
        text = classifier.text_side(weights)
        residual = classifier.head == "residual"
        self.tau = tau
        self.register_buffer("down", classifier.h.down.detach())
        self.register_buffer("inner", (classifier.b @ classifier.h.up).detach())
        self.register_buffer("v", classifier.v.detach())
        self.register_buffer("a", _given(text.a))
        self.register_buffer("vw", _given(text.vw))
        self.register_buffer("gram", _given(text.gram))
        self.register_buffer("ww", _given(text.ww))
        self.register_buffer("weight", weights if residual else torch.zeros_like(weights))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        b = torch.relu(images @ self.down.T) @ self.inner.T
        r = torch.relu(self.a + b[:, None])  # B C K
        square = (r * (r @ self.gram + 2 * self.vw)).sum(-1) + self.ww
        dot = images @ self.weight.T + (r * (images @ self.v)[:, None]).sum(-1)
        return torch.softmax(dot * torch.rsqrt(square.clamp_min(SMALLEST_SQUARE)) / self.tau, dim=-1)


class FullHead(nn.Module):
    """Head `full`: softmax(cos(x, relu(A w_c + B h(x))) / tau), one class after the other."""

    down: Tensor
    inner: Tensor
    a: Tensor

    def __init__(self, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        super().__init__()
        assert classifier.h is not None
        assert classifier.b is not None
        self.tau = tau
        self.register_buffer("down", classifier.h.down.detach())
        self.register_buffer("inner", (classifier.b @ classifier.h.up).detach())
        self.register_buffer("a", _given(classifier.text_side(weights).a))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        b = torch.relu(images @ self.down.T) @ self.inner.T
        cosines = []
        for a in self.a.unbind():
            full = torch.relu(a + b)
            square = full.square().sum(-1).clamp_min(SMALLEST_SQUARE)
            cosines.append((full * images).sum(-1) * torch.rsqrt(square))
        return torch.softmax(torch.stack(cosines, dim=-1) / self.tau, dim=-1)


class AttendedHead(nn.Module):
    """AAPE+ that attends: softmax((x W^T + b + w cos(x, p_c(x)) / tau_text) / tau), see `attended_cosines`."""

    prompts: Tensor
    empty: Tensor
    gram: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, predictor: AAPEPlusPredictor, text: ClassText) -> None:
        super().__init__()
        prompts, mask = text.require_prompts()
        rows = [predictor.names.index(name) for name in text.names]
        head = predictor.text_head
        self.beta, self.heard, self.tau = head.beta, predictor.text_weight / head.tau, predictor.tau
        self.register_buffer("prompts", prompts)
        self.register_buffer("empty", ~mask)
        self.register_buffer("gram", prompts @ prompts.transpose(1, 2))
        self.register_buffer("weight", predictor.weight[rows])
        self.register_buffer("bias", predictor.bias[rows])

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        classes, count, width = self.prompts.shape
        cosines = (images @ self.prompts.view(-1, width).T).view(-1, classes, count)
        attention = torch.softmax((self.beta * cosines).masked_fill(self.empty, -torch.inf), dim=-1)
        weighed = torch.matmul(attention.transpose(0, 1), self.gram).transpose(0, 1)
        square = (weighed * attention).sum(-1).clamp_min(SMALLEST_SHARE)
        text = (attention * cosines).sum(-1) * torch.rsqrt(square)
        return torch.softmax((images @ self.weight.T + self.bias + self.heard * text) / self.tau, dim=-1)


class TracedHead(nn.Module):
    """Any other predictor, as it computes."""

    def __init__(self, predictor: Predictor, text: ClassText) -> None:
        super().__init__()
        self.predictor, self.text = predictor, text

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        return torch.softmax(self.predictor.logits(images, self.text), dim=-1)


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.detach()


def _affine(predictor: Predictor, text: ClassText) -> LinearHead:
    """The head of a predictor that is affine in the image: its rows are the scores of the unit vectors."""
    rows = torch.eye(text.template.shape[1])
    bias = predictor.logits(torch.zeros_like(rows[:1]), text)[0]
    return LinearHead((predictor.logits(rows, text) - bias).T.contiguous(), bias)


@torch.no_grad()
def head_of(found: Checkpoint) -> nn.Module:
    """The head of a checkpoint: unit image embeddings (B, D), float32 -> probabilities (B, C)."""
    predictor, text = found.predictor, found.text
    if isinstance(predictor, LinearPredictor):
        return LinearHead(predictor.weight, predictor.bias)
    if isinstance(predictor, TextPredictor):
        weights = class_weights(text, predictor.source)
        return LinearHead(weights / predictor.tau, weights.new_zeros(len(weights)))
    if isinstance(predictor, GDAPredictor):
        return _affine(predictor, text)
    if isinstance(predictor, AAPEPlusPredictor):
        if not set(text.names) <= set(predictor.names):
            raise UserError(f"{found.path}: names classes that had no shots: only fitted classes can be exported")
        return AttendedHead(predictor, text) if predictor.attends else _affine(predictor, text)
    if not isinstance(predictor, AAPEPredictor):
        return TracedHead(predictor, text)
    classifier, tau = predictor.classifier, predictor.tau
    weights = class_weights(text, predictor.class_text)
    if classifier.h is None:
        weights = torch.zeros_like(weights) if classifier.head == "none" else classifier.text_side(weights).weights
        return LinearHead(weights / tau, weights.new_zeros(len(weights)))
    if classifier.head == "none":
        return QueryHead(classifier, weights, tau)
    return (FullHead if classifier.head == "full" else BottleneckHead)(classifier, weights, tau)


def export_head(found: Checkpoint, folder: Path, *, form: Format) -> dict[str, str]:
    """Write the program, `labels.json` and `README.txt` into `folder`, each by rename.

    Returns:
        What was written: `program`, `labels`, `readme`.

    Raises:
        UserError: the format needs a package that is not installed, the classifier cannot become a program, or the
            folder cannot be written.
    """
    if form == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: `pip install {' '.join(missing)}`, or take --format torch",
            exit_code=2,
        )
    program = program_of(found)
    paths = {"program": folder / FILES[form], "labels": folder / "labels.json", "readme": folder / "README.txt"}
    labels = labels_of(found)
    write_bytes(paths["program"], _onnx(program) if form == "onnx" else _torch(program))
    write_text(paths["labels"], json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
    write_text(paths["readme"], readme(labels, form=form))
    return {name: str(path) for name, path in paths.items()}


def program_of(found: Checkpoint) -> torch.export.ExportedProgram:
    """The head as a program for any number of images.

    Raises:
        UserError: the classifier has no such form.
    """
    example = normalize(torch.ones(EXAMPLE_ROWS, int(found.provenance["width"])), dim=-1)
    try:
        return torch.export.export(
            head_of(found).eval(), (example,), dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},)
        )
    except (RuntimeError, TypeError, ValueError) as error:
        kind, reason = type(found.predictor).__name__, " ".join(str(error).split())[:200]
        raise UserError(f"{found.path}: a {kind} cannot be exported ({reason}): export another --method") from error


def _torch(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own deprecated calls
        converted = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, external_data=False, verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # PyTorch's own
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = size.dim_param.replace(symbol, BATCH)
    data: bytes = model.SerializeToString()
    return data


def labels_of(found: Checkpoint) -> dict[str, Any]:
    """What a program must know beside the head: classes in the order of the columns, and what the input has to be."""
    about: Mapping[str, Any] = found.provenance
    tau = getattr(found.predictor, "tau", None)
    return {
        "classes": list(found.text.names),
        "width": about["width"],
        "encoder": about["encoder"],
        "encoder_fingerprint": about["encoder_fingerprint"],
        "preprocessing": "upright RGB picture, the encoder's own image transform, its image embedding divided by its "
        "length; stored embeddings were rounded to float16",
        "temperature": tau if tau is not None and math.isfinite(tau) else None,
        "method": about.get("name") or about.get("method"),
        "dataset": about.get("dataset"),
        "notes": about.get("notes", []),
    }


def readme(labels: Mapping[str, Any], *, form: Format) -> str:
    """How to load the program, in five lines of text and as many of Python."""
    load = {
        "torch": [
            "import json, torch",
            f'head = torch.export.load("{FILES["torch"]}").module()',
            "shares = head(torch.as_tensor(x, dtype=torch.float32))",
        ],
        "onnx": [
            "import json, numpy, onnxruntime",
            f'head = onnxruntime.InferenceSession("{FILES["onnx"]}")',
            f'shares = head.run(None, {{"{INPUT}": numpy.asarray(x, dtype=numpy.float32)}})[0]',
        ],
    }[form]
    first, *rest = load
    return "\n".join(
        [
            f"Input x: float32 (B, {labels['width']}), image embeddings of {labels['encoder']}, rows of length 1.",
            f"Output: probabilities (B, {len(labels['classes'])}); columns are named in labels.json (classes).",
            f"Encoder fingerprint {str(labels['encoder_fingerprint'])[:12]}: embeddings of other weights do not fit.",
            "Memory grows with B x C: large sets in batches. Load it in this folder with:",
            "",
            f"    {first}",
            '    names = json.load(open("labels.json", encoding="utf-8"))["classes"]',
            *(f"    {line}" for line in rest),
            "    best = [names[i] for i in shares.argmax(1)]",
            "",
        ]
    )
