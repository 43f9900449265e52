"""Captions and answers for image files never seen, with a checkpoint of captioning or VQA."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.command import table
from stages.device import pick_device
from stages.errors import UserError, nearest
from trainer.checkpoint import RECORD, Learned, load_learned
from trainer.checkpoints import KEPT, folder_name
from trainer.language.model import find_language_model
from trainer.language.places import caption, language_of
from trainer.language.prefix import Prefix, require_language
from trainer.language.questions import Asking, plain
from trainer.predict import ImageEncoder, Row, embed_files, encoder_of, find_images
from trainer.runs.record import load_record

PROTOCOLS = ("captioning", "vqa")
"""Whose checkpoints speak, in this order."""


class Speaking(NamedTuple):
    """A checkpoint that speaks.

    Attributes:
        folder: of the checkpoint.
        why: one line for the user.
    """

    folder: Path
    why: str


def choose_speaker(results: Path, dataset: str | None, method: str | None) -> Speaking:
    """The checkpoint of this method, or of the one with the least loss on validation images.

    Args:
        dataset: None takes the only one there is.

    Raises:
        UserError: there is none, or more than one data set to choose from.
    """
    found: dict[str, dict[str, Path]] = {}
    for run in sorted((results / "runs").glob("[!.]*")):
        for protocol in reversed(PROTOCOLS):
            there = {file.parent.name: file.parent for file in sorted((run / KEPT).glob(f"{protocol}*/*/{RECORD}"))}
            if there:
                found[run.name] = found.get(run.name, {}) | there
    if not found:
        raise UserError(
            f"{results}/runs: no checkpoint that speaks: run `trainer run --dataset NAME --protocol captioning` "
            "first, or give --checkpoint DIR"
        )
    if dataset is None and len(found) == 1:
        dataset = next(iter(found))
    if dataset not in found:
        asked = "several data sets have checkpoints" if dataset is None else f"no checkpoint of {dataset!r}"
        raise UserError(f"{results}/runs: {asked}; choose with --dataset: {', '.join(found)}", exit_code=2)
    folders = {name: folder for name, folder in found[dataset].items() if name != "no-image"}
    if method is not None:
        if folder_name(method) not in folders:
            raise UserError(
                f"{results}/runs/{dataset}: no checkpoint of {method!r}; {nearest(method, list(folders))}", exit_code=2
            )
        return Speaking(folders[folder_name(method)], f"{method} of {dataset}")
    losses = _losses(results / "runs" / dataset)
    best = min(folders, key=lambda name: (losses.get(name, math.inf), name))
    loss = losses.get(best, math.inf)
    why = f"the least loss on images held out ({loss:.3f} nats a token)" if loss < math.inf else "no loss was measured"
    return Speaking(folders[best], f"{best} of {dataset}, {why}; another one with --method NAME")


def _losses(run: Path) -> dict[str, float]:
    """Folder of a method -> its mean loss on images that it did not learn from."""
    values: dict[str, list[float]] = {}
    for fit in load_record(run).fits:
        loss = fit.info.get("val_loss")
        if fit.protocol.startswith(PROTOCOLS) and isinstance(loss, float):
            values.setdefault(folder_name(fit.method), []).append(loss)
    return {name: math.fsum(found) / len(found) for name, found in values.items()}


def speaker(folder: Path, *, llm: str | None, device: str, files: Sequence[Path]) -> tuple[Learned, ImageEncoder]:
    """A checkpoint with the encoder that it was trained with; its language model is checked before the encoder loads.

    Args:
        llm: the language model by another name or place; its weights have to be those of the checkpoint.
        files: what is to be described; no encoder is loaded where all of them hold embeddings.

    Raises:
        UserError: the checkpoint is damaged, or encoder or language model are not those that it was trained with.
    """
    found = load_learned(folder, Prefix, device=pick_device(device))
    predictor: Prefix = found.predictor
    if llm is not None:
        predictor.settings = predictor.settings.model_copy(update={"llm": llm})
    asked = predictor.settings
    require_language(predictor, find_language_model(asked.llm, precision=asked.precision), where=found.path)
    return found, encoder_of(found, folder, device=device, files=files)


def caption_files(
    paths: Sequence[Path], folder: Path, *, llm: str | None, beams: int | None, batch: int, device: str
) -> tuple[list[Row], list[str]]:
    """A row `{path, error, caption}` for every file, and the notes of encoder and language model.

    Raises:
        UserError: see `speaker`.
    """
    files = find_images(paths)
    found, encoder = speaker(folder, llm=llm, device=device, files=files)
    predictor: Prefix = found.predictor
    if beams is not None:
        predictor.settings = predictor.settings.model_copy(update={"beams": beams})
    rows: list[Row] = []
    for each in embed_files(files, encoder, batch=batch, what="captions"):
        for row in each.rows:
            row.pop("classes")
            row["caption"] = None
        rows += each.rows
        if each.readable:
            said = caption(predictor, each.images.to(pick_device(device)))
            for row, text in zip(each.readable, said, strict=True):
                row["caption"] = text
    return rows, _notes(encoder, predictor)


def ask_file(
    path: Path, question: str, folder: Path, *, choices: Sequence[str], llm: str | None, device: str
) -> tuple[dict[str, Any], list[str]]:
    """`{path, question, answer}` and, with choices, the log-likelihood of each; and the notes.

    Raises:
        UserError: the image cannot be read, the question is empty, or see `speaker`.
    """
    question = " ".join(question.split())
    if not question:
        raise UserError("the question is empty", exit_code=2)
    found, encoder = speaker(folder, llm=llm, device=device, files=[path])
    predictor: Prefix = found.predictor
    batch, *more = embed_files([path], encoder, batch=1, what="image")
    if more:
        raise UserError(f"{path}: holds several images: ask about one", exit_code=2)
    if not batch.readable:
        raise UserError(f"{path}: cannot be read ({batch.rows[0]['error']})")
    x = batch.images[0].to(pick_device(device))
    language = language_of(predictor, x.device)
    prompt = Asking(language, predictor).prompt(x, question)
    row: dict[str, Any] = {"path": str(path), "question": question}
    if choices:
        likely = language.likelihoods(prompt, [language.tokens(f" {choice}") for choice in choices])
        row["answer"] = choices[int(likely.argmax())]
        row["choices"] = dict(zip(choices, (round(value, 4) for value in likely.tolist()), strict=True))
    else:
        settings = predictor.settings
        (said,) = language.generate([prompt], most=settings.answer_tokens, beams=settings.beams)
        row["answer"] = plain(language.text(said))
    return row, _notes(encoder, predictor)


def _notes(encoder: ImageEncoder, predictor: Prefix) -> list[str]:
    llm = find_language_model(predictor.settings.llm, precision=predictor.settings.precision)
    return [note for note in (encoder.note, llm.note) if note]


def captions_text(rows: Sequence[Row]) -> str:
    """The rows for people."""
    return table(["path", "caption", "error"], [[row["path"], row["caption"], row["error"]] for row in rows])


def captions_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "caption", "error"])
    writer.writerows([row["path"], row["caption"], row["error"]] for row in rows)
    return text.getvalue().rstrip("\n")
