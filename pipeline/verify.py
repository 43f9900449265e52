"""Check all stores of a cache, each by itself and against the stores it was made from."""

from pathlib import Path

from stages import ImageStore, ManifestStore, PromptStore, TextStore, UserError
from stages.artifacts import NO_LLM, STORES, Store
from stages.provenance import refuse_mixture


def stores_in(cache: Path) -> list[Store]:
    """Every store on disk, manifests first."""
    found: list[Store] = []
    makers = {"manifest": ManifestStore, "prompts": PromptStore, "text": TextStore, "images": ImageStore}
    for kind in STORES:
        for file in sorted((Path(cache) / kind.name).rglob("part-0.parquet")):
            partitions = dict(p.split("=", 1) for p in file.parent.relative_to(cache).parts[1:])
            found.append(makers[kind.name](cache, **partitions))
    return found


def verify(cache: Path) -> tuple[int, list[str]]:
    """Number of stores checked, and one line for everything that is wrong.

    Raises:
        UserError: there is no store.
    """
    stores = stores_in(cache)
    if not stores:
        raise UserError(f"{cache}: no store there yet: run `pipeline ingest` first, or name the folder with --cache")
    faults: list[str] = []
    for store in stores:
        own = store.verify()
        faults += own
        if own or store.name == "manifest":
            continue
        parents: list[Store] = [ManifestStore(cache, store.dataset)]
        llm = store.partitions.get("llm")
        if store.name == "text" and llm != NO_LLM:
            parents.append(PromptStore(cache, store.dataset, str(llm)))
        for parent in parents:
            try:
                refuse_mixture(parent.provenance(), store.provenance())
            except UserError as error:
                faults.append(str(error))
        faults += _rows_missing(cache, store)
    return len(stores), faults


def _rows_missing(cache: Path, store: Store) -> list[str]:
    """Images or prompts that should be embedded and are not."""
    if store.name == "images":
        manifest = ManifestStore(cache, store.dataset).read(["image_id", "error"]).to_pylist()
        expected = {r["image_id"] for r in manifest if not r["error"]}
        excused = len(store.provenance().settings.get("found_unreadable", []))
        missing = len(expected - set(store.read(["image_id"])["image_id"].to_pylist()))
        excused -= sum(bool(r["error"]) for r in manifest)
    elif store.name == "text" and store.partitions["llm"] != NO_LLM:
        prompts = PromptStore(cache, store.dataset, store.partitions["llm"]).read(["prompt_id", "kept"]).to_pylist()
        expected = {r["prompt_id"] for r in prompts if r["kept"]}
        missing, excused = len(expected - set(store.read(["prompt_id"])["prompt_id"].to_pylist())), 0
    else:
        return []
    return [f"{store.file}: {missing - excused} rows are missing; write the store again"] if missing > excused else []
