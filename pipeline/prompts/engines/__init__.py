"""LLM engines behind one protocol. `load_engine` imports vLLM only when it is called."""

import os

from pipeline.prompts.engines.base import Answer, Engine, Request, Sampling
from pipeline.prompts.engines.options import EngineOptions

__all__ = ["Answer", "Engine", "EngineOptions", "Request", "Sampling", "load_engine"]


def load_engine(name: str, options: EngineOptions | None = None) -> Engine:
    """Load the language model `name` (alias, hub id or folder) into vLLM in this process.

    Raises:
        UserError: unknown name, no hub and no local weights, vLLM not installed, or too little memory.
    """
    from pipeline.prompts.engines.vllm import VLLMEngine
    from pipeline.prompts.llms import resolve_llm

    # OpenMP threads that wait must sleep, not spin: where other programs want the same cores, spinning makes small
    # models fifteen times slower (20 instead of 310 tokens/s, measured). OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = options or EngineOptions()
    return VLLMEngine(resolve_llm(name, revision=options.revision), options)
