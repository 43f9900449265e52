"""model-card.md: what a classifier was made from, how well it does, where its limits lie, how to call it.

After Mitchell et al., "Model cards for model reporting" (FAT* 2019). Everything in it is read from the checkpoint and
the run's record; what neither says is said to be not known. Names are the user's, and escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.command import visible
from trainer.checkpoint import Checkpoint
from trainer.paired import LOGISTIC
from trainer.record import Estimate, Origin, RunRecord, summarize
from trainer.report.tables import escaped
from trainer.report.verdict import share95_of

NOT_KNOWN = "not known"
LEFT_OUT = ("uncalibrated_", "adaptive_")
"""Metrics that stand in the run's tables and not here."""
LOADED = {
    "torch": [
        "import json, torch",
        'head = torch.export.load("head.pt2").module()',
        'names = json.load(open("labels.json", encoding="utf-8"))["classes"]',
        "shares = head(torch.as_tensor(x, dtype=torch.float32))",
    ],
    "onnx": [
        "import json, numpy, onnxruntime",
        'head = onnxruntime.InferenceSession("head.onnx")',
        'names = json.load(open("labels.json", encoding="utf-8"))["classes"]',
        'shares = head.run(None, {"images": numpy.asarray(x, dtype=numpy.float32)})[0]',
    ],
    "numpy": ["from head import CLASSES as names, probabilities", "shares = probabilities(x)"],
}
"""Lines of Python that answer for embeddings `x`, in the folder of the files."""


def model_card(found: Checkpoint, labels: Mapping[str, Any], *, form: str, record: RunRecord | None) -> str:
    """The card as Markdown.

    Args:
        labels: of `labels_of`.
        form: how the head was written, `torch`, `onnx` or `numpy`.
        record: of the run that the checkpoint is of; None where it lies by itself.
    """
    sections = {
        "How to call it": _call(labels, form),
        "How well it does": _results(found, record),
        "Limits": _limits(found, record),
        "Data": _data(found, record),
        "Text": _text(found, record),
        "Encoder": _encoder(labels),
        "Made by": _made(found, record),
        "Images of each class": _classes(found, record),
    }
    title = f"# {escaped(str(labels['method']))} on {escaped(str(labels['dataset']))}"
    about = (
        f"A classifier of {len(found.text)} classes. It takes the image embeddings of an encoder, no images, and gives "
        "a probability for each class."
    )
    parts = [f"## {name}\n\n" + "\n".join(lines) for name, section in sections.items() if (lines := list(section))]
    return "\n\n".join([title, about, *parts]) + "\n"


def _call(labels: Mapping[str, Any], form: str) -> Iterator[str]:
    yield (
        f"Input `x`: (B, {labels['width']}) embeddings of the encoder below, each divided by its length. Output: "
        "probabilities (B, C); `labels.json` names the columns. Memory grows with B x C: large sets in batches. In "
        "this folder:"
    )
    lines = [*LOADED[form], "best = [names[i] for i in shares.argmax(1)]"]
    yield "\n".join(["", "```python", *lines, "```"])


