"""Which command makes a store: its words, from the footer where it can be read, else from the settings."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from pipeline.prompts.commands import pasteable, remake
from pipeline.verify.places import stores_in
from stages import ManifestProvenance, PromptProvenance, Provenance, UserError, slug
from stages.params import Params
from stages.stores.artifacts import Store
from stages.stores.provenance import FEATURES, SECOND


def readable_origin(store: Store) -> Provenance | None:
    """The footer of a store, where there is one that can be trusted to be its own."""
    try:
        return store.provenance()
    except UserError:
        return None


def command_for(store: Store, params: Params) -> tuple[str, ...]:
    """The words of the `pipeline` command that makes a store again.

    Raises:
        UserError: nothing says where its content came from.
    """
    makers = {"manifest": _ingest, "prompts": _prompts, "text": _embed, "images": _embed}
    return makers[store.name](store, params)


def _ingest(store: Store, params: Params) -> tuple[str, ...]:
    origin = readable_origin(store)
    source = (origin.source if isinstance(origin, ManifestProvenance) else None) or params.of(store.dataset).source
    if not source:
        raise UserError(
            f"its source is unknown: run `pipeline ingest {store.dataset} --source SOURCE`, or give "
            f"data.{store.dataset}.source in the settings file"
        )
    named = origin.encoder if isinstance(origin, ManifestProvenance) and origin.from_arrays else None
    return ("ingest", store.dataset, f"--source={source}", *([f"--encoder-name={named}"] if named else []))


def _prompts(store: Store, params: Params) -> tuple[str, ...]:
    origin, place = readable_origin(store), store.partitions["llm"]
    dataset = f"--dataset={store.dataset}"
    listed = _named(place, (item.name for item in params.imports if item.dataset == store.dataset))
    if listed is not None:
        return ("import-prompts", dataset, f"--name={listed}")
    if origin is not None and FEATURES in origin.inputs:
        return ("generate-prompts", dataset)
    if isinstance(origin, PromptProvenance) and origin.questions is None:
        file = origin.file
        if file is not None and not Path(file).is_file():
            raise UserError(
                f"its sentences were imported from {file!r}, which is not there and not listed in the settings: run "
                f"`{pasteable(remake(origin))}` with the file's new place"
            )
        return remake(origin)
    known = [origin.llm or "" if origin else "", params.prompts.llm, *params.llms, *_footers(store, "llm")]
    return ("generate-prompts", dataset, f"--llm={_named(place, known) or place}")


def _embed(store: Store, params: Params) -> tuple[str, ...]:
    origin, place = readable_origin(store), store.partitions["encoder"]
    if origin is not None and (file := origin.settings.get(SECOND)):
        raise UserError(
            f"a second encoder's embeddings, from a file {file}: run `pipeline embed-images --dataset {store.dataset} "
            f"--from FILE --encoder {shlex.quote(origin.encoder or place)}` with its place"
        )
    known = [origin.encoder or "" if origin else "", params.encoder, *_footers(store, "encoder")]
    command = {"text": "embed-text", "images": "embed-images"}[store.name]
    return (command, f"--dataset={store.dataset}", f"--encoder={_named(place, known) or place}")


def _named(place: str, names: Iterable[str]) -> str | None:
    """The first name whose folder is `place`."""
    for name in names:
        try:
            if slug(name) == place:
                return name
        except UserError:
            continue
    return None


def _footers(store: Store, key: str) -> list[str]:
    """What other stores of this partition value call it in full."""
    others = [s for s in stores_in(store.cache) if s.partitions.get(key) == store.partitions[key]]
    origins = [readable_origin(other) for other in others]
    return [str(getattr(origin, key)) for origin in origins if origin is not None]
