"""From the files to a page that answers: what is read, the socket, the loop."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages import UserError
from stages.lock import store_lock
from stages.stopping import keeping
from stages.text import counted
from trainer.new_classes import checked_names
from trainer.serve.app import Session, make_app
from trainer.serve.decisions import Decisions
from trainer.serve.lists import DataSet, WalkList, read_dataset, read_list
from trainer.serve.pictures import missing

if TYPE_CHECKING:
    import uvicorn

    from trainer.serve.answers import Answers

LOOPBACK = "127.0.0.1"
BACKLOG = 128
CONNECTIONS = 64
"""Requests at the same time; further ones are told to come again."""


@dataclass(frozen=True)
class Asker:
    """Who answers; None where nobody can, and why."""

    answers: Answers | None
    silence: str = ""


def listen(host: str, port: int) -> socket.socket:
    """A socket of this machine alone.

    Args:
        port: 0 takes any free one.

    Raises:
        UserError: the host is another than this machine's loopback (exit code 2), or the port is taken.
    """
    address = LOOPBACK if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UserError(
            f"--host {host[:60]}: not the loopback of this machine, and the page answers nobody else; expected "
            f"{LOOPBACK}, ::1 or localhost (from another machine: ssh -L PORT:{LOOPBACK}:PORT)",
            exit_code=2,
        )
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(f"--port {port}: {why}: name another one, or leave --port out for any free one") from error


@contextmanager
def session_of(
    asker: Asker, *, cache: Path, dataset: str | None, file: Path | None, out: Path, new_classes: Sequence[str] = ()
) -> Iterator[tuple[Session, list[str]]]:
    """What a server is about, and lines to say; meanwhile no other server writes `out`.

    Args:
        dataset, file: of the list; None: no list, pictures are dropped in alone.
        new_classes: names that may be chosen beside those of the data set.

    Raises:
        UserError: the list or the decisions cannot be used, or another server writes them.
    """
    answers = asker.answers
    notes = list(answers.notes) if answers else []
    silence = [asker.silence] if asker.silence else []  # which the page shows in its own place
    if file is None or dataset is None:
        if new_classes:
            raise UserError("--new-class is chosen for images of a list: name one with --list", exit_code=2)
        classes = answers.classes if answers else ()
        yield Session(classes, None, None, None, answers, asker.silence, tuple(notes), ""), [*silence, *notes]
        return
    found = read_dataset(cache, dataset)
    new = checked_names(new_classes, found.classes, option="--new-class")
    about = replace(found, classes=(*found.classes, *new))
    walk = read_list(file, about)
    notes += [*walk.notes, *_gone(walk, about), *_strange(answers, found)]
    words = [
        "pipeline",
        "ingest",
        dataset,
        "--labels",
        str(out),
        *(word for name in new for word in ("--new-class", name)),
    ]
    with store_lock(out, what=f"trainer serve --list {file}"):
        decisions = Decisions(out, walk, about)
        session = Session(
            about.classes, about, walk, decisions, answers, asker.silence, tuple(notes), shlex.join(words)
        )  # fmt: skip
        yield session, [*silence, *notes, *decisions.notes]


def _gone(walk: WalkList, dataset: DataSet) -> list[str]:
    """A line on the pictures that are not where the list says.

    Raises:
        UserError: none is.
    """
    listed = walk.items[: walk.listed]
    away = missing(listed, dataset)
    if len(away) == walk.listed and dataset.root is not None:
        raise UserError(
            f"{walk.file}: none of its {counted(walk.listed, 'picture')} is there (first: {away[0][:120]}): run this "
            "in the folder that the list was written in, or write the list again"
        )
    if not away:
        return []
    verb = "is" if len(away) == 1 else "are"
    return [f"{walk.file}: {len(away)} of {counted(walk.listed, 'picture')} {verb} not there (first: {away[0][:120]})"]


def _strange(answers: Answers | None, dataset: DataSet) -> list[str]:
    """A line on classes that the classifier and the data set do not share."""
    if answers is None or set(answers.classes) == set(dataset.classes):
        return []
    missing = sorted(set(dataset.classes) - set(answers.classes))
    other = sorted(set(answers.classes) - set(dataset.classes))
    first = f"{(missing or other)[0]!r} is {'unknown to it' if missing else 'not in the data set'}"
    return [f"the classifier tells {len(answers.classes)} classes apart and {dataset.name!r} has "
            f"{len(dataset.classes)} ({first}): run `trainer run --dataset {dataset.name}` again"]  # fmt: skip


def server_of(session: Session, listening: socket.socket) -> tuple[uvicorn.Server, str]:
    """The server on a listening socket, and its address with a new token of this session."""
    import uvicorn

    host, port = listening.getsockname()[:2]
    named = f"[{host}]" if ":" in host else host
    names = {named, "localhost"}
    hosts = frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        make_app(session, hosts=hosts, token=token), log_config=None, access_log=False, server_header=False,
        proxy_headers=False, lifespan="off", ws="none", http="h11", loop="asyncio", limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config), f"http://{named}:{port}/#{token}"


def run(server: uvicorn.Server, listening: socket.socket, session: Session) -> None:
    """Answer until Ctrl-C."""

    def kept() -> str:
        decisions = session.decisions
        if decisions is None or not decisions.count():
            return "nothing was decided"
        return f"{counted(decisions.count(), 'decision')} in {decisions.file}"

    with keeping(kept):
        server.run(sockets=[listening])
