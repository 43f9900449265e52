"""The systems that stand around AAPE, as far as cached embeddings can hold their idea: one file a system.

What each keeps of its publication, and what it cannot keep, stands in its docstring and in `docs/family.md`.
"""

from __future__ import annotations

from collections.abc import Callable

from stages.training import TrainParams
from trainer.methods.base import Method
from trainer.methods.family.chain import aape_chain
from trainer.methods.family.cones import ConES
from trainer.methods.family.dapt import DAPT
from trainer.methods.family.dynaprompt import DynaPrompt
from trainer.methods.family.lmpt import LMPTSingle
from trainer.methods.family.prograd import ProGrad, aape_prograd
from trainer.methods.family.pseudo_labels import FPL, GRIP, IFPL
from trainer.methods.family.shared import SharedShift
from trainer.methods.family.test_time import CONFIDENT_VIEWS, DIFF_TPT, TPT
from trainer.methods.family.two_encoders import NOLA, NOLA_STUDENT
from trainer.methods.family.unlabelled import AAPEPlusUnlabelled
from trainer.methods.family.unsupervised_cache import TFUP, TFUP_T
from trainer.methods.family.viewed import AAPEPlusViews

__all__ = ["FAMILY", "WITH_MORE"]

WITH_MORE: dict[str, Callable[[TrainParams], Method]] = {
    "fpl": lambda _: FPL,
    "ifpl": lambda _: IFPL,
    "grip": lambda _: GRIP,
    "tfup": lambda _: TFUP,
    "tfup-t": lambda _: TFUP_T,
    "nola": lambda _: NOLA,
    "nola-student": lambda _: NOLA_STUDENT,
    "tpt": lambda _: TPT,
    "difftpt": lambda _: DIFF_TPT,
    "confident-views": lambda _: CONFIDENT_VIEWS,
    "dynaprompt": lambda _: DynaPrompt(),
    "aape-plus-unlabelled": lambda _: AAPEPlusUnlabelled(),
    "aape-plus-views": lambda _: AAPEPlusViews(),
}
"""Those of FAMILY that live on more than a few labelled images: images without labels, views, a second encoder."""

FAMILY: dict[str, Callable[[TrainParams], Method]] = {
    "shared-shift": lambda _: SharedShift(),
    "cones": lambda _: ConES(),
    "prograd": lambda _: ProGrad(),
    "aape-prograd": aape_prograd,
    "dapt": lambda _: DAPT(),
    "lmpt": lambda _: LMPTSingle(),
    "aape-chain": aape_chain,
    **WITH_MORE,
}
"""A method by name, made from the `train:` settings; `trainer.methods.METHODS` holds them too."""
