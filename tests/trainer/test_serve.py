"""`trainer serve` over its socket: what it decides, what it refuses, and what is left of it on disk."""

import contextlib
import http.client
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from small_served import AUDIT, HOSTILE, SUGGEST, Served, decided, make_folder, served, text_answers, write_csv
from test_explain import Colours

from stages import UserError
from trainer.serve.answers import Answers
from trainer.serve.app import MOST_JSON
from trainer.serve.decisions import Change, ConflictError, Decisions
from trainer.serve.guard import POLICY
from trainer.serve.lists import Given, read_dataset, read_list
from trainer.serve.pictures import MOST_BYTES
from trainer.serve.server import Asker, listen, session_of

ACTS = ["label", "confirm", "exclude", "undo", "back", "again"]
EXCLUDE, CONFIRM = Given("exclude"), Given("confirm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    make_folder(made)
    return made


@pytest.fixture(scope="module")
def answers(folder: Path) -> Answers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.encoders.load_encoder", lambda name, device: Colours())
        return text_answers(folder)


@pytest.fixture
def running(folder: Path, answers: Answers, tmp_path: Path) -> Iterator[Served]:
    with served(folder, answers, tmp_path / "decisions.csv") as found:
        yield found


@pytest.fixture(scope="module")
def standing(folder: Path, answers: Answers) -> Iterator[Served]:
    """One server for tests after which nothing has changed."""
    with served(folder, answers, folder / "standing" / "decisions.csv") as found:
        yield found


def decisions(folder: Path, out: Path, file: str = "audit.csv") -> Decisions:
    dataset = read_dataset(folder / "cache", "w")
    return Decisions(out, read_list(folder / file, dataset), dataset)


def test_a_tick_a_correction_and_an_exclusion_are_rows_that_ingest_takes(running: Served, tmp_path: Path) -> None:
    assert running.decide(0, "label", 1)[0] == 200
    assert running.decide(1, "confirm")[0] == 200
    assert running.decide(2, "exclude")[0] == 200
    assert running.decide(3, "label", 3)[0] == 200  # which it has: a tick
    assert (tmp_path / "decisions.csv").read_text().startswith("image_id,path,action,label\n")
    assert decided(tmp_path / "decisions.csv") == [
        ("train/0/0", "label", HOSTILE[1]), ("train/1/1", "confirm", ""), ("train/2/0", "exclude", ""),
        ("train/3/0", "confirm", ""),
    ]  # fmt: skip


def test_several_findings_are_one_image_and_the_evidence_is_shown_beside_it(standing: Served) -> None:
    status, found = standing.ask("/api/items")
    assert (status, found["all"], standing.session.walk.listed) == (200, 6, 4)  # type: ignore[union-attr]
    double = found["items"][1]
    assert [finding["kind"] for finding in double["findings"]] == ["same-file", "blurred"]
    assert found["items"][double["findings"][0]["other"]]["name"] == "train/1/2"
    assert standing.ask("/api/items/5/picture")[1][:3] == b"\xff\xd8\xff"


def test_of_two_that_are_the_same_one_stays_and_one_goes_in_one_step(running: Served, tmp_path: Path) -> None:
    wishes = [{"item": 1, "action": "confirm", "seen": 0}, {"item": 5, "action": "exclude", "seen": 0}]
    _, found = running.ask("/api/decisions", {"changes": wishes})
    assert decided(tmp_path / "decisions.csv") == [("train/1/1", "confirm", ""), ("train/1/2", "exclude", "")]
    assert running.ask("/api/undo", {"step": found["done"]})[0] == 200
    assert decided(tmp_path / "decisions.csv") == []


def test_undo_brings_back_what_stood_before(running: Served, tmp_path: Path) -> None:
    first = running.decide(0, "label", 1)[1]
    second = running.decide(0, "exclude", seen=first["done"])[1]
    running.decide(2, "exclude")
    assert running.ask("/api/undo", {"step": second["done"]})[1]["changed"]["0"]["chosen"] == 1
    assert decided(tmp_path / "decisions.csv") == [("train/0/0", "label", HOSTILE[1]), ("train/2/0", "exclude", "")]
    assert running.ask("/api/undo", {"step": second["done"]})[0] == 409
    for _ in range(2):
        assert running.ask("/api/undo", {})[0] == 200
    assert running.ask("/api/undo", {})[0] == 409
    assert decided(tmp_path / "decisions.csv") == []


def test_the_second_of_two_windows_is_told_and_sees_the_first(running: Served, tmp_path: Path) -> None:
    first = running.decide(0, "exclude")[1]
    status, found = running.decide(0, "label", 2)
    assert (status, found["changed"]["0"]["action"]) == (409, "exclude")
    assert list(running.ask("/api/changes?since=0")[1]["changed"]) == ["0"]
    running.decide(0, "label", 2, seen=first["done"])
    assert running.ask("/api/undo", {"step": first["done"]})[0] == 409
    assert decided(tmp_path / "decisions.csv") == [("train/0/0", "label", HOSTILE[2])]


def test_many_clicks_at_once_lose_nothing_and_the_file_is_whole_at_every_moment(
    folder: Path, answers: Answers, tmp_path: Path
) -> None:
    images = [f"train/{label}/{number}" for label in range(4) for number in range(6)]
    write_csv(folder / "long.csv", AUDIT, [{"kind": "dark", "image_id": each} for each in images])
    out, over, seen = tmp_path / "decisions.csv", threading.Event(), []

    def read() -> None:
        while not over.is_set():
            if out.exists():
                assert out.read_bytes().endswith(b"\n")
                seen.append(len(decided(out)))

    with served(folder, answers, out, "long.csv") as found, ThreadPoolExecutor(24) as many:
        reader = many.submit(read)
        clicks = [many.submit(found.decide, item, "exclude") for item in range(24) for _ in range(3)]
        told = [click.result()[0] for click in clicks]
        over.set()
        reader.result()
    assert sorted(told) == [200] * 24 + [409] * 48
    assert sorted(image for image, *_ in decided(out)) == sorted(images)
    assert seen == sorted(seen), "a decision was there and gone"


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["label", "confirm", "exclude", "undo", "back", "again"])))
)
def test_the_file_always_says_what_a_plain_history_says(folder: Path, steps: list[tuple[int, str]]) -> None:
    out = folder / "history.csv"
    out.unlink(missing_ok=True)
    under, history = decisions(folder, out), [dict[int, Given]()]
    for item, action in steps:
        if action == "again":  # a new server: every row is a step of its own now
            under = decisions(folder, out)
            rows = list(history[-1].items())
            history = [dict(rows[:count]) for count in range(len(rows) + 1)]
        elif action == "undo":
            if len(history) > 1:
                under.undo(None)
                history.pop()
            else:
                with pytest.raises(ConflictError):
                    under.undo(None)
        else:
            wanted = {"label": Given("label", item % 4), "confirm": CONFIRM, "exclude": EXCLUDE, "back": None}[action]
            under.decide([Change(item, wanted, under.of(item).step)])
            stands = {at: given for at, given in history[-1].items() if at != item}
            history.append(stands if wanted is None else {**stands, item: wanted})
    walk = under._items
    expected = {walk[at].image_id: (given.action, "" if given.label is None else HOSTILE[given.label])
                for at, given in history[-1].items()}  # fmt: skip
    assert {image: rest for image, *rest in map(list, decided(out) if out.exists() else [])} == {
        image: list(rest) for image, rest in expected.items()
    }


