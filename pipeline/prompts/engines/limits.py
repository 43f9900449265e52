"""What both engines hold to when they ask for answers; what cannot fit is told before a model is loaded."""

import os
from collections.abc import Iterable
from dataclasses import replace

from pipeline.prompts.engines.base import Answer, Request, Sampling
from pipeline.prompts.engines.options import EngineOptions
from pipeline.prompts.llms import ResolvedLLM
from stages.errors import UserError

DEFAULT_LENGTH = 1024
"""Tokens of question and answer together where the user does not say: more only costs memory."""

# The end is not looked for in the first tokens, so that "Certainly! Here ..." and "1. It ..." go on; a complete answer
# as short as that would be dropped anyway.
MIN_TOKENS = 8
# Variables that some chat templates read. Llama 3.2 would otherwise write today's date into every question, and Qwen 3
# would spend the whole answer on thinking. Templates that know neither ignore them.
TEMPLATE_VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}
# Below this temperature vLLM takes the likeliest token always, and refuses to draw more than one answer.
GREEDY = 1e-5


def draws(request: Request, sampling: Sampling) -> int:
    """Answers to have drawn for a request; where nothing is drawn, one stands for all `n`."""
    return 1 if sampling.temperature < GREEDY else request.n


def all_answers(drawn: list[Answer], request: Request) -> list[Answer]:
    """The `n` answers of a request from those that were drawn."""
    return drawn * request.n if len(drawn) < request.n else drawn


def least_tokens(most: int) -> int:
    """Tokens that an answer of at most `most` has at least."""
    return min(MIN_TOKENS, most)


def fitted(options: EngineOptions, llm: ResolvedLLM) -> EngineOptions:
    """The options with a length that the model takes.

    Raises:
        UserError: (exit code 2) the user asked for more than the model takes.
    """
    if options.max_model_len is None:
        return replace(options, max_model_len=min(DEFAULT_LENGTH, llm.context or DEFAULT_LENGTH))
    forced = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0").strip().lower() in ("1", "true")
    if llm.context is not None and options.max_model_len > llm.context and not forced:
        raise UserError(
            f"--max-model-len {options.max_model_len}: {llm.name} takes {llm.context} tokens, question and answer "
            f"together ({llm.config}); give {llm.context} or less",
            exit_code=2,
        )
    return options


def check_room(questions: Iterable[str], max_tokens: int, *, llm: ResolvedLLM, length: int | None) -> None:
    """Refuse answers so long that surely no room is left for the longest question: it has a token a word at least.

    Args:
        length: tokens of question and answer together as the model is, or will be, loaded; None: unknown.

    Raises:
        UserError: (exit code 2) names what can be given.
    """
    longest = max((len(f"{llm.system} {question}".split()) for question in questions), default=0)
    if length is None or max_tokens + longest <= length:
        return
    more = ""
    if llm.config is not None and (llm.context is None or llm.context > length):
        takes = f" (the model takes {llm.context})" if llm.context else ""
        more = f", or a longer --max-model-len{takes}"
    raise UserError(
        f"prompts.max_tokens {max_tokens} leaves no room for a question of {longest} words or more: "
        f"{llm.name} has {length} tokens for question and answer together; give at most "
        f"{max(1, length - 2 * longest - MARGIN)}{more}",
        exit_code=2,
    )


MARGIN = 32
"""Tokens that a chat template puts around a question, about."""
