"""The command that writes a prompt store again, told by its footer: what a message gives a user to paste."""

import shlex

from stages.provenance import Provenance


def remake(origin: Provenance) -> tuple[str, ...]:
    """The words after `pipeline` that make the prompt store of this provenance again."""
    dataset, name = ("--dataset", origin.dataset), origin.llm or ""
    if "questions" in origin.settings:
        return ("generate-prompts", *dataset, "--llm", name)
    file = origin.settings.get("file")
    return ("import-prompts", *dataset, "--name", name, *(("--captions",) if file is None else ("--file", str(file))))


def pasteable(words: tuple[str, ...]) -> str:
    """The whole command as a shell reads it."""
    return shlex.join(("pipeline", *words))