def test_a_new_server_goes_on_and_keeps_what_is_not_in_its_list(folder: Path, tmp_path: Path) -> None:
    out = write_csv(tmp_path / "d.csv", ["label", "path", "action", "image_id"], [
        {"image_id": "elsewhere/1", "action": "exclude"}, {"image_id": "train/2/0", "action": "EXCLUDE"},
        {"path": str(folder / "images/train/3/0"), "label": "Rote \u202e weberei"}, {"image_id": "train/0/0"},
    ])  # fmt: skip
    under = decisions(folder, out)
    assert [under.of(at).given for at in range(4)] == [None, None, EXCLUDE, Given("label", 3)]
    assert [note.removeprefix(f"{out}: ") for note in under.notes] == [
        "2 decisions on this list, gone on from",
        "1 row about images that are not in this list, kept",
        "1 row without a decision, left away",
    ]
    under.decide([Change(0, EXCLUDE, 0)])
    added = str(folder / "images/train/3/0")
    assert [image for image, *_ in decided(out)] == ["elsewhere/1", "train/2/0", added, "train/0/0"]
    under.decide([Change(3, CONFIRM, under.of(3).step)])
    last = out.read_text().splitlines()[-1]
    assert last.startswith(f",{added},label,"), "a row by its path alone brought the image in, and has to stay one"
    write_csv(folder / "taken.csv", AUDIT, [{"path": added}])
    decisions(folder, tmp_path / "e.csv", "taken.csv").decide([Change(0, CONFIRM, 0)])
    assert (tmp_path / "e.csv").read_text().splitlines()[-1].startswith(f",{added},label,"), "of a list too"


