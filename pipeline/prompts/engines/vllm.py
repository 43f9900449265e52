"""vLLM in this process: all requests of a batch handed over at once, one seed a request.

Notable:
- The question is the user message of the model's own chat template. A base model without a template gets the bare
  question as a text to be continued, with the BOS token in front: without it such models answer with junk.
- Questions become tokens here and not in vLLM, so that a template that already begins with BOS does not get a second.
- Generation stops where a second sentence begins, since only the first is kept (CuPL stops at the first full stop).
- The n answers of one request share its prompt; vLLM draws the k-th of them with the request's seed + k.
- The same requests in the same call give the same answers. Across calls of another make-up they may differ in a few
  places: the numbers of one sequence depend a little on which others share a matrix product with it.
"""

import gc
import string
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.prompts.engines.base import Answer, Request, Sampling
from pipeline.prompts.engines.limits import TEMPLATE_VARIABLES, all_answers, draws, fitted, least_tokens
from pipeline.prompts.engines.options import EngineOptions
from pipeline.prompts.engines.vllm_process import (
    CPU_SEQUENCES,
    import_vllm,
    inspect_here,
    prepare_process,
    quiet,
    stdout_on_stderr,
)
from pipeline.prompts.hub import require_weights
from pipeline.prompts.llms import ResolvedLLM
from stages.command import progress_bar
from stages.errors import UserError

# Where the first sentence has surely ended. A stop string is seen with the capital that follows it, so that "e.g. a"
# and "3.5" pass; `clean` cuts the answer again, with more care.
STOPS = [f"{mark} {capital}" for mark in ".!?" for capital in string.ascii_uppercase] + [f"{mark}\n" for mark in ".!?"]


class VLLMEngine:
    """A language model loaded by vLLM in this process; implements `Engine`.

    Args:
        llm: what `resolve_llm` found.
        options: how it is loaded.

    Attributes:
        system: the system message put before every question of a model with a chat template; may be empty.
        llm: the loaded `vllm.LLM`.

    Raises:
        UserError: vLLM is not installed, or the model does not fit into memory or has too short a context.
    """

    def __init__(self, llm: ResolvedLLM, options: EngineOptions) -> None:
        self.name = llm.name
        self.fingerprint = llm.fingerprint
        self.note = llm.note
        self.refused: Sequence[str] = ()
        self.system = llm.system
        options = fitted(options, llm)  # before the long imports
        self._max_model_len = options.max_model_len or 0
        if not llm.is_local:
            require_weights(llm.name, llm.model, llm.revision)
        has_cuda = prepare_process(local=llm.is_local)
        with quiet():
            vllm = import_vllm()
        import torch

        set_num_threads = torch.set_num_threads
        try:
            with quiet(), stdout_on_stderr():
                if not has_cuda and llm.config is not None:
                    inspect_here(vllm, llm.config)
                self.llm = vllm.LLM(**arguments(llm, options, has_cuda=has_cuda))
        except Exception as error:
            raise UserError(_load_failure(llm, error)) from error
        finally:
            torch.set_num_threads = set_num_threads  # vLLM's CPU worker replaces it by a warning
        self._tokenizer = self.llm.get_tokenizer()
        self.chats = bool(self._tokenizer.chat_template)

    def prepare(self, requests: Sequence[Request], sampling: Sampling) -> tuple[list[Any], list[Any]]:
        """The `TokensPrompt` and the `SamplingParams` of every request, as `LLM.generate` takes them.

        Raises:
            UserError: a question is longer than the model's context.
        """
        from vllm import SamplingParams, TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=self._tokens(request.question, sampling)) for request in requests]
        params = [
            SamplingParams(
                n=draws(request, sampling),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                min_tokens=least_tokens(sampling.max_tokens),
                seed=request.seed,
                stop=STOPS,
            )
            for request in requests
        ]
        return prompts, params

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        """Answer all requests, in their order, each `n` times; equal calls give equal answers."""
        if not requests:
            return []
        prompts, params = self.prepare(requests, sampling)
        self.llm.reset_prefix_cache()  # what was asked before must not matter: another process may not have been asked
        outputs = self.llm.generate(prompts, params, use_tqdm=_bar)
        drawn = [[_answer(each) for each in output.outputs] for output in outputs]
        return [all_answers(answers, request) for answers, request in zip(drawn, requests, strict=True)]

    def close(self) -> None:
        """Give the model's memory back; the engine is unusable afterwards."""
        if not hasattr(self, "llm"):
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        del self.llm, self._tokenizer
        gc.collect()
        cleanup_dist_env_and_memory()

    def _tokens(self, question: str, sampling: Sampling) -> list[int]:
        """The token ids of one question, ready to be continued with the answer."""
        ids: list[int]
        if self._tokenizer.chat_template:
            messages = [{"role": "system", "content": self.system}] if self.system else []
            ids = self._tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": question}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **TEMPLATE_VARIABLES,
            )
        else:
            ids = list(self._tokenizer(question).input_ids)
            bos = self._tokenizer.bos_token_id
            if bos is not None and ids[:1] != [bos]:
                ids.insert(0, bos)
        room = self._max_model_len - sampling.max_tokens
        if len(ids) > room:
            raise UserError(
                f"a question has {len(ids)} tokens, {max(0, room)} are left beside an answer of {sampling.max_tokens} "
                f"(prompts.max_tokens; --max-model-len {self._max_model_len}): {question[:60]!r}..."
            )
        return ids


