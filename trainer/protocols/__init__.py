"""The protocols of the field, one file each."""

from stages import UserError, nearest
from trainer.protocols.base import Protocol, Score
from trainer.protocols.base_to_new import BaseToNew, halves
from trainer.protocols.few_shot import FewShot

_ALL: tuple[Protocol, ...] = (FewShot(), BaseToNew())
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in _ALL}

__all__ = ["PROTOCOLS", "Protocol", "Score", "halves", "protocol"]


def protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        UserError: unknown; lists the known ones.
    """
    if name not in PROTOCOLS:
        raise UserError(f"no protocol {name!r}; {nearest(name, list(PROTOCOLS))}", exit_code=2)
    return PROTOCOLS[name]
