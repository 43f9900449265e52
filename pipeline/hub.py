"""Whether a model of the Hugging Face hub can be had, told at once and in one line, before a library tries for minutes.

The libraries that fetch models try again and again where a hub is silent, and say of a gated model that it is missing.
"""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

SECONDS = 2
"""Longest wait for a connection, and for each part of an answer of the hub."""
LONGEST = 5
"""Longest wait for an answer, name servers that are silent included: a line within ten seconds."""

Answer = TypeVar("Answer")


def answered(ask: Callable[[], Answer]) -> Answer:
    """What the hub answers, or what `ask` raises.

    Raises:
        TimeoutError: nothing within `LONGEST` seconds; what waits then is left behind.
    """
    found: queue.SimpleQueue[tuple[Answer | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            found.put((ask(), None))
        except BaseException as error:  # raised where it is waited for
            found.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = found.get(timeout=LONGEST)
    except queue.Empty as error:
        raise TimeoutError(f"no answer within {LONGEST} s") from error
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


def hub_problem(repo: str, files: tuple[str, ...], *, revision: str | None = None) -> str | None:
    """Why none of these files of a model can be had; None where the local cache has one, or the hub would give one.

    Args:
        repo: `OWNER/MODEL`.
        files: names, any of which will do.
        revision: branch, tag or commit; None: the main branch.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if any(isinstance(try_to_load_from_cache(repo, file, revision=revision), str) for file in files):
        return None
    if constants.HF_HUB_OFFLINE:
        return f"{repo} is not in the local hub cache, and HF_HUB_OFFLINE is set"
    for file in files:
        try:
            url = hf_hub_url(repo, file, revision=revision)
            answered(lambda url=url: get_hf_file_metadata(url, timeout=SECONDS))  # type: ignore[misc]
        except GatedRepoError:
            return f"{repo} is gated; accept its licence on its hub page, then `hf auth login`"
        except (RepositoryNotFoundError, RevisionNotFoundError):
            at = f" with a revision {revision!r}" if revision else ""
            return f"the hub has no model {repo!r}{at}, or not for you"
        except EntryNotFoundError:
            continue
        except Exception:  # whatever the connection dies of
            return f"{repo} is not in the local hub cache and the hub cannot be reached"
        return None
    return f"{repo} has none of {', '.join(files)}"
