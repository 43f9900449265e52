"""Controls of L_distill: the prompts of another class, or prompts that say nothing of their class, in place of its own.

The class weights w_c keep what names them: only what h is drawn to is another. If a method owes something to what the
sentences say, it loses it here; what it owes to their number, their spread and the common direction of all text stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.nn.functional import normalize

from trainer.data import ClassText

Source = Literal["own", "another", "random"]
MIXED = 8
"""Prompts of any class in a prompt that says nothing: their mean lies where text lies. (Sentences of random words would
do the same, and need the encoder; `pipeline import-prompts` takes them too.)
"""


def prompts_of(text: ClassText, source: Source, *, seed: int) -> ClassText:
    """The classes with these prompts, as many as each had: its own, those of another class, or random mixtures.

    Raises:
        UserError: there is no prompt source, or a class has no prompt.
    """
    prompts, mask = text.require_prompts()
    if source == "own":
        return text
    rng, device = torch.Generator().manual_seed(seed), prompts.device
    if source == "another":
        order = torch.randperm(len(text), generator=rng).to(device)
        whose = torch.empty_like(order)
        whose[order] = order.roll(1)  # one cycle through all classes: none keeps its own
        return replace(text, prompts=prompts[whose], mask=mask[whose])
    every = prompts[mask]
    drawn = torch.randint(len(every), (len(text), prompts.shape[1], MIXED), generator=rng).to(device)
    mixed = normalize(every[drawn].mean(2), dim=-1)
    return replace(text, prompts=mixed * mask[..., None])
