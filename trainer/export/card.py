"""model-card.md: what a classifier was made from, how well it does, where its limits lie, how to call it.

After Mitchell et al., "Model cards for model reporting" (FAT* 2019). Everything in it is read from the checkpoint and
the run's record; what neither says is said to be not known. Names are the user's, and escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.command import visible
from stages.stores.artifacts import NO_LLM
from trainer.checkpoint import Checkpoint
from trainer.data.features import notes_on
from trainer.report.tables import escaped, has_intervals
from trainer.report.verdict import share95_of
from trainer.runs.paired import LOGISTIC
from trainer.runs.record import Estimate, Origin, RunRecord, summarize

NOT_KNOWN = "not known"
LEFT_OUT = ("uncalibrated_", "adaptive_")
"""Metrics that stand in the run's tables and not here."""
IMPORTED = [
    "from pathlib import Path",
    "from pipeline.encoders import load_encoder",
    "from pipeline.images import open_rgb",
]
ENCODED = [
    'pixels = encoder.preprocess(open_rgb(Path("picture.jpg")))',
    "x = encoder.encode_images(pixels[None]).half().float().numpy()",
]
"""Lines of Python that embed a picture as the stores have it."""
NAMES = {
    "n_parameters": "learned parameters",
    "val_accuracy": "accuracy on the images that choices were made on, a fraction of 1",
    "val_loss": "mean negative log-likelihood there, in nats",
    "tau": "temperature that cosines are divided by (tau)",
}
"""What a fit says of itself, in words."""
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
    yield ""
    encoder = str(labels["encoder"])
    if not (encoder == "lite" or encoder.startswith("open_clip:")):
        yield "`x` of a new picture comes from where the embeddings that it learnt from came from."
        return
    yield "`x` of a picture, where this project is installed with its extra `encoders`, or `demo` for `lite`:"
    yield "\n".join(["", "```python", *IMPORTED, f"encoder = load_encoder({encoder!a})", *ENCODED, "```"])


def _results(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    if record is None:
        yield f"{NOT_KNOWN}: the checkpoint was exported without its run."
        return
    name, estimates = _name(found), summarize(record)
    images = f"{record.test_images} test images, which had no say in any choice"
    spread = (
        f"mean ± 95 % interval over {record.seeds_text}" if has_intervals(estimates) else "one seed, so no interval"
    )
    yield f"On {images}; {spread}."
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
    notes = notes_on(record.notes, record.origin.source_notes, [_source(found)])
    for note in dict.fromkeys([*notes, *found.provenance.get("notes", [])]):
        yield f"- {escaped(note)}"


def _data(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    origin = Origin() if record is None else record.origin
    yield f"- data set: {escaped(str(found.provenance.get('dataset', NOT_KNOWN)))}, {len(found.text)} classes"
    yield f"- source: {escaped(origin.source or NOT_KNOWN)}"
    yield f"- licence of the images: {escaped(origin.licence or NOT_KNOWN)}"
    for split, counts in origin.images.items():
        each = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"
        yield f"- {split}: {sum(counts)} images, {each} a class" if any(counts) else f"- {split}: no images"
    for store, content in origin.contents.items():
        room, _, rest = store.partition("/")
        last = rest.rpartition("/")[2]
        if room != "text" or last not in origin.prompts or last == _source(found):
            yield f"- {escaped(store)}: rows, sha256 `{content}`"


def _source(found: Checkpoint) -> str:
    """The prompt source that the method reads; `none` where it reads none."""
    return str(found.provenance.get("source") or NO_LLM)


def _text(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    source = _source(found)
    prompts = {} if record is None else record.origin.prompts
    if source == NO_LLM:
        yield "No generated sentence: the class names in a template, or no text at all."
        return
    yield f"Sentences about the classes: {escaped(prompts.get(source, source))}."


def _encoder(labels: Mapping[str, Any]) -> Iterator[str]:
    yield f"- name: `{_code(str(labels['encoder']))}`"
    yield f"- weights, preprocessing and tokenizer, sha256: `{labels['encoder_fingerprint']}`"
    yield f"- preprocessing: {labels['preprocessing']}"


def _made(found: Checkpoint, record: RunRecord | None) -> Iterator[str]:
    about = found.provenance
    version = (record.origin.code_version if record is not None else "") or NOT_KNOWN
    yield f"- code: aape {escaped(version)}"
    yield f"- method: {escaped(str(about.get('method', NOT_KNOWN)))}, seed {about.get('seed', NOT_KNOWN)}"
    info = found.predictor.info
    if "selection" in info:
        yield f"- choices were made on: {escaped(_chosen_on(str(info['selection']), record))}"
    for key, value in info.items():
        if key != "selection":
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            yield f"- {NAMES.get(key) or f'`{_code(key)}`'}: {escaped(shown)}"


def _chosen_on(selection: str, record: RunRecord | None) -> str:
    """Where there is no validation split, validation images are training images that are no shots."""
    if record is not None and record.origin.images and not any(record.origin.images.get("val", ())):
        return selection.replace("validation images,", "training images that are no shots, drawn by seed,", 1)
    return selection


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
