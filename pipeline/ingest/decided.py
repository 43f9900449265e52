"""Which files of decisions an ingest takes: those of the settings; with `--labels` or `--exclude` also those that the
manifest was made with, so that one round of labels does not undo the one before.
"""

from collections.abc import Sequence
from pathlib import Path

from stages import ManifestProvenance, ManifestStore
from stages.params import DataParams


def with_decisions(
    cache: Path,
    dataset: str,
    data: DataParams,
    *,
    labels: Sequence[str] = (),
    exclude: Sequence[str] = (),
    new_classes: Sequence[str] = (),
) -> tuple[DataParams, list[str]]:
    """Settings with the decisions to take, and lines for the user about those of the manifest that is there.

    Without a source in the settings or on the line, that of the manifest is read again as it was read then, under the
    decisions of then.

    Args:
        labels, exclude, new_classes: of the line.
    """
    store = ManifestStore(cache, dataset)
    found = store.provenance() if store.exists() else None
    before = found if isinstance(found, ManifestProvenance) else None
    asked = bool(labels or exclude or new_classes) or data.source is None
    lines: list[str] = []
    if asked and data.source is None and before is not None and before.source is not None:
        read = DataParams(**before.reading)
        named = {} if before.encoder is None or data.encoder_name is not None else {"encoder_name": before.encoder}
        data = data.model_copy(
            update={"source": before.source} | {name: getattr(read, name) for name in before.reading} | named
        )
        lines.append(f"source {before.source}, as before")
    if before is not None and before.source != data.source:
        before = None
    kinds = {
        "labels": (data.label_files, labels, before.labels if before else []),
        "exclude": (data.exclude_files, exclude, before.excluded if before else []),
    }
    update: dict[str, list[str]] = {}
    for setting, (own, given, old) in kinds.items():
        others = [name for name in old if name not in (*own, *given)]
        shown = ", ".join(others)[:200]
        if others and asked:
            lines.append(f"taken again, as before: {shown}")
        elif others:
            lines.append(f"no longer taken, though it was before: {shown} (name it in data.{dataset}.{setting})")
        update[setting] = list(dict.fromkeys([*own, *(others if asked else []), *given]))
    earlier = before.reading.get("new_classes", []) if asked and before else []
    update["new_classes"] = list(dict.fromkeys([*earlier, *data.new_classes, *new_classes]))
    return data.model_copy(update=update), lines
