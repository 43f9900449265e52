"""LLM engines behind one protocol: vLLM in this process, or a server. Nothing heavy is imported before it is needed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.prompts.engines.base import Answer, Engine, Request, Sampling, answered
from pipeline.prompts.engines.options import EngineOptions

if TYPE_CHECKING:
    from pipeline.prompts.llms import ResolvedLLM
    from stages.params import ServerParams

__all__ = ["Answer", "Engine", "EngineOptions", "Request", "Sampling", "answered", "find_llm", "load_engine"]

DEFAULT = EngineOptions()


def find_llm(
    name: str,
    options: EngineOptions = DEFAULT,
    server: "ServerParams | None" = None,
    aliases: Mapping[str, str] | None = None,
) -> "ResolvedLLM":
    """Find the language model `name`, for vLLM in this process or on the server that has an address; nothing is loaded.

    Args:
        aliases: the user's own, alias -> hub id or folder; they win over the shipped ones.

    Raises:
        UserError: unknown name, no hub and no local weights, or a server that cannot be reached or does not serve it.
    """
    if server is not None and server.url is not None:
        from pipeline.prompts.engines.server import find_served

        return find_served(name, server, aliases)
    from pipeline.prompts.llms import resolve_llm

    return resolve_llm(name, revision=options.revision, aliases=aliases)


def load_engine(llm: "ResolvedLLM", options: EngineOptions = DEFAULT) -> Engine:
    """Load a language model that `find_llm` found into vLLM in this process; one on a server only has to be asked.

    Args:
        options: how vLLM loads it; a server has loaded its model already.

    Raises:
        UserError: vLLM is not installed, too little memory, or a context that the model does not take.
    """
    from pipeline.prompts.engines.server import ServedLLM, ServerEngine

    if isinstance(llm, ServedLLM):
        return ServerEngine(llm)
    from pipeline.prompts.engines.vllm import VLLMEngine

    return VLLMEngine(llm, options)
