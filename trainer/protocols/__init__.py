"""The protocols of the field, one file and one line of PROTOCOLS each."""

from collections.abc import Mapping, Sequence

from stages import UserError, nearest
from stages.params import EvaluationParams
from trainer.features import Features
from trainer.protocols.base import Protocol, Score, TestSplits, scores
from trainer.protocols.base_to_new import BaseToNew, halves
from trainer.protocols.cross_dataset import CrossDataset
from trainer.protocols.domain_generalization import DomainGeneralization
from trainer.protocols.few_shot import FewShot
from trainer.protocols.label_noise import LabelNoise

__all__ = ["PROTOCOLS", "Protocol", "Score", "TestSplits", "halves", "protocol_classes", "scores", "settled"]

PROTOCOLS: dict[str, type[Protocol]] = {
    each.name: each for each in (FewShot, BaseToNew, CrossDataset, DomainGeneralization, LabelNoise)
}
"""Every protocol by its name."""


def protocol_classes(names: Sequence[str]) -> list[type[Protocol]]:
    """The protocols of these names, each once, in this order.

    Raises:
        UserError: an unknown name; lists the known ones.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"no protocol {name!r}; {nearest(name, list(PROTOCOLS))}", exit_code=2)
    return [PROTOCOLS[name] for name in dict.fromkeys(names)]


def settled(asked: EvaluationParams, others: Mapping[str, Sequence[Features]]) -> list[Protocol]:
    """Every protocol that is asked for with every number of shots; with several numbers the key tells which.

    Args:
        others: protocol name -> further data sets that it tests on (`Protocol.tests_on`).

    Raises:
        UserError: an unknown name.
    """
    numbers = list(dict.fromkeys(asked.shot_numbers))
    return [
        each.settle(shots, each.name if len(numbers) == 1 else f"{each.name}-{shots}", asked, others.get(each.name, ()))
        for each in protocol_classes(asked.protocols)
        for shots in numbers
    ]
