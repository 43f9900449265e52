"""The addresses of the page. Everything below /api/ is JSON, but a picture; a fault is `{"error": one line}`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from stages import UserError
from trainer.report.page.readable import readable
from trainer.serve.decisions import Change, ConflictError, Decisions
from trainer.serve.guard import Guard, one_line
from trainer.serve.lists import DataSet, Given, Item, WalkList
from trainer.serve.pictures import MOST_BYTES, open_item, open_upload, small_copy

if TYPE_CHECKING:
    from trainer.serve.answers import Answers

FILES = Path(__file__).with_name("files")
STYLE = Path(__file__).parents[1] / "report" / "page" / "files" / "style.css"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MOST_JSON = 64 * 1024
"""Bytes of a request that is no picture."""
MOST_CHANGES = 8
"""Decisions of one request."""
PAGE = 2_000
"""Items of one answer."""
UPLOADS = 2
"""Pictures that are taken in at the same time; others wait."""
KEPT = 1_024
"""Answers that are remembered."""


@dataclass(frozen=True)
class Session:
    """What one server is about.

    Attributes:
        classes: what can be chosen; of the data set, else those of the classifier.
        dataset, walk, decisions: None without a list.
        answers: None where there is nothing to ask; `silence` says why.
        notes: lines for the reader.
        take: the command that takes the decisions over.
    """

    classes: tuple[str, ...]
    dataset: DataSet | None
    walk: WalkList | None
    decisions: Decisions | None
    answers: Answers | None
    silence: str
    notes: tuple[str, ...]
    take: str


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    item: int = Field(ge=0)
    action: Literal["label", "confirm", "exclude", "none"]
    label: int | None = Field(default=None, ge=0)
    seen: int = Field(ge=0)


class _Wishes(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    changes: list[_Wish] = Field(min_length=1, max_length=MOST_CHANGES)


class _Undo(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    step: int | None = Field(default=None, ge=1)


Body = TypeVar("Body", bound=BaseModel)


def make_app(session: Session, *, hosts: frozenset[str], token: str) -> ASGIApp:
    """The application; `hosts` and `token` as in `Guard`."""
    api = _Api(session)
    files = [STYLE, *sorted(FILES.iterdir())]
    pages = {
        "/" if file.suffix == ".html" else f"/{file.name}": (file.read_bytes(), KINDS[file.suffix]) for file in files
    }

    async def page(request: Request) -> Response:
        data, kind = pages[request.url.path]
        return Response(data, media_type=f"{kind}; charset=utf-8")

    app = Starlette(
        routes=[
            *(Route(path, page) for path in pages),
            Route("/api/session", api.session),
            Route("/api/items", api.items),
            Route("/api/items/{item:int}/picture", api.picture),
            Route("/api/items/{item:int}/answer", api.answer),
            Route("/api/changes", api.changes),
            Route("/api/decisions", api.decide, methods=["POST"]),
            Route("/api/undo", api.undo, methods=["POST"]),
            Route("/api/upload", api.upload, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error, UserError: _user_error, Exception: _failure},
    )
    return Guard(app, hosts=hosts, token=token)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _user_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": readable(str(error))}, status_code=422)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"this failed: {readable(one_line(error))}"}, status_code=500)


async def body_of(request: Request, most: int) -> bytes:
    """The bytes of a request; refused, unread, where they are more than `most`."""
    too_many = HTTPException(413, f"larger than {most // 2**20} MiB" if most >= 2**20 else f"larger than {most} bytes")
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        raise too_many
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise too_many
    return bytes(data)


async def _json_of(request: Request, kind: type[Body]) -> Body:
    data = await body_of(request, MOST_JSON)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(400, f"{where or 'body'}: {first['msg']}") from error


class _Api:
    """What is answered below /api/."""

    def __init__(self, session: Session) -> None:
        self.of = session
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._answered = lru_cache(KEPT)(self._answer)
        answers = session.answers
        places = {name: at for at, name in enumerate(session.classes)}
        self._place = {name: places.get(name) for name in answers.classes} if answers else {}

    # What the page shows

    async def session(self, request: Request) -> Response:
        of = self.of
        about = {
            "dataset": of.dataset.name if of.dataset else None,
            "classes": [readable(name) for name in of.classes],
            "list": readable(of.walk.file.name) if of.walk else None,
            "listed": of.walk.listed if of.walk else 0,
            "out": readable(str(of.decisions.file)) if of.decisions else None,
            "method": readable(of.answers.about) if of.answers else None,
            "learned": bool(of.answers and of.answers.learned),
            "uploads": bool(of.answers and of.answers.encoder),
            "silence": readable(of.silence),
            "notes": list(map(readable, of.notes)),
            "take": readable(of.take),
            "step": of.decisions.step if of.decisions else 0,
        }
        return JSONResponse(about)

    async def items(self, request: Request) -> Response:
        walk, _ = self._walk()
        start = request.query_params.get("start", "0")
        if not start.isdecimal() or len(start) > 9:
            raise HTTPException(400, "start: expected a whole number")
        stop = min(int(start) + PAGE, len(walk.items))
        return JSONResponse({"items": [self._shown(at) for at in range(int(start), stop)], "all": len(walk.items)})

    def _shown(self, at: int) -> dict[str, Any]:
        item = self._item(at)
        return {
            "name": readable(item.name),
            "new": not item.image_id,
            "label": item.label,
            "split": item.split,
            "findings": [
                {"kind": readable(f.kind), "detail": readable(f.detail), "suggested": f.suggested,
                 "probability": f.probability, "other": f.other}
                for f in item.findings
            ],
            **self._stands(at),
        }  # fmt: skip

    def _stands(self, at: int) -> dict[str, Any]:
        """The decision about an item."""
        _, decisions = self._walk()
        now = decisions.of(at)
        given = now.given
        return {"step": now.step, "action": given and given.action, "chosen": given and given.label}

    async def picture(self, request: Request) -> Response:
        item = self._item(request.path_params["item"])
        data = await run_in_threadpool(lambda: small_copy(open_item(item, self._dataset())))
        return Response(data, media_type="image/jpeg")

    async def answer(self, request: Request) -> Response:
        at = request.path_params["item"]
        self._item(at)
        return JSONResponse({"classes": await run_in_threadpool(self._answered, at)})

    def _answer(self, at: int) -> list[dict[str, Any]]:
        item, answers = self._item(at), self.of.answers
        if answers is None:
            raise UserError(self.of.silence)
        stored = answers.of_stored(item.image_id)
        return self._readable(stored if stored is not None else answers.of_picture(open_item(item, self._dataset())))

    def _readable(self, classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "class": self._place[one["class"]],
                "name": readable(one["class"]),
                "probability": one["probability"],
                "sentences": [
                    {"text": readable(p["prompt"]), "cosine": p["cosine"], "attention": p["attention"]}
                    for p in one["prompts"]
                ],
            }
            for one in classes
        ]

    async def upload(self, request: Request) -> Response:
        answers = self.of.answers
        if answers is None:
            raise UserError(self.of.silence)
        async with self._uploads:
            data = await body_of(request, MOST_BYTES)
            found = await run_in_threadpool(lambda: answers.of_picture(open_upload(data)))
        return JSONResponse({"classes": self._readable(found)})

    # What the page decides

    async def changes(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not since.isdecimal() or len(since) > 12:
            raise HTTPException(400, "since: expected a whole number")
        return JSONResponse(self._since(int(since)))

    def _since(self, since: int) -> dict[str, Any]:
        _, decisions = self._walk()
        step, items = decisions.since(since)
        return {"step": step, "decided": decisions.count(), "changed": {str(at): self._stands(at) for at in items}}

    async def decide(self, request: Request) -> Response:
        _, decisions = self._walk()
        wishes = await _json_of(request, _Wishes)
        changes = [self._change(wish) for wish in wishes.changes]
        items = {change.item for change in changes}
        if len(items) < len(changes):
            raise HTTPException(400, "changes: an item stands twice")
        try:
            step = await run_in_threadpool(decisions.decide, changes)
        except ConflictError:
            return self._conflict(items)
        return JSONResponse({**self._since(step - 1), "done": step})

    async def undo(self, request: Request) -> Response:
        _, decisions = self._walk()
        wanted = await _json_of(request, _Undo)
        try:
            items = await run_in_threadpool(decisions.undo, wanted.step)
        except ConflictError:
            return self._conflict(())
        return JSONResponse({**self._since(decisions.step - 1), "done": items})

    def _conflict(self, items: Collection[int]) -> Response:
        """Nothing was done: what stands instead."""
        stands = {str(at): self._stands(at) for at in items}
        return JSONResponse({"error": "another window was first", "changed": stands}, status_code=409)

    def _change(self, wish: _Wish) -> Change:
        item = self._item(wish.item)
        if (wish.label is not None) != (wish.action == "label"):
            raise HTTPException(400, "label: goes with the action label, and with no other")
        if wish.label is not None and wish.label >= len(self.of.classes):
            raise HTTPException(400, "label: no such class")
        if wish.action == "confirm" and item.label is None:
            raise HTTPException(400, "action: an image without a class cannot be confirmed")
        given: Given | None = None if wish.action == "none" else Given(wish.action, wish.label)
        if wish.label is not None and wish.label == item.label:  # it has this class: nothing is to be changed
            given = Given("confirm")
        return Change(wish.item, given, wish.seen)

    def _walk(self) -> tuple[WalkList, Decisions]:
        if self.of.walk is None or self.of.decisions is None:
            raise HTTPException(404, "no list: start `trainer serve --list FILE`")
        return self.of.walk, self.of.decisions

    def _dataset(self) -> DataSet:
        assert self.of.dataset is not None
        return self.of.dataset

    def _item(self, at: int) -> Item:
        walk, _ = self._walk()
        if at >= len(walk.items):
            raise HTTPException(404, "no such image in the list")
        return walk.items[at]
