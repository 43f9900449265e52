"""One trial each: a copy of the project is damaged, a command is typed, and what it does is judged."""

import hashlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from stages.sums import SUMS
from tests.campaign import damage as harm
from tests.campaign.commands import Done, faults, rests, tree_of, typed, without_pictures
from tests.campaign.project import CHANGING, RESULT_COMMANDS, RESUMED, STORE_COMMANDS, of_method

MEMORY = 6 * 2**30
PLACES = ("..x", "a b", "$(touch escaped)", "名前", "-x", "w\n")
READERS = {
    "run.json": ("report", "compare", "two methods", "gap"), "timing.json": ("report",), "curves.csv": ("report",),
    "outcomes.csv": ("compare", "two methods"), "checkpoint.json": ("gap", "predict", "export"),
    "predictions.csv": ("report",),
}  # fmt: skip
"""What reads a file of a run."""
Verdict = dict[str, Any]
"""number, command, how, code, faults, line."""


def settings(project: Path, box: Path, rng: random.Random) -> Verdict:
    """Settings with one to three changes, in the tree or in the text."""
    text = (project / "params.yaml").read_text()
    tree, paths = _full(yaml.safe_load(text)), []
    if rng.randrange(5):
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            tree, path = harm.change(tree, rng)
            paths.append(".".join(map(str, path)))
        try:
            text = yaml.safe_dump(tree, allow_unicode=bool(rng.randrange(2)))
        except (yaml.YAMLError, RecursionError):
            text = json.dumps(tree)
        data = text.encode("utf-8", "surrogatepass")
    else:
        data = harm.bytes_changed(text.encode(), rng, b"a: [1, {b: 2}]\nc: !!python/object:os.system x\n" * 30)
    (box / "params.yaml").write_bytes(data)
    shutil.copytree(project / "cache", box / "cache")
    words = rng.choice([
        ["trainer", "run", "--methods", "nearest-centroid,zero-shot", "--jobs", "1", "--no-report", "--json"],
        ["trainer", "run", "--methods", "nearest-centroid,zero-shot", "--jobs", "1", "--no-report", "--json"],
        ["trainer", "run", "--methods", "aape", "--protocol", "few-shot", "--shots", "1", "--seeds", "1", "--jobs", "1",
         "--no-report", "--json"],
        ["pipeline", "ingest"], ["pipeline", "import-prompts"], ["pipeline", "embed-text"],
        ["pipeline", "verify", "--json"],
    ])  # fmt: skip
    done = typed(words, box)
    return _judged(done, box, how=", ".join(paths) or "bytes", names=())


def _full(tree: dict[str, Any]) -> dict[str, Any]:
    """With the settings that the project leaves at their defaults, so that each can be changed."""
    from stages.params import Params

    whole = Params.model_validate(tree).model_dump(mode="json", by_alias=True)
    whole["datasets"] = ["w"]
    return whole


def results(project: Path, box: Path, rng: random.Random) -> Verdict:
    """A file of a run, or beside it, is damaged; half of the times what seals it is made to fit again."""
    for name in ("params.yaml", "picture.png"):
        shutil.copy(project / name, box / name)
    for name in ("results", "other", "cache"):
        shutil.copytree(project / name, box / name)
    files = sorted(f for f in (box / "results").rglob("*") if f.is_file() and f.suffix in (".json", ".csv", ""))
    kind = rng.choice([*READERS, *READERS, *{f.name for f in files}])
    file = rng.choice([f for f in files if f.name == kind])
    how = harm.damage(file, files, rng)
    sealed = bool(rng.randrange(2)) and file.name != SUMS
    if sealed:
        _seal_again(file)
    if rng.randrange(25) == 0:
        file, how = box / "results" / "runs" / rng.choice(PLACES), "folder"
        (box / "results" / "runs" / "w").rename(file)
    readers = READERS.get(file.name, ()) if rng.randrange(5) else ()
    name = rng.choice(readers or list(RESULT_COMMANDS))
    words = [*RESULT_COMMANDS[name]]
    if file.name == "checkpoint.json" and name in ("gap", "predict", "export") and rng.randrange(4):
        words = of_method(name, file.parent.name)
    return _compared(project, box, name, words, file, how=how, sealed=sealed)


def stores(project: Path, box: Path, rng: random.Random) -> Verdict:
    """A store, its footer, its place or a checkpoint is damaged."""
    for name in ("params.yaml", "picture.png"):
        shutil.copy(project / name, box / name)
    for name in ("results", "cache"):
        shutil.copytree(project / name, box / name)
    if rng.randrange(4) == 0:
        files = sorted((box / "results" / "runs" / "w" / "checkpoints").rglob("checkpoint.*"))
        file = rng.choice(files)
        how, sealed = harm.damage(file, files, rng), bool(rng.randrange(2))
        if sealed:
            _seal_again(file)
        name = rng.choice(["gap", "export", "predict"])
        words = of_method(name, file.parent.name)
        return _compared(project, box, name, words, file, how=how, sealed=sealed)
    files = sorted((box / "cache").rglob("*.parquet"))
    file = rng.choice(files)
    how, sealed = _store_damage(file, files, rng)
    name = rng.choice(list(STORE_COMMANDS))
    return _compared(project, box, name, STORE_COMMANDS[name], file, how=how, sealed=sealed)


