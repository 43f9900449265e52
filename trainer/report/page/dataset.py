"""What the sections of a data set are made from, each part read once and only when a section asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stages import ImageStore, ManifestStore, UserError
from stages.stores.artifacts import CLASS_IDS
from stages.sums import read_summed
from stages.text import csv_rows
from trainer.checkpoints import folder_name, kept_in, kept_ranked
from trainer.runs.record import (
    AGAIN,
    CLASSES,
    PREDICTIONS,
    ClassCount,
    Estimates,
    Prediction,
    RunRecord,
    read_lines,
    summarize,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from stages.stores.provenance import ManifestProvenance
    from trainer.checkpoint import Checkpoint
    from trainer.data.features import Features


@dataclass(frozen=True)
class DataSet:
    """One data set's run, and its stores as far as they are still there.

    Attributes:
        results, cache: the folders.

    Every property raises a UserError with one line where what it needs is missing or damaged.
    """

    record: RunRecord
    results: Path
    cache: Path

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.record.dataset

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return self.results / "runs" / self.name

    @cached_property
    def estimates(self) -> Estimates:
        """Means and intervals."""
        return summarize(self.record)

    @property
    def judges_classes(self) -> bool:
        """Whether there are classes, one an image; a data set of captions alone has none."""
        return self.record.one_class

    def sheet(self, file: str, columns: Sequence[str], *, method: str | None = None) -> list[dict[str, str]]:
        """A CSV file of the run with one method's rows, or with none where the run has no such file.

        The method is the one that is asked for, or AAPE, where it is among them, else the first; its first seed, and
        the last of its protocols.
        """
        path = self.run / file
        try:
            if read_summed(path, mend=AGAIN) is None:
                return []
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        lines = [row for _, row in csv_rows(path)]
        wanted = ("protocol", "method", "seed", *columns)
        head = lines[0] if lines else []
        if not set(wanted) <= set(head) or any(len(row) != len(head) for row in lines):
            raise UserError(f"{path}: expected the columns {', '.join(wanted)}: run `trainer run` again")
        rows = [dict(zip(head, row, strict=True)) for row in lines[1:]]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        ours = [each for each in methods if each == method or (method is None and each.partition("@")[0] == "aape")]
        own = [row for row in rows if row["method"] in (ours or methods)[:1]]
        return [row for row in own if (row["protocol"], row["seed"]) == (own[-1]["protocol"], own[0]["seed"])]

    @cached_property
    def best(self) -> str:
        """The method that serves: best on validation images, of those whose classifier is kept."""
        order = kept_ranked(self.run)
        if not order:
            raise UserError("the run kept no classifier, since no protocol of it serves new images")
        return order[0].name

    @property
    def best_folder(self) -> Path:
        """Its checkpoint."""
        return kept_in(self.run)[folder_name(self.best)]

    @cached_property
    def predictions(self) -> list[Prediction]:
        """What the best one says of every test image."""
        found = read_lines(self.best_folder / PREDICTIONS, Prediction)
        if not found:
            raise UserError("there are no predictions of test images")
        return found

    @cached_property
    def classes(self) -> list[ClassCount]:
        """Test images and right ones of every class, by the best one."""
        found = read_lines(self.best_folder / CLASSES, ClassCount)
        if not found:
            raise UserError("there are no predictions of test images")
        return found

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The best one, loaded."""
        from trainer.checkpoint import load_checkpoint

        return load_checkpoint(self.best_folder)

    @cached_property
    def features(self) -> Features:
        """The embeddings that the run was made from; refused where the stores are others by now."""
        from trainer.analysis.prompts import features_of
        from trainer.data.features import load_features

        if kept_ranked(self.run):
            found = features_of(self.checkpoint, self.cache)
        else:
            found = load_features(self.cache, self.name, self.record.encoder, device="cpu")
        for store, content in self.record.origin.contents.items():
            if found.contents.get(store, content) != content:
                raise UserError(f"{self.cache}/{store} was written again since this run: run `trainer run` again")
        return found

    @property
    def note(self) -> str:
        """The honest line about the encoder; empty where there is none, or its store is gone."""
        try:
            return ImageStore(self.cache, self.name, self.record.encoder).provenance().note
        except UserError:
            return ""

    @cached_property
    def manifest(self) -> pa.Table:
        """All rows of the manifest, without captions and questions."""
        wanted = ["image_id", "path", "class_id", "class_name", "split", "width", "height", "sha256", "error"]
        store = ManifestStore(self.cache, self.name)
        return store.read([*wanted, *[CLASS_IDS] * store.is_multi_label])

    @cached_property
    def manifest_origin(self) -> ManifestProvenance:
        """Its footer."""
        return ManifestStore(self.cache, self.name).provenance()
