"""A small data set with pictures, lists about it, and `trainer serve` on it in a thread of this process."""

import csv
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import COLOURS, picture
from small_stores import CLASSES, make_stores

from stages import ManifestStore
from trainer.serve.answers import Answers, of_text
from trainer.serve.app import Session
from trainer.serve.server import Asker, listen, run, server_of, session_of

HOSTILE = {
    0: "<script>hacked=1</script>",
    1: '"><img src=x onerror=hacked=1>',
    2: "=cmd|' /C calc'!A0",
    3: "rote \u202eWeberei",
}
AUDIT = [
    "rank",
    "kind",
    "score",
    "image_id",
    "path",
    "split",
    "class_name",
    "suggested",
    "probability",
    "other_image_id",
    "other_path",
    "other_split",
    "other_class_name",
    "detail",
    "action",
    "label",
]
SUGGEST = ["rank", "score", "image_id", "path", "suggested", "probability", "action", "label"]


def make_folder(folder: Path) -> None:
    """cache/ of four classes with hostile names, images/ with their pictures, pool/ with eight more, and lists."""
    make_stores(folder / "cache", names=HOSTILE, sources=("llm",), per_split={"train": 6, "val": 1, "test": 1})
    store = ManifestStore(folder / "cache", "w")
    rows = store.read()
    colours = list(COLOURS.values())
    for seed, (image_id, label) in enumerate(
        zip(rows["image_id"].to_pylist(), rows["class_id"].to_pylist(), strict=True)
    ):
        (folder / "images" / image_id).parent.mkdir(parents=True, exist_ok=True)
        picture(colours[label], seed).save(folder / "images" / image_id, format="PNG")
    store.write(rows, store.provenance().model_copy(update={"root": str(folder / "images")}))
    (folder / "pool").mkdir()
    for seed in range(8):
        picture(colours[seed % CLASSES], 100 + seed).save(folder / "pool" / f"{seed}.png")
    write_csv(folder / "audit.csv", AUDIT, [
        {"kind": "wrong-label", "image_id": "train/0/0", "suggested": HOSTILE[1], "probability": "0.9",
         "other_image_id": "train/1/0", "detail": "out of fold <b>0.9</b>"},
        {"kind": "same-file", "image_id": "train/1/1", "other_image_id": "train/1/2", "detail": "the same bytes"},
        {"kind": "blurred", "image_id": "train/1/1", "detail": "unsharp"},
        {"kind": "outlier", "image_id": "train/2/0"},
        {"kind": "dark", "image_id": "train/3/0"},
    ])  # fmt: skip
    write_csv(folder / "suggest.csv", SUGGEST, [{"path": str(folder / "pool" / f"{i}.png")} for i in range(8)])


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def decided(file: Path) -> list[tuple[str, ...]]:
    """The rows of a file of decisions: image, action, label."""
    with file.open(newline="", encoding="utf-8") as handle:
        return [(row["image_id"] or row["path"], row["action"], row["label"]) for row in csv.DictReader(handle)]


def text_answers(folder: Path) -> Answers:
    return of_text(folder / "cache", "w", "lite", device="cpu")


@dataclass
class Served:
    """A server that runs."""

    url: str
    port: int
    token: str
    session: Session
    notes: list[str]

    def ask(
        self, path: str, value: Any = None, *, data: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON, or bytes; `headers` with _ for -, in the place of a page's own."""
        body = json.dumps(value).encode() if value is not None else data
        sent = {"X-Session-Token": self.token, **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            answer = connection.getresponse()
            found = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get("content-type", "")
        self.headers = answer.headers
        return answer.status, json.loads(found) if kind.startswith("application/json") else found

    def decide(self, item: int, action: str, label: int | None = None, seen: int = 0) -> tuple[int, Any]:
        wish = {"item": item, "action": action, "seen": seen, **({} if label is None else {"label": label})}
        return self.ask("/api/decisions", {"changes": [wish]})


@contextmanager
def served(folder: Path, answers: Answers | None, out: Path, file: str | None = "audit.csv") -> Iterator[Served]:
    asker = Asker(answers, "" if answers else "nothing is embedded")
    listed = None if file is None else folder / file
    with (
        listen("127.0.0.1", 0) as listening,
        session_of(asker, cache=folder / "cache", dataset="w", file=listed, out=out) as (session, notes),
    ):
        server, url = server_of(session, listening)
        thread = threading.Thread(target=run, args=(server, listening, session))
        thread.start()
        try:
            yield Served(url, listening.getsockname()[1], url.partition("#")[2], session, notes)
        finally:
            server.should_exit = True
            thread.join()