def _store_damage(file: Path, files: list[Path], rng: random.Random) -> tuple[str, bool]:
    """How, and whether the file is sound by itself although its content is another."""
    kind = rng.randrange(8)
    data, other = file.read_bytes(), rng.choice(files).read_bytes()
    if kind < 4:
        file.write_bytes(harm.bytes_changed(data, rng, other))
        return "bytes", False
    if kind == 4:  # the footer of another store behind these pages
        size, theirs = (int.from_bytes(each[-8:-4], "little") + 8 for each in (data, other))
        file.write_bytes(data[:-size] + other[-theirs:])
        return "footer of another", False
    if kind == 5:
        file.write_bytes(other)
        return "file of another", data == other
    if kind == 6:
        place, name = file.parent, rng.choice(PLACES)
        place.rename(place.with_name(place.name.split("=")[0] + "=" + name))
        return f"place to {name}", False
    table, footer = pq.read_table(file, partitioning=None), pq.read_metadata(file).metadata
    entry, _ = harm.change(json.loads(footer[b"aape"]), rng)
    sealed = bool(rng.randrange(2)) and isinstance(entry, dict)
    if sealed:
        entry.pop("sha256", None)
    with pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"aape": json.dumps(entry).encode()})
    return "origin", sealed


def _seal_again(file: Path) -> None:
    """Make hashes fit a damaged file, so that what reads it is put to the test."""
    if not file.is_file():
        return
    if file.name == "checkpoint.json":
        try:
            content = json.loads(file.read_bytes())
            content.pop("sha256", None)
            text = json.dumps(content, sort_keys=True, ensure_ascii=False)
            content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            file.write_text(json.dumps(content))
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass
    sums = file.with_name(SUMS)
    if sums.is_file():
        lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {file.name}")]
        lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")
        sums.write_text("\n".join(lines) + "\n")


def _compared(project: Path, box: Path, name: str, words: list[str], file: Path, *, how: str, sealed: bool) -> Verdict:
    """Type the command; where it ends well it says and writes what it does undamaged, unless all was sealed again."""
    before = tree_of(box)
    done = typed(words, box)
    places = [part for part in file.relative_to(box).parts[:-1] if "=" in part]
    names = [] if how == "folder" or how.startswith("place") else [file.name, file.parent.name, SUMS, *places]
    verdict = _judged(done, box, how=f"{how} of {file.relative_to(box)}", names=names)
    found, after = verdict["faults"], tree_of(box)
    wrote = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if wrote and name not in (CHANGING if not done.code else RESUMED):
        found.append(f"wrote {sorted(map(str, wrote))[:3]}")
    said = json.loads((project / "reference.json").read_text())[" ".join(words)]
    if not done.code and not sealed:
        if name not in ("run", *RESUMED) and done.out != said["out"]:
            found.append("says something else than undamaged")
        ours = {str(path): after[path] for path in wrote if path in after and _made(str(path), name)}
        other = [path for path, mark in ours.items() if said["tree"].get(path) != mark]
        found += [f"wrote {path}, not as undamaged" for path in other if not _tells(box / path, file)]
    return verdict


def _tells(page: Path, file: Path) -> bool:
    """Whether a page of several sections leaves one out and says that this file is why."""
    text = page.read_text() if page.suffix == ".html" else ""
    return file.name in text and any(
        word in text for word in ("has changed", "is missing", "damaged", "cannot be read")
    )


def _made(path: str, name: str) -> bool:
    """Whether a command makes this file, the same each time."""
    if path.endswith((".png", "timing.json", SUMS)):
        return False
    return "tables.md" not in path or name != "run"


def _judged(done: Done, box: Path, *, how: str, names: Iterable[str]) -> Verdict:
    found = faults(done, [name for name in names if name])
    found += [f"left {path}" for path in rests(box)]
    found += [f"outside: {path.name}" for path in box.parent.iterdir() if path != box]
    found += ["escaped"] * any(path.name.startswith("escaped") for path in box.rglob("*") if path.is_file())
    lines = [line for line in done.err.splitlines() if line.lower().startswith("error")]
    return {"command": " ".join(done.words[:2]), "how": how, "code": done.code, "faults": found,
            "line": (lines or done.err.splitlines() or [""])[-1][:300]}  # fmt: skip


PARTS: dict[str, Callable[[Path, Path, random.Random], Verdict]] = {
    "settings": settings, "results": results, "stores": stores,
}  # fmt: skip


def work(part: str, seed: int, project: Path, numbers: list[int], log: Path) -> None:
    """Do some trials in this process, a line of the log each; one that is begun and not ended has ended the process."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    without_pictures()
    with log.open("a") as file:
        for number in numbers:
            file.write(json.dumps({"number": number}) + "\n")
            file.flush()
            room = log.parent / f"room-{os.getpid()}"
            box = room / "box"
            box.mkdir(parents=True)
            verdict = PARTS[part](project, box, random.Random(f"{part} {seed} {number}"))
            shutil.rmtree(room)
            file.write(json.dumps({"number": number, **verdict}) + "\n")
            file.flush()
