"""Settings of a request that some servers do not take, told from the text of their refusal.

OpenAI-compatible means different things: llama.cpp and Groq give one answer a request, reasoning models take no
temperature, no seed, and call the token limit `max_completion_tokens`. A refusal is one of these only where it speaks
of a setting that was sent and says that the setting, not its value, is the fault: a context that is too short stays an
error.
"""

import re
from collections.abc import Collection

RENAMED = {"max_tokens": "max_completion_tokens"}
"""What is sent in place of a setting that is refused; the others are left out."""
STATUSES = (400, 422, 500, 501)
_UNWANTED = re.compile(
    r"unsupported|(?:not|n't|no longer) (?:yet )?(?:support|accept|permit|allow|implement|recogni[sz]e|available)"
    r"|unknown|unrecogni[sz]ed|unexpected|extra[_ ](?:input|field|forbidden)|deprecated|only the default",
    re.IGNORECASE,
)
_ONE = re.compile(
    r"only one\b|(?:only|at most|up to|more than|exactly|must be|equals?(?: to)?|maximum(?: of| is)?|<=|=) ?['\"]?1\b"
    r"(?!\.\d)",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"(?<![\w'’])['\"`]?n['\"`]?(?![\w'’])|\b(?:choice|candidate|completion)s?\b", re.IGNORECASE)


def refused_setting(said: str, sent: Collection[str], *, param: str | None = None) -> str | None:
    """The setting that a refusal is about, None where it is about something else.

    Args:
        said: the server's message.
        sent: names of the settings of the request; `n` only where it was more than 1.
        param: the name that the refusal gives by itself, as OpenAI's do.
    """
    several = "n" in sent and (param == "n" or bool(_SEVERAL.search(said)))
    if several and _ONE.search(said):
        return "n"
    if not _UNWANTED.search(said):
        return None
    if param in sent:
        return param
    named = [name for name in sent if name != "n" and re.search(rf"(?<![a-z_]){name}(?![a-z_])", said, re.IGNORECASE)]
    return min(named, key=said.lower().index) if named else "n" if several else None


def told(setting: str, value: object) -> str:
    """What the user reads once about a setting that the server does not take."""
    return {
        "n": "gives one answer a request: asked one by one",
        "seed": "takes no seed: asked without, the same questions would get other answers another time",
        "max_tokens": f"takes max_tokens by the name {RENAMED['max_tokens']}",
    }.get(setting, f"does not take {setting} {value}: asked without, its own is used")
