"""All stores of a cache, in the order in which they are made from each other."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.verify.checks import Fault, chain_faults, encoder_faults, lacking, own_faults, parents
from pipeline.verify.places import leftovers, stores_in, strays
from stages import UserError
from stages.stores.artifacts import STORES, Store


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        checked: number of stores.
        faults: everything that is wrong, manifests first.
        notes: what is worth knowing and no fault: rests of killed commands, unfinished work.
    """

    checked: int
    faults: list[Fault]
    notes: list[str]


class Inspection:
    """Checks kind after kind and remembers which stores are sound; one whose inputs are not is judged by itself alone.

    Args:
        dataset: one data set, or None for all.
    """

    def __init__(self, cache: Path, dataset: str | None) -> None:
        self.cache, self.dataset = cache, dataset
        self.sound: set[Path] = set()

    def kind(self, kind: type[Store]) -> list[Fault]:
        """The faults of all stores of one kind, and of those of this kind that are missing; reads them whole."""
        there = stores_in(self.cache, self.dataset)
        faults = [fault for store in there if store.name == kind.name for fault in self.store(store)]
        needed = {parent.file: (parent, store) for store in there for parent in parents(store)}
        for parent, child in needed.values():
            if parent.name == kind.name and not parent.exists():
                faults.append(Fault(f"{parent.file}: not there, though {child.file} was made from it", (parent,)))
        return faults

    def store(self, store: Store) -> list[Fault]:
        """The faults of one store."""
        self.sound.discard(store.file)
        try:
            found = own_faults(store)
            if not found and self.judged(store):
                found = chain_faults(store)
        except UserError as error:
            found = [str(error)]
        if not found and self.judged(store):
            self.sound.add(store.file)
            return [Fault(text, (store,), sound=True) for text in _lacking(store)]
        return [Fault(text, (store,)) for text in found]

    def judged(self, store: Store) -> bool:
        """Whether everything that a store was made from is sound."""
        return all(parent.file in self.sound for parent in parents(store))

    def encoders(self) -> list[Fault]:
        """Faults between the sound stores of one encoder."""
        return encoder_faults([s for s in stores_in(self.cache, self.dataset) if s.file in self.sound])


def _lacking(store: Store) -> list[str]:
    """One line a reason for which an image store lacks images of its manifest."""
    encoder = shlex.quote(store.provenance().encoder or store.partitions.get("encoder", ""))
    again = f"run `pipeline embed-images --dataset {store.dataset} --encoder {encoder}` again once they are back"
    mends = {"undecodable": f"run `pipeline ingest {store.dataset}` again to have them marked as such"}
    return [
        f"{store.file}: {len(images)} image{'s were' if len(images) > 1 else ' was'} {why} when it was made (first: "
        f"{images[0]!r:.200}): " + mends.get(why, again)
        for why, images in sorted(lacking(store).items())
    ]


def verify(cache: Path, dataset: str | None = None) -> Report:
    """Check every store of a cache, or of one data set of it.

    Raises:
        UserError: there is no store.
    """
    checked = len(stores_in(cache, dataset))
    if not checked:
        which = f" of data set {dataset!r}" if dataset else ""
        name = dataset or "NAME"
        raise UserError(
            f"{cache}: no store{which} there yet: run `pipeline ingest {name} --source SOURCE` first, or name another "
            "--cache"
        )
    inspection = Inspection(cache, dataset)
    faults = [fault for kind in STORES for fault in inspection.kind(kind)] + inspection.encoders()
    return Report(checked, faults + [Fault(line) for line in strays(cache)], leftovers(cache))
