"""Classify image files, or embeddings, with a checkpoint: encoder and head only, no language model (section 3.3)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stages import ImageStore, UserError
from stages.command import progress, table, visible
from stages.names import is_left_behind
from stages.sheet import NoPicture
from stages.stores.provenance import NAMED
from trainer.given import GivenEncoder, are_embeddings, given_rows

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from trainer.checkpoint import Checkpoint, Learned
    from trainer.confidence.answers import Wanted


class ImageEncoder(Protocol):
    """What is needed of an encoder of `pipeline` here, which is loaded where it is used and not before."""

    name: str
    width: int
    fingerprint: str
    note: str

    @property
    def preprocess(self) -> Callable[[Image], Tensor]: ...

    @property
    def augment(self) -> Callable[[Image, Any], Tensor]: ...

    def encode_images(self, pixels: Tensor) -> Tensor: ...


Row = dict[str, Any]
"""An image: `{path, error, classes}`; a file that cannot be read has an error and no class."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders searched for images by their name, sorted; a folder of embeddings is one file.

    Raises:
        UserError: a folder without images. A file that is not there becomes a row with its error.
    """
    from pipeline.images import SUFFIXES

    files: list[Path] = []
    for path in paths:
        if not path.is_dir() or are_embeddings(path):
            files.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        inside = [p for p in inside if not any(map(is_left_behind, p.relative_to(path).parts))]
        if not inside:
            raise UserError(f"{path}: no image in this folder (looked for {', '.join(sorted(SUFFIXES))})")
        files += inside
    return files


class TextEncoder(Protocol):
    """The side of an encoder that reads sentences."""

    fingerprint: str

    def encode_text(self, texts: Sequence[str]) -> Tensor: ...


def load_text_encoder(name: str, *, device: str) -> TextEncoder:
    """An encoder by its name, for its text.

    Raises:
        UserError: it is unknown, or its weights are not there.
    """
    from pipeline.encoders import load_encoder

    return load_encoder(name, device=device)


def load_encoder_by_name(name: str, *, device: str) -> ImageEncoder:
    """An encoder by its name, for its images.

    Raises:
        UserError: it is unknown, or its weights are not there.
    """
    from pipeline.encoders import load_encoder

    return load_encoder(name, device=device)


def load_with_encoder(checkpoint: Path, *, device: str, files: Sequence[Path] = ()) -> tuple[Checkpoint, ImageEncoder]:
    """A checkpoint and the encoder that it was trained with; none is loaded where all files hold embeddings.

    Raises:
        UserError: the checkpoint is damaged, or this machine's encoder is not the one it was trained with.
    """
    from trainer.checkpoint import load_checkpoint

    found = load_checkpoint(checkpoint, several=True)
    return found, encoder_of(found, checkpoint, device=device, files=files)


def encoder_of(found: Learned, checkpoint: Path, *, device: str, files: Sequence[Path] = ()) -> ImageEncoder:
    """The encoder that something was trained with; none is loaded where all files hold embeddings.

    Raises:
        UserError: this machine's encoder is not the one it was trained with.
    """
    from pipeline.encoders import load_encoder

    name, fingerprint = str(found.provenance["encoder"]), str(found.provenance["encoder_fingerprint"])
    if files and all(map(are_embeddings, files)):
        return GivenEncoder(name, int(found.provenance["width"]), fingerprint)
    if not _at_hand(found):
        raise UserError(
            f"{checkpoint}: trained on embeddings of {name}, an encoder that is not at hand: give embeddings by it "
            "(.npz, .npy, .safetensors, .pt, Parquet) in the place of image files"
        )
    encoder = load_encoder(name, device=device)
    found.require_encoder(name=encoder.name, fingerprint=encoder.fingerprint, width=encoder.width)
    return encoder


def load_encoder_for(files: Sequence[Path], name: str, store: ImageStore | None, *, device: str) -> ImageEncoder:
    """An encoder by its name; none is loaded where all files hold embeddings, which are taken to be as the store's.

    Raises:
        UserError: it is unknown, its weights are not there, or nothing says what the embeddings are of.
    """
    from pipeline.encoders import load_encoder

    if files and all(map(are_embeddings, files)):
        about = None if store is None else store.provenance()
        if about is None or about.width is None:
            raise UserError("embeddings are compared with those of a data set, and there is none: name image files")
        because = "as those of the data set are"
        return GivenEncoder(about.encoder or name, about.width, about.encoder_fingerprint or "", because)
    return load_encoder(name, device=device)


def picture_of(file: Path) -> Image:
    """The picture of an image file.

    Raises:
        NoPicture: it cannot be read, or holds embeddings.
    """
    from pipeline.images import ImageError, open_rgb

    try:
        return open_rgb(file)
    except (ImageError, OSError) as error:
        raise NoPicture(str(getattr(error, "strerror", None) or error)) from error


def _at_hand(found: Learned) -> bool:
    """Whether the encoder may be loaded here; one that is known by its name alone may not be."""
    named = str(found.provenance["encoder_fingerprint"]).startswith(NAMED)
    return not named or str(found.provenance["encoder"]).startswith(("lite", "open_clip:"))


class Batch(NamedTuple):
    """Some of the files.

    Attributes:
        rows: one for each file.
        readable: those rows that are pictures.
        pictures: one for each readable row; none where embeddings are given.
        images: unit embeddings, float32, one row for each readable one.
        views: those of further, augmented views of each, where some were asked for and pictures are given.
    """

    rows: list[Row]
    readable: list[Row]
    pictures: list[Image]
    images: Tensor
    views: Tensor | None = None


def embed_files(
    files: Sequence[Path], encoder: ImageEncoder, *, batch: int, what: str, views: int = 0
) -> Iterator[Batch]:
    """Read and encode files, `batch` at once; those that cannot be read keep their row, with the error.

    Args:
        views: augmented views of each picture, drawn by the name of its file.

    Raises:
        UserError: see `trainer.given.given_rows`.
    """
    for given, some in groupby(files, are_embeddings):
        if given:
            for file in some:
                yield from _given(file, encoder, batch=batch)
        else:
            yield from _embed_pictures(list(some), encoder, batch=batch, what=what, views=views)


def _given(file: Path, encoder: ImageEncoder, *, batch: int) -> Iterator[Batch]:
    import torch

    for names, errors, vectors in given_rows(file, width=encoder.width, batch=batch):
        rows: list[Row] = [
            {"path": name, "error": error, "classes": []} for name, error in zip(names, errors, strict=True)
        ]
        images = torch.from_numpy(vectors).half().float()  # as pictures below
        yield Batch(rows, [row for row in rows if row["error"] is None], [], images)


def _embed_pictures(
    files: Sequence[Path], encoder: ImageEncoder, *, batch: int, what: str, views: int
) -> Iterator[Batch]:
    import torch

    from pipeline.embed.pictures import view_rng
    from pipeline.images import ImageError, open_rgb

    batches = [files[i : i + batch] for i in range(0, len(files), batch)]
    for chunk in progress(batches, what=what, unit="batch"):
        found = Batch([{"path": str(path), "error": None, "classes": []} for path in chunk], [], [], torch.empty(0))
        pixels, drawn = [], []
        for path, row in zip(chunk, found.rows, strict=True):
            try:
                picture = open_rgb(path.read_bytes())
                pixels.append(encoder.preprocess(picture))
                drawn += [encoder.augment(picture, view_rng(1, path.name, view)) for view in range(1, views + 1)]
            except (ImageError, OSError) as error:
                row["error"] = getattr(error, "strerror", None) or str(error)
            else:
                found.readable.append(row)
                found.pictures.append(picture)
        if pixels:
            # Stored embeddings are float16: the same rounding here gives the same answer as in training.
            found = found._replace(images=encoder.encode_images(torch.stack(pixels)).half().float())
        if drawn:
            augmented = encoder.encode_images(torch.stack(drawn)).half().float()
            found = found._replace(views=augmented.view(len(pixels), views, -1))
        yield found


VIEWS = 16
"""Augmented views of a picture, where a predictor looks at them."""
Extend = Callable[["Checkpoint", ImageEncoder], "tuple[Checkpoint, list[str]]"]
"""A checkpoint that serves more classes, made with its encoder, and lines to say."""


def predict_files(
    files: Sequence[Path],
    checkpoint: Path,
    *,
    top: int,
    batch: int,
    device: str,
    wanted: Wanted | None = None,
    extend: Extend | None = None,
    views: int | None = None,
) -> tuple[list[Row], list[str]]:
    """Rows with `classes: [{class, probability}]` in the order of the files, and lines to say.

    Of a checkpoint that gives several classes an image, `labels` are those above its threshold, each with a probability
    of its own.

    Args:
        wanted: what is asked for beside the likeliest classes (`trainer.confidence.answers`).
        extend: adds classes that are served by their text alone (`trainer.new_classes.with_classes`).
        views: augmented views of each picture, for a predictor that looks at them (tpt, dynaprompt, awt); None: VIEWS.

    Raises:
        UserError: the checkpoint is damaged or does not know what is asked for, or this machine's encoder is not the
            one it was trained with.
    """
    import torch

    from trainer.checkpoint import is_multi_label
    from trainer.confidence.answers import Wanted, answers

    found, encoder = load_with_encoder(checkpoint, device=device, files=files)
    notes: list[str] = []
    several, threshold = is_multi_label(found.predictor), getattr(found.predictor, "threshold", 0.5)
    if several and (extend is not None or (wanted or Wanted()) != Wanted()):
        raise UserError(
            f"{checkpoint}: gives several classes an image, each with its own probability: --add-class, "
            "--abstain-below, --error-rate and --none-of-these are about one class an image: leave them out",
            exit_code=2,
        )
    if extend is not None:
        given = isinstance(encoder, GivenEncoder)
        if given and not _at_hand(found):
            raise UserError(
                f"{checkpoint}: trained on embeddings of {encoder.name}, an encoder that is not at hand, and the name "
                "of an added class has to be embedded by it: leave --add-class out, or train on embeddings of one "
                "that is (open_clip:ARCH/PRETRAINED)"
            )
        found, notes = extend(found, load_with_encoder(checkpoint, device=device)[1] if given else encoder)
    answer = answers(found, wanted or Wanted())
    rows: list[Row] = []
    score, looks = _scorer(found)
    drawn = (views or VIEWS) if looks else 0
    if views is not None and not looks:
        name = found.provenance.get("name", "this method")
        notes.append(f"--views {views}: {name} looks at no views: each image is scored by itself")
    if looks and not isinstance(encoder, GivenEncoder):
        notes.append(f"{drawn} augmented views of each picture are looked at beside its centre crop")
    elif looks:
        notes.append("embeddings come without views: every image is scored by the one that is given")
    for each in embed_files(files, encoder, batch=max(1, batch // (1 + drawn)), what="predicting", views=drawn):
        rows += each.rows
        if each.readable:
            logits = score(each)
            shares = torch.sigmoid(logits) if several else logits.softmax(dim=-1)
            values, labels = shares.topk(min(top, shares.shape[1]), dim=-1)
            for row, value, label in zip(each.readable, values.tolist(), labels.tolist(), strict=True):
                row["classes"] = [
                    {"class": found.text.names[i], "probability": round(v, 4)}
                    for i, v in zip(label, value, strict=True)
                ]
            if several:
                for row, has in zip(each.readable, (shares > threshold).tolist(), strict=True):
                    row["labels"] = [name for name, own in zip(found.text.names, has, strict=True) if own]
                continue
            for row, more in zip(each.readable, answer.of(shares, each.images), strict=True):
                row |= more
    return rows, [note for note in (encoder.note, *notes, *answer.notes) if note]


def _scorer(found: Checkpoint) -> tuple[Callable[[Batch], Tensor], bool]:
    """What scores a batch, and whether it looks at views; an online one learns from one batch for the next."""
    import torch

    predictor, temperature = found.predictor, found.temperature
    if hasattr(predictor, "buffer"):
        buffer = predictor.buffer(found.text)

        def online(batch: Batch) -> Tensor:
            if batch.views is None:
                return found.logits(batch.images)
            every = torch.cat([batch.images[:, None], batch.views], 1)
            return torch.stack([buffer.see(views).clamp_min(1e-30).log() for views in every]) / temperature

        return online, True
    if hasattr(predictor, "view_logits"):

        def by_views(batch: Batch) -> Tensor:
            every = batch.images[:, None] if batch.views is None else torch.cat([batch.images[:, None], batch.views], 1)
            scores: Tensor = predictor.view_logits(every, found.text) / temperature
            return scores

        return by_views, True
    return (lambda batch: found.logits(batch.images)), False


def unreadable(rows: Sequence[Row]) -> str | None:
    """A line on the images that could not be read; None where all could."""
    bad = [row for row in rows if row["error"]]
    if not bad:
        return None
    return f"{len(bad)} of {len(rows)} images could not be read (first: {bad[0]['path']}: {bad[0]['error']})"


def _cells(rows: Sequence[Row], top: int) -> list[list[str]]:
    """A header and one line an image."""
    most = max((len(row["classes"]) for row in rows), default=0) or top
    more = [name for name in ("label", "labels", "reason", "set") if any(name in row for row in rows)]
    likeliest = (name for i in range(1, most + 1) for name in (f"class_{i}", f"probability_{i}"))
    lines = [["path", *more, *likeliest, "error"]]
    for row in rows:
        answered = [_cell(row.get(k)) for k in more]
        cells = [cell for c in row["classes"] for cell in (c["class"], f"{c['probability']:.4f}")]
        lines.append([row["path"], *answered, *cells, *[""] * (2 * most - len(cells)), row["error"] or ""])
    return lines


def _cell(value: str | list[str] | None) -> str:
    """A set of classes as a JSON list: a class name may hold any separator."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value or ""


def predictions_table(rows: Sequence[Row], *, top: int) -> str:
    """The rows for people, one line an image; the column of errors only where there is one.

    A name from a file is not trusted: what would steer a terminal or break the line is written as an escape.
    """
    last = None if unreadable(rows) else -1
    header, *lines = ([visible(cell) for cell in cells[:last]] for cells in _cells(rows, top))
    return table(header, lines)


def predictions_csv(rows: Sequence[Row], *, top: int) -> str:
    """The rows as CSV, one line an image."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_cells(rows, top))
    return text.getvalue().rstrip("\n")
