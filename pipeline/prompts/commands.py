"""The command that writes a prompt store again, told by its footer: what a message gives a user to paste."""

import shlex

from stages.stores.provenance import PromptProvenance

SERVED = "server:"
"""What the fingerprint of a model behind a server begins with; no store keeps its address."""


def remake(origin: PromptProvenance) -> tuple[str, ...]:
    """The words after `pipeline` that make the prompt store of this provenance again."""
    dataset, name = ("--dataset", origin.dataset), origin.llm or ""
    if origin.questions is not None:
        served = (origin.llm_fingerprint or "").startswith(SERVED)
        return ("generate-prompts", *dataset, "--llm", name, *(("--server", "URL") if served else ()))
    source = ("--captions",) if origin.file is None else ("--file", origin.file)
    return ("import-prompts", *dataset, "--name", name, *source)


def pasteable(words: tuple[str, ...]) -> str:
    """The whole command as a shell reads it."""
    return shlex.join(("pipeline", *words))
