"""The audit's report: a table for people, lists that `pipeline ingest` takes, contact sheets."""

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.audit.audit import Report
from pipeline.audit.finding import COLUMNS, KINDS, Finding
from pipeline.search import ImageHit, contact_sheet
from stages import ManifestProvenance, ManifestStore
from stages.command import table, visible
from stages.decisions import require_unfilled, write_list
from stages.errors import UserError
from stages.files import write_text

SHEET = 100
"""Findings of a contact sheet."""
EXCLUDE = ("image_id", "kind", "score", "detail")


def tables(report: Report, *, top: int) -> str:
    """What was found, kind by kind, the first `top` of each; then the classes."""
    parts = []
    if report.findings:
        kinds = [kind for kind in KINDS if any(each.kind == kind for each in report.findings)]
        counts = [(kind, sum(each.kind == kind for each in report.findings)) for kind in kinds]
        parts.append(table(["kind", "findings"], counts))
        rows = [
            (row["rank"], row["kind"], f"{row['score']:.3f}", *(visible(str(row[name] or "")) for name in
            ("image_id", "split", "class_name", "detail", "other_image_id")))
            for kind in kinds
            for row in [row for row in report.listed() if row["kind"] == kind][:top]
        ]  # fmt: skip
        parts.append(table(["rank", "kind", "score", "image", "split", "class", "finding", "other image"], rows))
    if report.classes:
        rows_of = [
            (each.kind, f"{each.score:.2f}", visible(each.class_name), visible(each.other_class_name or ""),
             visible(each.detail))
            for each in report.classes[: 2 * top]
        ]  # fmt: skip
        parts.append(table(["kind", "score", "class", "other class", "finding"], rows_of))
        if len(report.classes) > 2 * top:
            parts.append(f"... and {len(report.classes) - 2 * top} more about classes (--json has all)")
    return "\n\n".join(parts) or "nothing found"


def check_folder(folder: Path, cache: Path, dataset: str) -> None:
    """Keep lists that hold decisions.

    Raises:
        UserError: a list that would be written or removed there was filled in, or the data set was ingested with it;
            there is no manifest.
    """
    origin = ManifestStore(cache, dataset).provenance()
    assert isinstance(origin, ManifestProvenance)
    used = {Path(name).resolve() for name in (*origin.labels, *origin.excluded)}
    for file in (folder / "audit.csv", *(folder / f"exclude-{kind}.csv" for kind in KINDS)):
        if file.exists() and file.resolve() in used:
            raise UserError(
                f"{file}: {dataset} was ingested with it, and it is not written over: name another folder with --out"
            )
    require_unfilled(folder / "audit.csv")


def write_report(report: Report, folder: Path) -> Iterator[str]:
    """Write audit.csv, audit.json, an exclude list and a contact sheet a kind; yields what was written.

    Raises:
        UserError: the folder cannot be written.
    """
    write_list(folder / "audit.csv", COLUMNS, report.listed())
    write_text(folder / "audit.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")
    yield "audit.csv"
    yield "audit.json"
    for kind in KINDS:
        some = [each for each in report.findings if each.kind == kind]
        exclude, sheet = folder / f"exclude-{kind}.csv", folder / f"sheet-{kind}.png"
        if not some:  # of an audit before this one
            exclude.unlink(missing_ok=True)
            sheet.unlink(missing_ok=True)
            continue
        rows = [{name: getattr(each, name) for name in EXCLUDE} for each in some]
        write_list(exclude, EXCLUDE, rows)
        yield exclude.name
        if report.root is not None and kind != "unreadable":
            contact_sheet(list(_hits(report, some)), sheet, title=f"{report.dataset}: {kind}", notes=[_NOTE[kind]])
            yield sheet.name


_PAIR = "each finding, and beside it the image that is the evidence; the number is the score"
_ALONE = "the number is the score, 1 the surest"
_NOTE = {kind: _PAIR if kind in (*KINDS[:3], "wrong-label") else _ALONE for kind in KINDS}


def _hits(report: Report, findings: list[Finding]) -> Iterator[ImageHit]:
    """The images of some findings, each with its evidence behind it."""
    ranks = {id(each): rank for rank, each in enumerate(report.findings, 1)}
    for finding in findings[:SHEET]:
        for image_id in filter(None, (finding.image_id, finding.other)):
            row = report.rows[image_id]
            own = image_id == finding.image_id
            name = row["class_name"] or ""
            if own and finding.suggested is not None:
                name = f"{name} (or {finding.suggested}?)"
            yield ImageHit(
                ranks[id(finding)], finding.score, report.dataset, image_id, name if own else f"= {name}",
                row["split"], report.root, row["path"],
            )  # fmt: skip