def _results(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    if record is None:
        yield f"{NOT_KNOWN}: the checkpoint was exported without its run."
        return
    name, estimates = _name(found), summarize(record)
    images = f"{record.test_images} test images, which had no say in any choice"
    yield f"On {images}; mean ± 95 % interval over {record.seeds_text}."
    yield ""
    yield "| protocol | metric | this classifier | logistic regression |"
    yield "|---|---|---|---|"
    for protocol, about in record.protocols.items():
        by_method = estimates.get(protocol, {})
        for metric, estimate in by_method.get(name, {}).items():
            if metric.startswith(LEFT_OUT):
                continue
            beside = by_method.get(LOGISTIC, {}).get(metric)
            yield f"| {escaped(about.title)} | {metric} | {_value(metric, estimate)} | {_value(metric, beside)} |"
    yield ""
    yield (f"Exported is the fit of seed {found.provenance.get('seed', NOT_KNOWN)}. {_temperature(found)}")


def _value(metric: str, estimate: Estimate | None) -> str:
    """Percent; `nll` and `brier` are no shares."""
    if estimate is None or estimate.mean is None:
        return "-"
    scale, digits, unit = (1, 3, "") if metric in ("nll", "brier") else (100, 1, " %")
    spread = "" if estimate.ci95 is None else f" ± {scale * estimate.ci95:.{digits}f}"
    return f"{scale * estimate.mean:.{digits}f}{unit}{spread}"


def _temperature(found: Checkpoint) -> str:
    if found.calibration is None:
        return "The probabilities are not calibrated: no labelled image was left for that."
    return (
        f"The probabilities are calibrated: temperature {found.temperature:.3g}, fitted on {found.calibration.images} "
        f"images ({found.calibration.source})."
    )


def _limits(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    yield "- It answers with one of its classes whatever the image shows."
    yield "- It is of use with embeddings of the encoder below alone: others of the same width give answers at random."
    shots = found.provenance.get("shots", NOT_KNOWN)
    yield f"- It learnt from {shots} images a class, and covers no pictures unlike them."
    if record is None:
        return
    if (both := share95_of(record, _name(found))) is not None:
        yield f"- {record.test_images} test images and the seeds leave its accuracy open by ± {100 * both:.1f} points."
    for each in next((fit.confused for fit in record.fits if fit.method == _name(found) and fit.confused), ()):
        taken = f"{each.images} of {each.of} test images were taken for {escaped(each.predicted)}"
        yield f"- {escaped(each.actual)}: {taken}."
    for note in dict.fromkeys([*record.notes, *found.provenance.get("notes", [])]):
        yield f"- {escaped(note)}"


def _data(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    origin = Origin() if record is None else record.origin
    yield f"- data set: {escaped(str(found.provenance.get('dataset', NOT_KNOWN)))}, {len(found.text)} classes"
    yield f"- source: {escaped(origin.source or NOT_KNOWN)}"
    yield f"- licence of the images: {escaped(origin.licence or NOT_KNOWN)}"
    for split, counts in origin.images.items():
        yield f"- {split}: {sum(counts)} images, {min(counts)} to {max(counts)} a class"
    for store, content in origin.contents.items():
        yield f"- {escaped(store)}: rows sha256 `{content[:16]}`"


def _text(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    source = found.provenance.get("source")
    prompts = {} if record is None else record.origin.prompts
    if source in (None, "none"):
        yield "No generated sentence: the class names in a template, or no text at all."
        return
    yield f"Sentences about the classes: {escaped(prompts.get(str(source), str(source)))}."


def _encoder(labels: Mapping[str, Any]) -> Iterator[str]:
    yield f"- name: `{_code(str(labels['encoder']))}`"
    yield f"- weights, preprocessing and tokenizer, sha256: `{labels['encoder_fingerprint']}`"
    yield f"- preprocessing: {labels['preprocessing']}"


def _made(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    about = found.provenance
    version = (record.origin.code_version if record is not None else "") or NOT_KNOWN
    yield f"- code: aape {escaped(version)}"
    yield f"- method: {escaped(str(about.get('method', NOT_KNOWN)))}, seed {about.get('seed', NOT_KNOWN)}"
    for key, value in found.predictor.info.items():
        yield f"- {escaped(key)}: {escaped(f'{value:.4g}' if isinstance(value, float) else str(value))}"


def _classes(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    images = {} if record is None else record.origin.images
    if not images or any(len(counts) != len(found.text) for counts in images.values()):
        return
    yield f"| class | {' | '.join(images)} |"
    yield "|---" * (len(images) + 1) + "|"
    for name, *counts in zip(found.text.names, *images.values(), strict=True):
        yield f"| {escaped(name)} | {' | '.join(map(str, counts))} |"


def _name(found: Checkpoint) -> str:
    return str(found.provenance.get("name") or found.provenance.get("method"))


def _code(text: str) -> str:
    """Inside backticks."""
    return visible(text).replace("`", "'")
