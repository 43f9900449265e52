"""The protocols of the field, one file and one line of PROTOCOLS each."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages import UserError, nearest
from stages.numbers import Shots
from stages.params import EvaluationParams
from trainer.protocols.base import Protocol, Reads, Score, Sheet, TestSplits, scores
from trainer.protocols.base_to_new import BaseToNew, halves
from trainer.protocols.captioning import Captioning
from trainer.protocols.cross_dataset import CrossDataset
from trainer.protocols.domain_generalization import DomainGeneralization
from trainer.protocols.few_shot import FewShot
from trainer.protocols.label_noise import LabelNoise
from trainer.protocols.long_tailed import LongTailed
from trainer.protocols.multi_label import LongTailedLabels, MultiLabel
from trainer.protocols.multitask import Meta, Multitask
from trainer.protocols.retrieval import Retrieval
from trainer.protocols.unlabelled import SemiSupervised, Transductive, Unsupervised
from trainer.protocols.vqa import VQA

__all__ = [
    "PROTOCOLS", "Protocol", "Reads", "Score", "Sheet", "TestSplits", "halves", "protocol_classes", "scores", "settled",
]  # fmt: skip

PROTOCOLS: dict[str, type[Protocol]] = {
    each.name: each
    for each in (
        FewShot, BaseToNew, CrossDataset, DomainGeneralization, LabelNoise, SemiSupervised, Unsupervised, Transductive,
        LongTailed, Multitask, Meta, MultiLabel, LongTailedLabels, Retrieval, Captioning, VQA,
    )
}  # fmt: skip
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


def settled(asked: EvaluationParams, others: Mapping[str, Sequence[Any]]) -> list[Protocol]:
    """Every protocol that is asked for with every number of shots; with several numbers the key tells which.

    Args:
        others: protocol name -> further data sets that it tests on (`Protocol.tests_on`).

    Raises:
        UserError: an unknown name, or no shots where there have to be some.
    """
    found = []
    for each in protocol_classes(asked.protocols):
        numbers: list[Shots] = list(dict.fromkeys(asked.shot_numbers)) if each.by_shots else ["all"]
        for shots in numbers:
            if shots == 0 and not each.without_shots:
                raise UserError(f"--shots 0: {each.name} learns from at least 1 image a class", exit_code=2)
            key = each.name if len(numbers) == 1 else f"{each.name}-{shots}"
            found += [
                each.settle(shots, key + end, own, others.get(each.name, ()))
                for end, own in each.several(asked).items()
            ]
    return found
