"""Tokens a second of `engine.generate`, as `generate-prompts` uses it, against a bare `vllm.LLM.generate`.

Both sides share one loaded model, the engine's own: the bare side gets finished token prompts and sampling parameters
in its hand, our side begins with questions and ends with answers. The prefix cache is emptied before every
measurement, so that neither profits from the other.
"""

import time
from typing import Any

from pipeline.bench import Measured, compare
from pipeline.prompts.engines import EngineOptions, Request, Sampling
from pipeline.prompts.engines.vllm import VLLMEngine
from pipeline.prompts.llms import resolve_llm
from pipeline.prompts.questions import fill, questions_for

THINGS = (
    "cup", "violin", "bridge", "owl", "ant", "umbrella", "tractor", "lighthouse", "cactus", "anchor",
    "bicycle", "castle", "dolphin", "engine", "fern", "guitar", "helmet", "igloo", "jacket", "kettle",
)  # fmt: skip


def bench_prompts(llm: str, *, prompts: int = 200, repeats: int = 3) -> list[Measured]:
    """Load `llm` and measure it.

    Raises:
        UserError: an unknown LLM, or one that cannot be loaded here.
    """
    engine = VLLMEngine(resolve_llm(llm), EngineOptions())
    try:
        return [measure(engine, prompts=prompts, repeats=repeats)]
    finally:
        engine.close()


def measure(engine: VLLMEngine, *, prompts: int, repeats: int) -> Measured:
    """Both ways of asking `prompts` questions, `repeats` times in turn, after one run of each to warm up."""
    requests, sampling = asked(prompts), Sampling()
    bare_prompts, bare_params = engine.prepare(requests, sampling)

    def ours() -> float:
        engine.llm.reset_prefix_cache()
        start = time.perf_counter()
        answers = engine.generate(requests, sampling)
        seconds = time.perf_counter() - start
        return sum(answer.n_tokens or 0 for each in answers for answer in each) / seconds

    def reference() -> float:
        engine.llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs: list[Any] = engine.llm.generate(bare_prompts, bare_params, use_tqdm=False)
        seconds = time.perf_counter() - start
        return sum(len(answer.token_ids) for each in outputs for answer in each.outputs) / seconds

    ours(), reference()
    return compare(
        "prompts", ours=ours, reference=reference, repeats=repeats, unit="tokens/s", llm=engine.name, prompts=prompts
    )


def asked(count: int) -> list[Request]:
    """`count` questions about ordinary things, each with a seed of its own."""
    questions = [fill(question.text, thing) for thing in THINGS for question in questions_for("generic").asked]
    return [Request(question=questions[i % len(questions)], seed=i) for i in range(count)]
