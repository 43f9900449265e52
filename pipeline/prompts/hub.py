"""A language model on the hub: the commit that pins it, its config.json and chat template; no weights."""

from contextlib import suppress
from pathlib import Path

from pipeline.hub import SECONDS, answered
from stages.errors import UserError

TEMPLATES = ("tokenizer_config.json", "chat_template.jinja")
"""Files that may hold a chat template."""
OFFLINE = "offline use --llm smollm2, or a local folder with the model"


def hub_config(name: str, repo: str, revision: str | None) -> Path:
    """The config.json of a hub model in the hub's cache, fetched if it is not there; its folder is named by the commit.

    What the cache has is taken as it is, without asking the hub: a model stays the same until the user fetches another
    (`hf download`), or names a revision. A hub fault is told apart from all others, and at once.

    Args:
        name: what the user calls the model.

    Raises:
        UserError: the hub cannot be reached, or it has no such model or revision, or the model is gated.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"LLM {name}: {repo} is not in the local hub cache and HF_HUB_OFFLINE is set; {OFFLINE}")
    try:
        # unlike a download it does not try six times
        answered(lambda: HfApi().model_info(repo, revision=revision, timeout=SECONDS))
        config = Path(hf_hub_download(repo, "config.json", revision=revision))
        for name_of_file in TEMPLATES:
            with suppress(EntryNotFoundError):
                hf_hub_download(repo, name_of_file, revision=config.parent.name)
        return config
    except GatedRepoError as error:
        raise UserError(
            f"LLM {name}: {repo} is gated; accept its licence on its hub page, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"LLM {name}: {repo} has no revision {revision!r}", exit_code=2) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"LLM {name}: the hub has no model {repo!r}", exit_code=2) from error
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(
                f"LLM {name}: {repo} holds no config.json (only GGUF files?); download the .gguf file and give its "
                "path, or take the repository of the original model",
                exit_code=2,
            ) from error
        raise UserError(
            f"LLM {name}: {repo} is not in the local hub cache and the hub cannot be reached; {OFFLINE}"
        ) from error


def require_weights(name: str, repo: str, revision: str | None) -> None:
    """Refuse at once a hub model whose weights are neither in the hub's cache nor to be had.

    Raises:
        UserError: out of reach, gated, or without weights; one line.
    """
    from pipeline.hub import hub_problem

    kinds = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    problem = hub_problem(repo, kinds, revision=revision)
    if problem and "has none of" not in problem:  # some call their weights otherwise: vLLM finds them
        raise UserError(f"LLM {name}: its weights: {problem}; {OFFLINE}")
