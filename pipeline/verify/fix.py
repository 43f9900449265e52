"""Making wrong stores again with the commands that made them, in order, and leaving the sound ones alone.

Settings are those of params.yaml as it is now. A damaged store is put aside, not deleted, until its successor is in
place; what cannot be made again stays as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.verify.checks import Fault, parents
from pipeline.verify.commands import command_for, readable_origin
from pipeline.verify.places import aside, files_of
from pipeline.verify.report import Inspection, Report, verify
from stages import Provenance, UserError
from stages.command import say
from stages.files import user_errors
from stages.params import Params
from stages.stores.artifacts import STORES, Store

Run = Callable[[Sequence[str]], None]
"""Runs one `pipeline` command, given its words; raises where it fails."""


@dataclass(frozen=True)
class Fixed:
    """What `fix` did.

    Attributes:
        done: one line a store that was made again.
        left: one line a store that was not, with the reason.
        report: what a last look at all stores found.
    """

    done: list[str]
    left: list[str]
    report: Report


def fix(cache: Path, params: Params, run: Run, dataset: str | None = None) -> Fixed:
    """Make again what `verify` finds wrong: manifests, then prompts, text and images.

    Each kind is judged by what is there once the kinds before it are mended, so that what no longer belongs to a
    store that came out differently is made again too, and nothing else is touched.

    Raises:
        UserError: there is no store, or a damaged one cannot be put aside (read-only folder).
    """
    inspection = Inspection(cache, dataset)
    done: list[str] = []
    left: list[str] = []
    for kind in STORES:
        _mend(inspection.kind(kind), inspection, params, run, done, left)
    _mend(inspection.encoders(), inspection, params, run, done, left, put_aside=False)
    return Fixed(done, left, verify(cache, dataset))


def _mend(
    faults: list[Fault], inspection: Inspection, params: Params, run: Run, done: list[str], left: list[str], *,
    put_aside: bool = True,
) -> None:  # fmt: skip
    """Run the command of each faulty store once; `put_aside` where the command would take the store for a good one."""
    damaged = {store.file for fault in faults if not fault.sound for store in fault.stores}
    jobs: dict[tuple[str, ...], list[Store]] = {}
    for store in {store.file: store for fault in faults for store in fault.stores}.values():
        unsound = [parent.file for parent in parents(store) if parent.file not in inspection.sound]
        try:
            if unsound:
                raise UserError(f"{unsound[0]} has to be mended first")
            jobs.setdefault(command_for(store, params), []).append(store)
        except UserError as error:
            left.append(f"{store.file}: not made again: {error}")
    for words, stores in jobs.items():
        line = f"pipeline {' '.join(words)}"
        say(f"fix: {line}")
        before = [readable_origin(store) for store in stores]
        try:
            with _put_aside([store for store in stores if put_aside and store.file in damaged]):
                run(words)
        except Exception as error:  # whatever it is, the other stores can still be mended
            left += [f"{store.file}: not made again: `{line}` failed: {error}" for store in stores]
            continue
        for store, was in zip(stores, before, strict=True):
            again = inspection.store(store)
            left += [f"still wrong after `{line}`: {fault.text}" for fault in again]
            if not again:
                done.append(f"{store.file}: made again with `{line}`{_changes(was, store)}")


@contextmanager
def _put_aside(stores: list[Store]) -> Iterator[None]:
    """Take the files of stores out of the way; those without a successor in the end come back."""
    moved = [(store, files_of(store)) for store in stores if store.exists()]
    try:
        for _, files in moved:
            for file in files:
                with user_errors(file):
                    if file.exists():  # a part may be what is missing
                        file.replace(aside(file))
        yield
    finally:
        for store, files in moved:
            done = store.exists()
            for file in reversed(files):
                if done:
                    aside(file).unlink(missing_ok=True)
                elif aside(file).exists():
                    aside(file).replace(file)


def _changes(before: Provenance | None, store: Store) -> str:
    """Which settings are no longer those that the store was made with before, e.g. flags given by hand then."""
    if before is None:
        return ""
    old, new = _settings(before), _settings(store.provenance())
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return f" (settings that differ from before: {', '.join(changed)})" if changed else ""


def _settings(origin: Provenance) -> dict[str, object]:
    """What the user can set, of all that decides the rows."""
    made_from = origin.made_from
    return {**{k: v for k, v in made_from.items() if k not in Provenance.model_fields}, **made_from["settings"]}
