"""LLM engines behind one protocol. `load_engine` imports vLLM only when it is called."""

from pipeline.prompts.engines.base import Answer, Engine, Request, Sampling
from pipeline.prompts.engines.options import EngineOptions

__all__ = ["Answer", "Engine", "EngineOptions", "Request", "Sampling", "load_engine"]


def load_engine(name: str, options: EngineOptions | None = None) -> Engine:
    """Load the language model `name` (alias, hub id or folder) into vLLM in this process.

    Raises:
        UserError: unknown name, no hub and no local weights, vLLM not installed, or too little memory.
    """
    from pipeline.prompts.engines.vllm import VLLMEngine
    from pipeline.prompts.llms import let_waiting_threads_sleep, resolve_llm

    let_waiting_threads_sleep()
    options = options or EngineOptions()
    return VLLMEngine(resolve_llm(name, revision=options.revision), options)
