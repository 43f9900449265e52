"""Commands that a message offers work as typed: they have the folders, the settings file and the encoder of the line
that runs.

A message says `pipeline embed-images --dataset birds`; where the running command was given --features elsewhere, what
the user reads is `pipeline embed-images --dataset birds --cache elsewhere`. A command's bare name stays one.
"""

import re
import shlex
from collections.abc import Collection, Mapping
from contextvars import ContextVar

GIVEN: ContextVar[Mapping[str, str] | None] = ContextVar("given", default=None)
"""What the line of the running command says, by the names of `ASKS`."""

ASKS: dict[str, tuple[str, Collection[str]]] = {
    "cache": ("--cache", [
        "audit", "compose", "confidence", "control-sentences", "cost", "doctor", "embed-images", "embed-text",
        "explain", "export-features", "gap", "generate-prompts", "import-prompts", "ingest", "report", "run", "search",
        "serve", "sql", "suggest", "sweep", "verify",
    ]),
    "results": ("--results", [
        "ask", "caption", "confidence", "doctor", "explain", "export", "gap", "paper-table", "predict", "report", "run",
        "serve", "suggest", "sweep",
    ]),
    "encoder": ("--encoder", [
        "audit", "compose", "confidence", "cost", "doctor", "embed-images", "embed-text", "export-features",
        "run", "search", "serve", "sql", "suggest",
    ]),
}  # fmt: skip
"""Option -> the commands that take it; all take --params. No name of a command is of both programs but `bench`."""

_OFFER = re.compile(r"`((?:pipeline|trainer) ([a-z-]+) [^`\n]+)`")


def as_typed(text: str) -> str:
    """The text with every offered command, in backticks and with an argument or an option, in full."""
    return _OFFER.sub(lambda found: f"`{_full(found[1], found[2])}`", text) if GIVEN.get() else text


def _full(line: str, command: str) -> str:
    program = line.split()[0]
    for name, value in (GIVEN.get() or {}).items():
        flag, takers = ASKS.get(name, (f"--{name}", (command,)))
        if (program, flag) == ("trainer", "--cache"):
            flag = "--features"
        if command in takers and flag not in line.split():
            line += f" {flag} {shlex.quote(value)}"
    return line
