"""Chain of thought prompt tuning: h(x) is made step by step (Ge et al., "Chain of Thought Prompt Tuning for
Vision-Language Models", arXiv 2304.07919).

Kept: each step goes on from what the one before made and from the image, and a controller that sees the image weighs
the steps; three of them. Deviations: the paper's steps are biases of context tokens before a text encoder, each with
its own prompt; here they are prompt embeddings, and the formula is `trainer.aape.generator.Chain`, in h's place in
AAPE. L_distill draws the last step to p^a. In retrieval the chain is the query, as h is (`trainer/retrieval`).
"""

from __future__ import annotations

from stages.training import TrainParams
from trainer.methods.aape import AAPE

STEPS = 3


def aape_chain(settings: TrainParams) -> AAPE:
    """AAPE with a chain of three generators in the place of h (`train.chain` 3)."""
    return AAPE.variant("aape-chain", settings, chain=STEPS)
