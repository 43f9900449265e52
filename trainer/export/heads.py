"""The classifiers as plain tensor operations: unit image embeddings (B, D), float32 -> scores (B, C).

What is constant at inference is folded: class weights into the text side, h's second layer into g. Nothing of size
B x C x D is made; the bottleneck heads need B x C x K (K = 32). Each head says the same once more for NumPy, as the
lines that `numpy_file.py` writes: `x` is given, `head` holds the buffers and scalars by name, `scores` is left.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.errors import UserError
from trainer.aape.classifier import Classifier
from trainer.aape.cosines import SMALLEST_SQUARE
from trainer.aape.generator import Chain
from trainer.aape_plus import similarity
from trainer.aape_plus.attention import SMALLEST_SQUARE as SMALLEST_SHARE
from trainer.checkpoint import RECORD, Checkpoint, load_checkpoint
from trainer.data import ClassText
from trainer.methods.aape import AAPEPredictor
from trainer.methods.aape_plus import AAPEPlusPredictor, ShotsPredictor
from trainer.methods.ape import APEPredictor, APETrainedPredictor
from trainer.methods.awt import SOFTNESS, AWTPredictor, weights_of_prompts, with_template
from trainer.methods.base import Predictor
from trainer.methods.clip_adapter import AdapterPredictor
from trainer.methods.common import one_hot
from trainer.methods.family.dapt import ShiftedPredictor
from trainer.methods.family.shared import SharedPredictor
from trainer.methods.gda import GDAPredictor
from trainer.methods.linear import LinearPredictor
from trainer.methods.proker import ProKeRPredictor
from trainer.methods.text import ShuffledPredictor, TextPredictor
from trainer.methods.tip_adapter import CachePredictor
from trainer.text import class_weights


class Head(nn.Module):
    """One kind of classifier.

    Attributes:
        scalars: names of the numbers that NumPy needs beside the buffers.
        lines: the forward pass in NumPy.
    """

    scalars: ClassVar[tuple[str, ...]] = ()
    lines: ClassVar[tuple[str, ...]]

    def keep(self, **tensors: Tensor | None) -> None:
        """Register tensors by name."""
        for name, value in tensors.items():
            assert value is not None
            self.register_buffer(name, value.detach())


class LinearHead(Head):
    """x W^T + b: linear classifiers, class texts, and AAPE without image conditioning."""

    weight: Tensor
    bias: Tensor
    lines = ('scores = x @ head["weight"].T + head["bias"]',)

    def __init__(self, weight: Float[Tensor, "C D"], bias: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.keep(weight=weight, bias=bias)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        return images @ self.weight.T + self.bias


class CacheHead(Head):
    """A cache or a kernel beside class text: x W^T + b + exp(beta (x K^T - 1)) V, with tau in W and alpha in V."""

    weight: Tensor
    bias: Tensor
    keys: Tensor
    values: Tensor
    scalars = ("beta",)
    lines: ClassVar[tuple[str, ...]] = (
        'near = np.exp(head["beta"] * (x @ head["keys"].T - 1))',
        'scores = x @ head["weight"].T + head["bias"] + near @ head["values"]',
    )

    def __init__(
        self, weight: Float[Tensor, "C D"], keys: Float[Tensor, "M D"], values: Float[Tensor, "M C"], *, beta: float,
        bias: Float[Tensor, " C"] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.beta = beta
        self.keep(weight=weight, bias=weight.new_zeros(len(weight)) if bias is None else bias, keys=keys, values=values)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        return images @ self.weight.T + self.bias + similarity(images, self.keys, self.beta) @ self.values


class PartCacheHead(CacheHead):
    """APE: the cache compares some entries of the embeddings, the keys' other entries being 0."""

    mask: Tensor
    lines = (
        'part = x * head["mask"]',
        "part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)",
        'near = np.exp(head["beta"] * (part @ head["keys"].T - 1))',
        'scores = x @ head["weight"].T + near @ head["values"]',
    )

    def __init__(
        self, weight: Float[Tensor, "C D"], keys: Float[Tensor, "M D"], values: Float[Tensor, "M C"], *, beta: float,
        mask: Float[Tensor, " D"],
    ) -> None:  # fmt: skip
        super().__init__(weight, keys, values, beta=beta)
        self.keep(mask=mask)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        part = normalize(images * self.mask, dim=-1)
        return images @ self.weight.T + torch.exp(self.beta * (part @ self.keys.T - 1)) @ self.values


