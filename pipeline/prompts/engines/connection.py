"""The way to a server: a client of the `openai` package with the user's settings, and one line for every failure."""

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.prompts.engines.replies import plain
from stages.errors import UserError
from stages.params import ServerParams

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

CONNECT_SECONDS = 10.0
# A server may ask for a pause of up to two minutes before a retry, and the openai package obeys.
LONGEST_PAUSE = 120.0


def connect(server: ServerParams) -> "AsyncOpenAI":
    """A client with the user's key, time limit and retries.

    Raises:
        UserError: (exit code 2) no usable address or key.
    """
    from openai import AsyncOpenAI, Timeout

    key = os.environ.get(server.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {server.key_variable} has characters that no key has", exit_code=2)
    return AsyncOpenAI(
        base_url=address(server),
        api_key=key or "none",  # servers without keys do not look at it
        timeout=Timeout(server.timeout, connect=min(CONNECT_SECONDS, server.timeout)),
        max_retries=server.retries,
    )


def address(server: ServerParams) -> str:
    """The server's base address, checked.

    Raises:
        UserError: (exit code 2) no http address, or one with a password in it.
    """
    url = server.url or ""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        secret = bool(parts.username or parts.password)
    except ValueError:
        sound = secret = False
    if secret:
        raise UserError("the server's address holds a password; put the key into the environment", exit_code=2)
    if not sound:
        raise UserError(f"server {url!r}: expected an address such as http://localhost:8000/v1", exit_code=2)
    return url


def named(server: ServerParams) -> str:
    """What every message about the server begins with."""
    return f"LLM server {server.url}"


def what_it_said(error: "APIStatusError") -> str:
    """The message of a refusal; where the client found none in it, all of it."""
    message = str(error.message)
    told = isinstance(error.body, str) or (isinstance(error.body, dict) and isinstance(error.body.get("message"), str))
    return message if told or not error.body else f"{message}: {error.body}"


def fault(error: Exception, server: ServerParams) -> UserError:
    """One line on why the server did not answer, and what can be done."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    who = named(server)
    if isinstance(error, APITimeoutError | TimeoutError):
        return UserError(
            f"{who} did not answer within {server.timeout:g} s; is it still loading its model? "
            "Else raise prompts.server.timeout or lower prompts.server.concurrency"
        )
    if isinstance(error, APIConnectionError):
        said = plain(str(error.__cause__ or error))
        return UserError(
            f"{who} cannot be reached ({said}); is it running, and is --server (prompts.server.url) right?"
        )
    if not isinstance(error, APIStatusError):
        return UserError(f"{who}: {plain(str(error))}")
    said = plain(what_it_said(error))
    if error.status_code in (401, 403):
        has_key = bool(os.environ.get(server.key_variable))
        mend = f"the key in {server.key_variable} is refused" if has_key else f"put its key into {server.key_variable}"
        return UserError(f"{who} answers {error.status_code}; {mend} ({said})")
    if error.status_code == 404:
        return UserError(f"{who} answers 404; its address ends in /v1, or the model is gone ({said})")
    if error.status_code == 429:
        return UserError(f"{who} answers 429, too many requests; lower prompts.server.concurrency ({said})")
    if error.status_code >= 500:
        return UserError(f"{who} answers {error.status_code} after {server.retries} retries ({said})")
    return UserError(f"{who} refuses a question with {error.status_code} ({said})")
