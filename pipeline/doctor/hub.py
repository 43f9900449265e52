"""The Hugging Face hub: what of a model lies in the local cache, and how large the rest is. Nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.hub import SECONDS, answered
from stages.extras import installed, mend


@dataclass(frozen=True)
class Remote:
    """What the hub says about a model: `size` in bytes, or None and the reason in `problem`."""

    size: int | None
    gated: bool = False
    problem: str = ""


class Hub:
    """Asks the hub at most once in vain: after a failed connection it counts as out of reach."""

    def __init__(self) -> None:
        self._there = installed("huggingface_hub")
        if not self._there:
            self.cache = Path("~/.cache/huggingface/hub").expanduser()
            self._unreachable = f"not asked: huggingface_hub is not installed ({mend('huggingface_hub')})"
            return
        from huggingface_hub import constants

        self.cache = Path(constants.HF_HUB_CACHE)
        self._unreachable = "not asked (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""

    def cached(self, repo: str, *files: str, revision: str | None = None) -> Path | None:
        """The first of `files` of a model that the local cache holds."""
        if not self._there:
            return None
        from huggingface_hub import try_to_load_from_cache

        for file in files:
            found = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(found, str):
                return Path(found)
        return None

    def remote(self, repo: str, wanted: Callable[[list[str]], list[str]]) -> Remote:
        """How large the `wanted` ones of a model's files are."""
        if self._unreachable:
            return Remote(None, problem=f"the hub was {self._unreachable}")
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info: Any = answered(lambda: HfApi().model_info(repo, files_metadata=True, timeout=SECONDS))
        except RepositoryNotFoundError:
            return Remote(None, problem=f"the hub has no model {repo!r}, or not for you")
        except Exception:  # whatever the connection dies of
            self._unreachable = "not reachable"
            return Remote(None, problem="the hub is not reachable")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        total = sum(sizes[name] for name in wanted(list(sizes)))
        return Remote(total, gated=bool(info.gated) and get_token() is None)