class AdapterHead(Head):
    """CLIP-Adapter: the cosine of the adapted image to each class's text, over tau."""

    down: Tensor
    up: Tensor
    weight: Tensor
    scalars = ("ratio",)
    lines = (
        'h = np.maximum(np.maximum(x @ head["down"].T, 0) @ head["up"].T, 0)',
        'h = head["ratio"] * h + (1 - head["ratio"]) * x',
        'scores = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12) @ head["weight"].T',
    )

    def __init__(self, predictor: AdapterPredictor, weights: Float[Tensor, "C D"]) -> None:
        super().__init__()
        adapter = predictor.adapter
        self.ratio = adapter.ratio
        self.keep(down=adapter.down, up=adapter.up, weight=weights / predictor.tau)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        adapted = torch.relu(torch.relu(images @ self.down.T) @ self.up.T)
        return normalize(self.ratio * adapted + (1 - self.ratio) * images, dim=-1) @ self.weight.T


class ShiftedHead(Head):
    """DAPT: the cosine of the shifted image to each class's embedding, over tau."""

    shift: Tensor
    weight: Tensor
    lines = (
        'h = x + head["shift"]',
        'scores = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12) @ head["weight"].T',
    )

    def __init__(self, weight: Float[Tensor, "C D"], shift: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.keep(weight=weight, shift=shift)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        return normalize(images + self.shift, dim=-1) @ self.weight.T


class QueryHead(Head):
    """Head `none`: cos(h(x), w_c) / tau."""

    down: Tensor
    up: Tensor
    weight: Tensor
    lines = (
        'h = np.maximum(x @ head["down"].T, 0) @ head["up"].T',
        'scores = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12) @ head["weight"].T',
    )

    def __init__(self, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        super().__init__()
        assert classifier.h is not None
        self.keep(down=classifier.h.down, up=classifier.h.up, weight=weights / tau)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        return normalize(torch.relu(images @ self.down.T) @ self.up.T, dim=-1) @ self.weight.T


class GeneratedHead(Head):
    """What the heads with h and g share: B h(x) = (B U2) relu(U1 x), beside A w_c."""

    down: Tensor
    inner: Tensor
    a: Tensor
    scalars = ("tau",)
    first_line = 'b = np.maximum(x @ head["down"].T, 0) @ head["inner"].T'

    def __init__(self, classifier: Classifier, text_side: Tensor | None, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.keep(a=text_side)
        self.keep_generator(classifier)

    def keep_generator(self, classifier: Classifier) -> None:
        """B U2 in one."""
        assert classifier.h is not None
        assert classifier.b is not None
        self.keep(down=classifier.h.down, inner=classifier.b @ classifier.h.up)

    def generated(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """B h(x)."""
        return torch.relu(images @ self.down.T) @ self.inner.T


class BottleneckHead(GeneratedHead):
    """Heads `residual` and `literal`: `CosineInBottleneck`."""

    v: Tensor
    vw: Tensor
    gram: Tensor
    ww: Tensor
    weight: Tensor
    lines: ClassVar[tuple[str, ...]] = (
        GeneratedHead.first_line,
        'r = np.maximum(head["a"] + b[:, None], 0)',
        'square = (r * (r @ head["gram"] + 2 * head["vw"])).sum(-1) + head["ww"]',
        'dot = x @ head["weight"].T + (r * (x @ head["v"])[:, None]).sum(-1)',
        f'scores = dot / np.sqrt(np.maximum(square, {SMALLEST_SQUARE})) / head["tau"]',
    )

    def __init__(
        self, classifier: Classifier, weights: Float[Tensor, "C D"], base: Float[Tensor, "C D"], tau: float
    ) -> None:
        text = classifier.text_side(weights, base)
        super().__init__(classifier, text.a, tau)
        weight = base if classifier.head == "residual" else torch.zeros_like(base)
        self.keep(v=classifier.v, vw=text.vw, gram=text.gram, ww=text.ww, weight=weight)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        r = torch.relu(self.a + self.generated(images)[:, None])  # B C K
        square = (r * (r @ self.gram + 2 * self.vw)).sum(-1) + self.ww
        dot = images @ self.weight.T + (r * (images @ self.v)[:, None]).sum(-1)
        return dot * torch.rsqrt(square.clamp_min(SMALLEST_SQUARE)) / self.tau


class ChainedHead(BottleneckHead):
    """`BottleneckHead` whose h is a chain: `trainer.aape.generator.Chain`, then B h(x)."""

    up: Tensor
    gate: Tensor
    step: Tensor
    b: Tensor
    lines: ClassVar[tuple[str, ...]] = (
        'h = np.maximum(x @ head["down"][0].T, 0) @ head["up"][0].T',
        'for down, up, gate, step in zip(head["down"][1:], head["up"][1:], head["gate"], head["step"]):',
        "    h = h + (np.maximum((x + h) @ down.T, 0) @ up.T - h) / (1 + np.exp(-(x @ gate + step)))[:, None]",
        'b = h @ head["b"].T',
        *BottleneckHead.lines[1:],
    )

    def keep_generator(self, classifier: Classifier) -> None:
        """Every step, its gate, and B."""
        h = classifier.h
        assert isinstance(h, Chain)
        self.keep(down=h.down, up=h.up, gate=h.gate, step=h.bias, b=classifier.b)

    def generated(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """B h(x)."""
        h = torch.relu(images @ self.down[0].T) @ self.up[0].T
        for down, up, gate, step in zip(self.down[1:], self.up[1:], self.gate, self.step, strict=True):
            share = torch.sigmoid(images @ gate + step)[:, None]
            h = (1 - share) * h + share * (torch.relu((images + h) @ down.T) @ up.T)
        return h @ self.b.T


class FullHead(GeneratedHead):
    """Head `full`: cos(x, relu(A w_c + B h(x))) / tau, one class after the other."""

    lines = (
        GeneratedHead.first_line,
        'each = [np.maximum(a + b, 0) for a in head["a"]]',
        f"each = [(g * x).sum(1) / np.sqrt(np.maximum((g * g).sum(1), {SMALLEST_SQUARE})) for g in each]",
        'scores = np.stack(each, axis=1) / head["tau"]',
    )

    def __init__(self, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        super().__init__(classifier, classifier.text_side(weights).a, tau)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        b = self.generated(images)
        cosines = []
        for a in self.a.unbind():
            full = torch.relu(a + b)
            square = full.square().sum(-1).clamp_min(SMALLEST_SQUARE)
            cosines.append((full * images).sum(-1) * torch.rsqrt(square))
        return torch.stack(cosines, dim=-1) / self.tau


class AttendedHead(Head):
    """AAPE+ that attends: x W^T + b + heard cos(x, p_c(x)), see `attended_cosines`; the template's share is in W."""

    prompts: Tensor
    empty: Tensor
    gram: Tensor
    weight: Tensor
    bias: Tensor
    scalars: ClassVar[tuple[str, ...]] = ("beta", "heard")
    lines: ClassVar[tuple[str, ...]] = (
        'cosines = np.einsum("bd,cnd->bcn", x, head["prompts"])',
        'attention = np.where(head["empty"], 0, np.exp(head["beta"] * (cosines - 1)))',
        "attention = attention / attention.sum(-1, keepdims=True)",
        'square = (np.einsum("bcn,cnm->bcm", attention, head["gram"]) * attention).sum(-1)',
        f"text = (attention * cosines).sum(-1) / np.sqrt(np.maximum(square, {SMALLEST_SHARE}))",
        'scores = x @ head["weight"].T + head["bias"] + head["heard"] * text',
    )

    def __init__(self, predictor: AAPEPlusPredictor, text: ClassText, rows: list[int]) -> None:
        super().__init__()
        head, shots = predictor.text_head, predictor.shots
        heard = predictor.text_weight / head.tau
        weight = shots.weight[rows] + heard * head.share * class_weights(text, "ensemble")
        prompts, mask = text.named_by_template().require_prompts()
        if head.share < 1:
            prompts, mask = text.require_prompts()
        if not head.attends:
            prompts, mask = normalize((prompts * mask[..., None]).sum(1, keepdim=True), dim=-1), mask[:, :1]
        self.beta, self.heard = head.beta, heard * (1 - head.share)
        gram = prompts @ prompts.transpose(1, 2)
        self.keep(prompts=prompts, empty=~mask, gram=gram, weight=weight, bias=shots.bias[rows])

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        classes, count, width = self.prompts.shape
        cosines = (images @ self.prompts.view(-1, width).T).view(-1, classes, count)
        attention = torch.softmax((self.beta * cosines).masked_fill(self.empty, -torch.inf), dim=-1)
        weighed = torch.matmul(attention.transpose(0, 1), self.gram).transpose(0, 1)
        square = (weighed * attention).sum(-1).clamp_min(SMALLEST_SHARE)
        text = (attention * cosines).sum(-1) * torch.rsqrt(square)
        return images @ self.weight.T + self.bias + self.heard * text


class WeightedHead(Head):
    """AWT of one view: the scores of a class's prompts, weighed by `weights_of_prompts`."""

    prompts: Tensor
    mask: Tensor
    scalars = ("tau",)
    lines = (
        'logits = np.einsum("bd,cnd->bcn", x, head["prompts"]).astype(float) / head["tau"]',
        'mean = (logits * head["mask"]).sum(-1) / head["mask"].sum(-1)',
        "own = np.eye(mean.shape[1], dtype=bool)",
        "put = (np.exp(np.where(own[c], logits[:, c, :, None], mean[:, None])) for c in range(len(own)))",
        "put = (each / each.sum(-1, keepdims=True) for each in put)",
        f'w = np.exp(np.stack([(p * np.log(p)).sum(-1) for p in put], 1) / {SOFTNESS}) * head["mask"]',
        "scores = (w / w.sum(-1, keepdims=True) * logits).sum(-1).astype(np.float32)",
    )

    def __init__(self, predictor: AWTPredictor, text: ClassText) -> None:
        super().__init__()
        prompts, mask = with_template(text)
        self.tau = predictor.tau
        self.keep(prompts=prompts, mask=mask.float())

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        classes, count, width = self.prompts.shape
        logits = (images @ self.prompts.view(-1, width).T).view(-1, classes, count) / self.tau
        return (weights_of_prompts(logits, self.mask > 0) * logits).sum(-1)


class KernelAttendedHead(AttendedHead):
    """AAPE+ with a kernel: beside the text, and what is linear, how similar the image is to each shot."""

    keys: Tensor
    values: Tensor
    scalars = (*AttendedHead.scalars, "sharpness")
    lines = (
        *AttendedHead.lines,
        'scores = scores + np.exp(head["sharpness"] * (x @ head["keys"].T - 1)) @ head["values"]',
    )

    def __init__(self, predictor: AAPEPlusPredictor, text: ClassText, rows: list[int]) -> None:
        super().__init__(predictor, text, rows)
        shots = predictor.shots
        self.sharpness = shots.sharpness
        self.keep(keys=shots.keys, values=shots.values[:, rows])

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Scores."""
        return super().forward(images) + similarity(images, self.keys, self.sharpness) @ self.values


class Probabilities(nn.Module):
    """softmax(scores / temperature) of a head."""

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature = head, temperature

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Probabilities."""
        return torch.softmax(self.head(images) / self.temperature, dim=-1)


def head_of(found: Checkpoint) -> Head:
    """The head of a checkpoint.

    Raises:
        UserError: it serves classes without shots, or is of a kind that has no such form: the line says why, and which
            checkpoints beside it have one.
    """
    head = _form(found)
    if head is None:
        raise UserError(f"{found.path}: {name_of(found)} cannot be exported: {_why_not(found)}; {mend(found)}")
    return head


def name_of(found: Checkpoint) -> str:
    """The method of a checkpoint, as on the command line."""
    return str(found.provenance.get("name") or found.provenance.get("method") or type(found.predictor).__name__)


def mend(found: Checkpoint) -> str:
    """The methods beside a checkpoint that can be exported in its place."""
    there = []
    for file in sorted(found.path.parent.parent.glob(f"*/{RECORD}")):
        try:
            other = load_checkpoint(file.parent)
            if other.provenance.get("dataset") == found.provenance.get("dataset") and _form(other) is not None:
                there.append(file.parent.name)
        except UserError:  # what cannot be read or exported is no advice
            continue
    if not there:
        return "export another --method, once a run has kept one, such as zero-shot or aape-plus"
    return f"of the methods kept beside it these can: {', '.join(there)}"


def _why_not(found: Checkpoint) -> str:
    predictor = found.predictor
    if hasattr(predictor, "buffer"):
        return "it learns while it judges, and a program does not change"
    if hasattr(predictor, "view_logits"):
        return "it looks at several views of each image, and a program is given one embedding"
    if hasattr(predictor, "split_logits"):
        return "it waits for all images that are to be judged, and a program judges each by itself"
    if hasattr(predictor, "student_logits"):
        return "it reads the embeddings of a second encoder, and a program is given those of one"
    return "it has no form in plain tensor operations"


@torch.no_grad()
def _form(found: Checkpoint) -> Head | None:
    """The head; None of a kind that has no such form."""
    predictor, text = found.predictor, found.text
    match predictor:
        case LinearPredictor():
            return LinearHead(predictor.weight, predictor.bias)
        case TextPredictor():
            weights = class_weights(text, predictor.source)
            return LinearHead(weights / predictor.tau, weights.new_zeros(len(weights)))
        case GDAPredictor() | ShuffledPredictor() | SharedPredictor():
            return _affine(predictor, text)
        case CachePredictor() | APEPredictor() | APETrainedPredictor():
            _require_fitted(found, predictor.names)
            return _of_cache(predictor, text)
        case ProKeRPredictor():
            _require_fitted(found, predictor.names)
            rows = [predictor.names.index(name) for name in text.names]
            weight, values = class_weights(text, "ensemble") / predictor.tau, predictor.values[:, rows] / predictor.tau
            return CacheHead(weight, predictor.keys, values, beta=predictor.beta)
        case AWTPredictor():
            return WeightedHead(predictor, text)
        case ShiftedPredictor():
            return ShiftedHead(predictor.weight / predictor.tau, predictor.shift)
        case AdapterPredictor():
            return AdapterHead(predictor, class_weights(text, "ensemble"))
        case AAPEPlusPredictor():
            _require_fitted(found, predictor.names)
            return _of_aape_plus(predictor, text)
        case ShotsPredictor():
            return CacheHead(
                predictor.weight, predictor.keys, predictor.values, beta=predictor.sharpness, bias=predictor.bias
            )
        case AAPEPredictor():
            if not (isinstance(predictor.classifier.h, Chain) and predictor.classifier.head in ("none", "full")):
                return _of_aape(predictor, text)
    return None


def _of_cache(predictor: CachePredictor | APEPredictor | APETrainedPredictor, text: ClassText) -> Head:
    place = {name: i for i, name in enumerate(text.names)}
    labels = torch.tensor([place[name] for name in predictor.names])[predictor.labels]
    weights, values = class_weights(text, "ensemble"), predictor.alpha * one_hot(labels, len(text))
    if isinstance(predictor, CachePredictor):
        return CacheHead(weights / predictor.tau, predictor.keys, values, beta=predictor.beta)
    values = values * predictor.shares[:, None]
    if isinstance(predictor, APETrainedPredictor):
        weight = predictor.class_weights(text) / predictor.tau
        return CacheHead(weight, predictor.keys, values, beta=predictor.beta)
    weight = weights / predictor.tau
    return PartCacheHead(weight, predictor.keys, values, beta=predictor.beta, mask=predictor.mask)


def _of_aape_plus(predictor: AAPEPlusPredictor, text: ClassText) -> Head:
    rows = [predictor.names.index(name) for name in text.names]
    if len(predictor.shots.keys):
        return KernelAttendedHead(predictor, text, rows)
    return AttendedHead(predictor, text, rows) if predictor.attends else _affine(predictor, text)


def _of_aape(predictor: AAPEPredictor, text: ClassText) -> Head:
    classifier, tau = predictor.classifier, predictor.tau
    weights, base = predictor.class_weights(text)
    if classifier.h is None:
        weights = (
            torch.zeros_like(weights) if classifier.head == "none" else classifier.text_side(weights, base).weights
        )
        return LinearHead(weights / tau, weights.new_zeros(len(weights)))
    if classifier.head == "none":
        return QueryHead(classifier, weights, tau)
    if classifier.head == "full":
        return FullHead(classifier, weights, tau)
    if isinstance(classifier.h, Chain):
        return ChainedHead(classifier, weights, base, tau)
    return BottleneckHead(classifier, weights, base, tau)


def _require_fitted(found: Checkpoint, names: tuple[str, ...]) -> None:
    if set(found.text.names) != set(names):
        raise UserError(f"{found.path}: names classes that had no shots: only fitted classes can be exported")


def _affine(predictor: Predictor, text: ClassText) -> LinearHead:
    """The head of a predictor that is affine in the image: its rows are the scores of the unit vectors."""
    rows = torch.eye(text.template.shape[1])
    bias = predictor.logits(torch.zeros_like(rows[:1]), text)[0]
    return LinearHead((predictor.logits(rows, text) - bias).T.contiguous(), bias)