def test_what_the_list_itself_decides_is_taken_over(folder: Path, tmp_path: Path) -> None:
    rows = [{"image_id": "train/0/0", "label": HOSTILE[2]}, {"image_id": "train/0/1"}]
    write_csv(folder / "filled.csv", AUDIT, rows)
    under = decisions(folder, tmp_path / "d.csv", "filled.csv")
    assert decided(tmp_path / "d.csv") == [("train/0/0", "label", HOSTILE[2])]
    assert under.notes == [f"{tmp_path / 'd.csv'}: takes over 1 decision that {folder / 'filled.csv'} has already"]


def test_a_file_that_another_program_changed_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    under = decisions(folder, tmp_path / "d.csv")
    under.decide([Change(0, EXCLUDE, 0)])
    (tmp_path / "d.csv").write_text("image_id,path,action,label\ntrain/0/1,,exclude,\n")
    for act in (lambda: under.decide([Change(1, EXCLUDE, 0)]), lambda: under.undo(None)):
        with pytest.raises(UserError, match="another program changed or removed it: start `trainer serve` again"):
            act()
    assert decided(tmp_path / "d.csv") == [("train/0/1", "exclude", "")]
    assert (under.of(0).given, under.of(1).given) == (EXCLUDE, None)


def test_a_full_disk_changes_nothing_and_says_so(
    running: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.decide(0, "exclude")

    def full(path: Path, *rest: Any) -> None:
        raise UserError(f"{path}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("trainer.serve.decisions.write_list", full)
        assert running.decide(1, "exclude") == (422, {"error": f"{tmp_path / 'decisions.csv'}: the disk is full"})
        assert running.ask("/api/undo", {})[0] == 422
    assert decided(tmp_path / "decisions.csv") == [("train/0/0", "exclude", "")]
    assert running.decide(1, "exclude")[0] == 200


def test_two_servers_do_not_write_one_file(folder: Path, running: Served, tmp_path: Path) -> None:
    out = tmp_path / "decisions.csv"
    code = (
        "from pathlib import Path; from trainer.serve.server import *\n"
        f"with session_of(Asker(None), cache=Path({str(folder / 'cache')!r}), dataset='w', "
        f"file=Path({str(folder / 'audit.csv')!r}), out=Path({str(out)!r})): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{out}: `trainer serve --list {folder / 'audit.csv'}` (process {os.getpid()} on" in done.stderr


@pytest.mark.parametrize(
    ("path", "headers"),
    {
        "another name that leads here": ("/", {"Host": "evil.example"}),
        "another name with our port": ("/api/session", {"Host": "evil.example:{port}"}),
        "another port": ("/", {"Host": "127.0.0.1:1"}),
        "another site": ("/api/session", {"Origin": "http://evil.example"}),
        "a file": ("/api/session", {"Origin": "null"}),
        "another port of this machine": ("/api/session", {"Origin": "http://127.0.0.1:1"}),
        "a link of another site": ("/", {"Sec_Fetch_Site": "cross-site"}),
        "another port, which is the same site": ("/api/session", {"Sec_Fetch_Site": "same-site"}),
        "another token": ("/api/session", {"X_Session_Token": "x"}),
        "no token": ("/api/items/0/picture", {"X_Session_Token": ""}),
        "a token of strange letters": ("/api/session", {"X_Session_Token": "\xe9"}),
    }.values(),
)  # fmt: skip
def test_what_does_not_come_from_the_page_is_refused(standing: Served, path: str, headers: dict[str, str]) -> None:
    sent = {name: text.format(port=standing.port) for name, text in headers.items()}
    status, found = standing.ask(path, **sent)
    assert (status, list(found)) == (403, ["error"])
    assert standing.ask("/api/undo", {}, **sent)[0] == 403


def test_the_page_may_load_nothing_but_itself(standing: Served) -> None:
    for path, kind in {"/": "text/html", "/style.css": "text/css", "/walk.js": "text/javascript"}.items():
        status, _ = standing.ask(path, X_Session_Token="")
        assert (status, standing.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert standing.headers["content-security-policy"] == POLICY
        assert standing.headers["x-content-type-options"] == "nosniff"
        assert "server" not in standing.headers
    assert "unsafe" not in POLICY
    page = standing.ask("/")[1].decode()
    assert not re.search(r"<script(?![^>]*src=\"/)|\son\w+=|style=|https?:", page)


@pytest.mark.parametrize(
    "path",
    ["/../decisions.csv", "/%2e%2e/audit.csv", "/audit.csv", "/app.py", "/api/items/../0/picture",
     "/api/items/99/picture", "/api/items/-1/answer", "/api/items/0/picture/../../../x",
     "/api/items/train%2F0%2F0/picture"],
)  # fmt: skip
def test_no_address_names_a_file(standing: Served, path: str) -> None:
    assert standing.ask(path)[0] == 404


@pytest.mark.parametrize(
    "value",
    [
        {}, [], {"changes": []}, {"changes": [{"item": 0}]},
        {"changes": [{"item": 99, "action": "exclude", "seen": 0}]},
        {"changes": [{"item": -1, "action": "exclude", "seen": 0}]},
        {"changes": [{"item": "0", "action": "exclude", "seen": 0}]},
        {"changes": [{"item": 0, "action": "label", "label": 4, "seen": 0}]},
        {"changes": [{"item": 0, "action": "label", "seen": 0}]},
        {"changes": [{"item": 0, "action": "exclude", "label": 1, "seen": 0}]},
        {"changes": [{"item": 0, "action": "remove", "seen": 0}]},
        {"changes": [{"item": 0, "action": "exclude", "seen": 0, "path": "/etc/passwd"}]},
        {"changes": [{"item": 0, "action": "exclude", "seen": 0}] * 2},
        {"changes": [{"item": item, "action": "exclude", "seen": 0} for item in range(9)]},
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_is_refused_and_nothing_is_written(standing: Served, value: Any, folder: Path) -> None:
    status, found = standing.ask("/api/decisions", value)
    assert status in (400, 404)
    assert "\n" not in found["error"]
    assert not (folder / "standing" / "decisions.csv").exists()


def test_what_fails_unexpectedly_is_one_line_and_the_server_goes_on(
    standing: Served, answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(image_id: str) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(answers, "of_stored", fail)
    assert standing.ask("/api/items/3/answer") == (500, {"error": "this failed: RuntimeError: out of memory"})
    assert standing.ask(f"/api/items/{'9' * 5000}/answer")[0] in (404, 500)
    assert standing.ask("/api/items?start=" + "9" * 5000)[0] == 400
    assert standing.ask("/api/items?start=%C2%B2")[0] == 400, "a digit that is no number"
    said = capsys.readouterr().err
    assert said.startswith("note: /api/items/3/answer failed: RuntimeError: out of memory\n")
    assert "Traceback" not in said
    assert standing.ask("/api/session")[0] == 200


def test_only_a_new_image_cannot_be_confirmed(folder: Path, answers: Answers, tmp_path: Path) -> None:
    with served(folder, answers, tmp_path / "d.csv", "suggest.csv") as found:
        assert found.decide(0, "confirm")[0] == 400
        assert found.decide(0, "label", 0)[0] == 200
        found.decide(1, "exclude")
    pool = folder / "pool"
    assert decided(tmp_path / "d.csv") == [
        (str(pool / "0.png"), "label", HOSTILE[0]), (str(pool / "1.png"), "exclude", ""),
    ]  # fmt: skip


def test_a_picture_of_the_list_and_one_that_is_dropped_in_get_classes_with_sentences(
    standing: Served, folder: Path
) -> None:
    status, found = standing.ask("/api/upload", data=(folder / "pool" / "0.png").read_bytes())
    assert status == 200
    first, *_ = found["classes"]
    assert first["probability"] == max(one["probability"] for one in found["classes"])
    assert len(first["sentences"]) == 3
    assert {one["class"] for one in found["classes"]} == {0, 1, 2, 3}
    assert {one["name"] for one in found["classes"]} == {*list(HOSTILE.values())[:3], "rote \\u202eWeberei"}
    assert standing.ask("/api/items/0/answer")[1]["classes"][0]["sentences"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds hardly a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_uploads_have_limits_and_leave_nothing(
    standing: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for data, status, line in (
        (b"", 422, "this file cannot be shown: empty file"),
        (b"<svg onload=hacked=1>", 422, "this file cannot be shown: not an image that can be read"),
        (png_header(9000, 9000), 422, "this file cannot be shown: 9000x9000 pixels: larger than 64000000"),
    ):
        assert standing.ask("/api/upload", data=data, method="POST") == (status, {"error": line})
    for path, size in (("/api/upload", MOST_BYTES + 1), ("/api/decisions", MOST_JSON + 1)):  # refused before it comes
        status, found = standing.ask(path, data=b"", method="POST", Content_Length=str(size))
        assert (status, found["error"][:11]) == (413, "larger than")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_does_not_say_its_size_is_cut_off(standing: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", standing.port, timeout=60)
    connection.connect()
    connection.sock.sendall(b"POST /api/upload HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % standing.port)
    connection.sock.sendall(b"X-Session-Token: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % standing.token.encode())
    with contextlib.suppress(ConnectionError):  # it has answered and does not listen any more
        for _ in range(40):
            connection.sock.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
    answer = b""
    with contextlib.suppress(ConnectionError):  # which may have overtaken the answer
        answer = connection.sock.recv(100)
    assert answer == b"" or b" 413 " in answer
    connection.close()
    assert standing.ask("/api/session")[0] == 200


def test_pictures_that_are_gone_are_counted_and_can_still_be_decided(
    folder: Path, answers: Answers, tmp_path: Path
) -> None:
    gone = [{"path": "pool/gone.png"}, {"path": "x" * 5000}]
    write_csv(folder / "some.csv", SUGGEST, [{"path": "pool/0.png"}, *gone])  # from the folder of the list
    with served(folder, answers, tmp_path / "d.csv", "some.csv") as found:
        assert f"{folder / 'some.csv'}: 2 of 3 pictures are not there (first: pool/gone.png)" in found.notes
        line = {"error": "the picture cannot be read: No such file or directory"}
        assert found.ask("/api/items/1/picture") == (422, line)
        assert found.ask("/api/items/1/answer") == (422, line)
        assert found.ask("/api/items/2/picture")[0] == 422
        assert found.ask("/api/items/0/picture")[0] == 200
        found.decide(0, "label", 1)
        assert found.decide(1, "exclude")[0] == 200
    assert [image for image, *_ in decided(tmp_path / "d.csv")] == [str(folder / "pool/0.png"), "pool/gone.png"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"image_id": "v/1"}, {"image_id": "v/2"}], "none of its 2 images is in the data set 'w' (first: 'v/1')"),
        ([], "no rows below the header"),
        ([{"kind": "dark"}], "line 2: names no image: image_id and path are empty"),
        ([{"image_id": "train/0/0", "label": HOSTILE[1], "action": "confirm"}], "line 2: confirmed as"),
        ([{"image_id": "train/0/0", "label": "cat"}], "line 2: class 'cat' is not one of 'w'"),
        ([{"image_id": "train/0/0", "action": "drop"}], "line 2: action 'drop'; known: label, confirm, exclude"),
        ([{"path": "pool/9.png", "action": "confirm"}], "line 2: confirm, but the image is new"),
        ([{"path": "gone.png"}], "none of its 1 picture is there (first: gone.png): run this in the folder"),
        (
            [{"image_id": "train/0/0", "action": "exclude"}, {"image_id": "train/0/0", "action": "confirm"}],
            "line 3: a second decision on 'train/0/0' that is not the first",
        ),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_walked_through_is_one_line(
    folder: Path, tmp_path: Path, rows: list[dict[str, str]], line: str
) -> None:
    file = write_csv(tmp_path / "l.csv", AUDIT, rows)
    asked = {"cache": folder / "cache", "dataset": "w", "file": file, "out": tmp_path / "d.csv"}
    with (
        pytest.raises(UserError, match=re.escape(f"{file}") + ".*" + re.escape(line)) as caught,
        session_of(Asker(None), **asked),  # type: ignore[arg-type]
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "d.csv").exists()


def test_a_class_that_is_new_can_be_chosen_and_the_command_that_takes_it_is_said(folder: Path, tmp_path: Path) -> None:
    asked = {"cache": folder / "cache", "dataset": "w", "file": folder / "audit.csv", "out": tmp_path / "d.csv"}
    with session_of(Asker(None), **asked, new_classes=["fine twill"]) as (session, _):  # type: ignore[arg-type]
        assert session.decisions
        session.decisions.decide([Change(0, Given("label", 4), 0)])
        assert session.take == f"pipeline ingest w --labels {tmp_path / 'd.csv'} --new-class 'fine twill'"
    assert decided(tmp_path / "d.csv") == [("train/0/0", "label", "fine twill")]
    for names, line in ([], "class 'fine twill' is not one of 'w' .--new-class"), ([HOSTILE[3]], "markup or unseen"):
        with pytest.raises(UserError, match=line), session_of(Asker(None), **asked, new_classes=names):  # type: ignore[arg-type]
            pass


def test_images_that_left_the_data_set_and_classes_that_changed_since_are_counted(folder: Path, tmp_path: Path) -> None:
    stale = {"image_id": "train/1/0", "class_name": HOSTILE[0]}
    rows = [{"image_id": "train/0/0", "class_name": HOSTILE[0]}, {"image_id": "train/0/gone"}, stale, stale]
    walk = read_list(write_csv(tmp_path / "l.csv", AUDIT, rows), read_dataset(folder / "cache", "w"))
    assert [item.image_id for item in walk.items] == ["train/0/0", "train/1/0"]
    gone, changed = walk.notes
    assert "1 image of the list is not in the data set 'w' any more (first: 'train/0/gone') and left out" in gone
    assert "1 image has another class now than when the list was written" in changed


def test_decisions_do_not_go_into_the_list_nor_into_another_kind_of_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the list itself: name another file with --out"):
        decisions(folder, folder / "audit.csv")
    (tmp_path / "notes.csv").write_text("what,ever\n1,2\n")
    with pytest.raises(UserError, match=r"has other columns .what, ever. than decisions"):
        decisions(folder, tmp_path / "notes.csv")
    assert (tmp_path / "notes.csv").read_text() == "what,ever\n1,2\n"


def test_only_this_machine_is_listened_to(folder: Path, typed: Command) -> None:
    for host in ("0.0.0.0", "192.168.1.1", "example.com", ""):
        done = typed("trainer", "serve", "--host", host, cwd=folder, code=2)
        assert done.stderr.startswith(f"error: --host {host}: not the loopback of this machine")
    with listen("localhost", 0) as first:
        port = first.getsockname()[1]
        done = typed("trainer", "serve", "--port", port, cwd=folder, code=1)
        assert (
            done.stderr == f"error: --port {port}: is in use: name another one, or leave --port out for any free one\n"
        )


def test_nothing_to_serve_is_one_line(folder: Path, tmp_path: Path, typed: Command) -> None:
    done = typed("trainer", "serve", "--dataset", "w", "--method", "aape", cwd=folder, code=1)
    assert "no checkpoint there yet: run `trainer run` first" in done.stderr
    done = typed("trainer", "serve", "--dataset", "v", cwd=folder, code=1)
    assert done.stderr.startswith("error: nothing says what an image shows: ")
    done = typed("trainer", "serve", "--list", "none.csv", cwd=folder, code=1)
    assert done.stderr.endswith("error: none.csv: not found\n")


def test_a_store_without_embeddings_still_serves_the_list_and_a_killed_server_has_lost_nothing(
    folder: Path, tmp_path: Path
) -> None:
    asked = ["--dataset", "w", "--encoder", "open_clip:none/none", "--list", "audit.csv", "--out", tmp_path / "d.csv"]
    with subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "serve", *map(str, asked)], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        url = process.stdout.readline().strip()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#(\S+)", url).groups()  # type: ignore[union-attr]
        killed = Served(url, int(port), token, None, [])  # type: ignore[arg-type]
        assert "has no images store of encoder 'open_clip:none/none'" in killed.ask("/api/session")[1]["silence"]
        assert killed.ask("/api/items/0/answer")[0] == 422
        assert killed.ask("/api/items/0/picture")[0] == 200
        assert killed.decide(0, "label", 1)[0] == 200
        process.send_signal(signal.SIGKILL)
    with served(folder, None, tmp_path / "d.csv") as again:
        assert again.ask("/api/items")[1]["items"][0]["chosen"] == 1
        assert again.ask("/api/undo", {})[0] == 200


def test_text_answers_before_anything_is_trained_and_silence_where_there_is_none(
    folder: Path, answers: Answers, tmp_path: Path
) -> None:
    assert answers.about == "zero-shot from sentences of llm, nothing trained yet"
    with served(folder, replace(answers, encoder=None), tmp_path / "d.csv") as stored:
        assert stored.ask("/api/items/0/answer")[0] == 200  # by its stored embedding
        assert stored.ask("/api/upload", data=b"x")[0] == 422
        assert stored.ask("/api/session")[1]["uploads"] is False
    with served(folder, answers, tmp_path / "d.csv", None) as alone:
        assert alone.ask("/api/items")[0] == 404
        assert json.dumps(alone.ask("/api/session")[1]["classes"])
