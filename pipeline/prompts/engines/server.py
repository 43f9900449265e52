"""Any OpenAI-compatible server (`vllm serve` and others) as an engine.

Notable:
- Retries with growing pauses, time limits and connections are the `openai` package's own.
- A vLLM server is told what vLLM in this process is told, but for the places to stop: a server takes four of them at
  most, and cleaning cuts the answers anyway. Other servers get only what the OpenAI interface knows.
- A server that says its model has no chat template is asked for plain completions from then on (base models).
- The n answers of a request are asked for together, at most `MOST_CHOICES` at once. A server that ignores or refuses
  `n` is asked again for the missing ones, with the seeds that vLLM would have given them: seed + k.
- A setting that the server refuses is left out from then on (`refusals.py`), said once and kept in the provenance.
- Equal requests need not give equal answers: a server decides for itself which of them it computes together.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pipeline.prompts.commands import SERVED
from pipeline.prompts.engines.base import Answer, Request, Sampling
from pipeline.prompts.engines.connection import LONGEST_PAUSE, connect, fault, named, what_it_said
from pipeline.prompts.engines.limits import TEMPLATE_VARIABLES, all_answers, draws, least_tokens
from pipeline.prompts.engines.refusals import RENAMED, STATUSES, refused_setting, told
from pipeline.prompts.engines.replies import Model, Models, Reply, plain, read
from pipeline.prompts.llms import PACKAGED, PACKAGED_NOTE, PACKAGED_SYSTEM, ResolvedLLM, target_of
from stages.command import progress_bar, say
from stages.errors import UserError
from stages.params import ServerParams

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

# OpenAI's own limit is 128.
MOST_CHOICES = 100


@dataclass(frozen=True, kw_only=True)
class ServedLLM(ResolvedLLM):
    """A model that a server said it serves, and the server."""

    server: ServerParams
    is_vllm: bool


class ServerEngine:
    """A language model behind an OpenAI-compatible server; implements `Engine`.

    Args:
        llm: what `find_served` found.
    """

    def __init__(self, llm: ServedLLM) -> None:
        self.name = llm.name
        self.fingerprint = llm.fingerprint
        self.note = llm.note
        self._llm = llm
        self._server = llm.server
        self.chats = True
        self.refused: Sequence[str] = ()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        """Answer all requests, in their order, each `n` times, `concurrency` of them at once.

        Raises:
            UserError: the first request that the server would not answer; nothing of the batch is returned then.
        """
        return asyncio.run(self._generate(requests, sampling))

    def close(self) -> None:
        """Nothing to free: connections live as long as a batch."""

    async def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        gate = asyncio.Semaphore(self._server.concurrency)
        bar = progress_bar("asking", total=len(requests), unit="question")

        async def one(request: Request) -> list[Answer]:
            async with gate:
                answers = await self._answers(client, request, sampling)
            bar.update()
            return answers

        try:
            with bar:
                async with connect(self._server) as client, asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
        except ExceptionGroup as faults:
            first = faults.exceptions[0]
            raise first from first.__cause__
        return [task.result() for task in tasks]

    async def _answers(self, client: "AsyncOpenAI", request: Request, sampling: Sampling) -> list[Answer]:
        """All `n` answers of one request."""
        found: list[Answer] = []
        wanted = draws(request, sampling)
        while len(found) < wanted:
            n = min(wanted - len(found), MOST_CHOICES)
            body = await self._ask(client, request.question, request.seed + len(found), n, sampling)
            try:
                reply = read(Reply, body)
            except ValueError as error:
                raise UserError(f"{named(self._server)}: an answer is {error}") from error
            found += _read_answers(reply)[:n]
        return all_answers(found, request)

    async def _ask(self, client: "AsyncOpenAI", question: str, seed: int, n: int, sampling: Sampling) -> bytes:
        """The body of one reply: of a chat where the model has a chat template, else of a plain completion."""
        from openai import APIStatusError, OpenAIError

        server = self._server
        try:
            async with asyncio.timeout((server.timeout + LONGEST_PAUSE) * (server.retries + 1)):
                while True:
                    settings = self._settings(seed, n, sampling)
                    try:
                        return await self._send(client, question, settings)
                    except APIStatusError as error:
                        if self.chats and error.status_code == 400 and "chat template" in what_it_said(error).lower():
                            self.chats = False
                        elif not self._leave_out(error, settings):
                            raise
        except (OpenAIError, TimeoutError) as error:
            raise fault(error, server) from error

    def _settings(self, seed: int, n: int, sampling: Sampling) -> dict[str, Any]:
        """What is sent beside model and question, but for what the server refused."""
        wanted: dict[str, Any] = {
            "n": n, "seed": seed, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }  # fmt: skip
        if self._llm.is_vllm:
            wanted |= {"min_tokens": least_tokens(sampling.max_tokens), "return_token_ids": True}
            if self.chats:
                wanted["chat_template_kwargs"] = TEMPLATE_VARIABLES
        renamed = {RENAMED[name]: wanted[name] for name in self.refused if name in RENAMED}
        return {name: value for name, value in wanted.items() if name not in self.refused} | renamed

    def _leave_out(self, error: "APIStatusError", settings: Mapping[str, Any]) -> bool:
        """Whether the refusal was about a setting that can be left out; from now on it is."""
        if error.status_code not in STATUSES:
            return False
        sent = [name for name, value in settings.items() if name not in RENAMED.values() and (name != "n" or value > 1)]
        name = refused_setting(what_it_said(error), sent, param=error.param)
        if name is None:
            return False
        if name not in self.refused:  # several requests are on their way at once
            self.refused = sorted([*self.refused, name])
            say(f"{named(self._server)} {told(name, settings[name])}")
        return True

    async def _send(self, client: "AsyncOpenAI", question: str, settings: dict[str, Any]) -> bytes:
        asked: dict[str, Any] = {"extra_body": settings, "model": self._llm.model}
        if self.chats:
            messages = [{"role": "system", "content": self._llm.system}] if self._llm.system else []
            messages.append({"role": "user", "content": question})
            reply = await client.chat.completions.with_raw_response.create(messages=messages, **asked)  # type: ignore[arg-type]
            return bytes(reply.content)
        plainly = await client.completions.with_raw_response.create(prompt=question, **asked)
        return bytes(plainly.content)


def find_served(name: str, server: ServerParams, aliases: Mapping[str, str] | None = None) -> ServedLLM:
    """Ask a server for its models and pick the one that `name` means: its own name for it, an alias, or a hub id.

    Raises:
        UserError: no usable address, no answer, a refused key, or no such model (its models are listed).
    """
    models = asyncio.run(_models(server))
    target = target_of(name, aliases)
    packaged = target == PACKAGED
    meant = name if packaged else target
    model = _pick(models, [name, target])
    if model is None:
        listed = ", ".join(plain(each.id, 80) for each in models[:10]) + (", ..." if len(models) > 10 else "")
        raise UserError(
            f"{named(server)} does not serve {meant!r}; --llm may be: {listed or 'nothing, it serves no model'}",
            exit_code=2,
        )
    return ServedLLM(
        name=name,
        model=model.id,
        fingerprint=_fingerprint(model),
        note=PACKAGED_NOTE if packaged else "",
        system=PACKAGED_SYSTEM if packaged else "",
        context=model.context,
        prefers_plain=packaged,
        server=server,
        is_vllm=model.owned_by == "vllm",
    )


def _pick(models: Sequence[Model], names: Sequence[str]) -> Model | None:
    by_id = {model.id: model for model in models}
    by_root = {model.root: model for model in models if model.root}
    return next((table[name] for name in names for table in (by_id, by_root) if name in table), None)


def _fingerprint(model: Model) -> str:
    """What the server calls its model, and what it loaded under that name; of a folder only the last part."""
    parts = [PurePath(part).name if part.startswith(("/", "~", ".")) else part for part in (model.id, model.root or "")]
    return SERVED + "=".join(dict.fromkeys(filter(None, parts)))


async def _models(server: ServerParams) -> list[Model]:
    from openai import OpenAIError

    try:
        async with asyncio.timeout((server.timeout + LONGEST_PAUSE) * 3), connect(server) as client:
            reply = await client.with_options(max_retries=min(2, server.retries)).models.with_raw_response.list()
        return read(Models, reply.content).data
    except ValueError as error:
        raise UserError(f"{named(server)}: its list of models is {error}; the address ends in /v1") from error
    except (OpenAIError, TimeoutError) as error:
        raise fault(error, server) from error


def _read_answers(reply: Reply) -> list[Answer]:
    alone = len(reply.choices) == 1 and reply.usage is not None
    answers = []
    for choice in reply.choices:
        text = (choice.message.said if choice.message else choice.text) or ""
        tokens = reply.usage.completion_tokens if alone and reply.usage else None
        answers.append(
            Answer(
                text=text,
                n_tokens=tokens if choice.token_ids is None else len(choice.token_ids),
                finish_reason=choice.finish_reason or "unknown",
            )
        )
    return answers