def arguments(llm: ResolvedLLM, options: EngineOptions, *, has_cuda: bool) -> dict[str, Any]:
    """What `vllm.LLM` is called with."""
    found: dict[str, Any] = {
        "model": llm.model,
        "revision": llm.revision,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_model_len": options.max_model_len,
        "quantization": options.quantization,
        "enable_prefix_caching": True,
        # Scheduling beside the computation lets batches depend on timing; an answer leans a little on its batch.
        "async_scheduling": False,
        "use_tqdm_on_load": False,
    }
    if options.gpu_memory_utilization is not None:
        found["gpu_memory_utilization"] = options.gpu_memory_utilization
    if not has_cuda:
        # Compiling takes two minutes on a CPU and gains nothing there. A question split over two steps ends vLLM 0.32
        # on a CPU where requests have seeds ("CPU Generator does not use offset"), so none is split.
        found |= {"enforce_eager": True, "max_num_seqs": CPU_SEQUENCES, "enable_chunked_prefill": False}
    return found


class _Progress:
    """This project's bar, or lines, with what vLLM wants of one; it forces a last line, which is not wanted."""

    def __init__(self, total: int) -> None:
        self._bar = progress_bar("asking", total=total, unit="question")
        self.postfix = ""

    @property
    def n(self) -> int:
        return int(self._bar.n)

    @property
    def format_dict(self) -> Any:
        return self._bar.format_dict

    def update(self, n: int = 1) -> None:
        self._bar.update(n)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self._bar.close()


def _bar(items: Iterable[Any] | None = None, *, total: int = 0, **_: Any) -> Any:
    """What vLLM shows: nothing while it takes the questions over, progress while it answers."""
    return _Progress(total) if items is None else items


def _answer(output: Any) -> Answer:
    """An answer as the protocol wants it; the mark before which vLLM cut the text off is put back."""
    mark = output.stop_reason[0] if isinstance(output.stop_reason, str) else ""
    return Answer(
        text=output.text + mark,
        n_tokens=len(output.token_ids),
        finish_reason=output.finish_reason or "unknown",
    )


def _load_failure(llm: ResolvedLLM, error: Exception) -> str:
    """One line on why vLLM could not load the model."""
    import torch

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # pydantic's first line only counts the faults
    reason = lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error).lower():
        return (
            f"LLM {llm.name}: {llm.model} does not fit into memory ({reason}); take a smaller model "
            "(--llm smollm2 needs 2 GB), a shorter --max-model-len, --quantization or --tensor-parallel-size"
        )
    return f"LLM {llm.name}: vLLM could not load {llm.model}: {reason}"
