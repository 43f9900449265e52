"""The `train:` section: every choice of the method that the paper leaves to its reader, with the default.

Declared here and not in `trainer/` because params.yaml belongs to the contract. The variants that tables show beside
`aape` (`aape-literal`, ...) are these settings with one field changed: see `trainer/methods/aape.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.language import LanguageParams
from stages.numbers import Count, Number, Positive, Size


class CaptionParams(BaseModel):
    """Settings of AAPE learnt from captions, where they are not those for classes; the paper gives none of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    hidden: Size = Field(128, description="entries of h's bottleneck")
    batch: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        256, description="images a step, all with their captions; the others of a batch are the negatives"
    )
    epochs: Count = Field(20, description="passes over the images")
    max_steps: Count = Field(5000, description="most batches of a run; it has fewer epochs where those would take more")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="sgd as CoOp, or adamw")
    lr_grid: list[Positive] = Field(
        [1e-3],
        min_length=1,
        description="peak rates tried when lr is auto; without held-out images the first that does not diverge",
    )
    weight_decay: Number = Field(0.01, ge=0, description="weight decay of either optimizer")


class TrainParams(BaseModel):
    """Settings of AAPE. Lengths count vector entries; rates, weights and temperatures have no unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)

    lambda_: Number = Field(
        5.0, alias="lambda", ge=0, description="weight of L_distill beside the task loss (paper: 5, robust in 3..9)"
    )
    tau: Literal["auto", "learnt"] | Positive = Field(
        "auto",
        description="softmax temperature of the cosines; auto: calibrated on zero-shot training images, in 0.01..0.1; "
        "learnt: starts there and is learned as log(1/tau), like CLIP's own",
    )
    class_text: Literal["auto", "template", "ensemble", "prompts"] = Field(
        "auto",
        description="w_i: the first template (paper), the mean of the templates or of the prompts; auto: first "
        "template or mean of the prompts, whichever fits the training images better",
    )

    lr: Literal["auto"] | Positive = Field(
        "auto", description="peak learning rate; auto: chosen from lr_grid by validation, as the temperature needs it"
    )
    lr_grid: list[Positive] = Field(
        [0.05, 0.2],
        min_length=1,
        description="peak rates tried when lr is auto, at tau = 0.05; at another tau times (tau / 0.05)^2, of adamw "
        "tau / 0.05, so that logits move alike; without held-out images the first that does not diverge",
    )
    generator_lr: Positive = Field(
        0.1,
        description="learning rate of h, as a share of g's, where lr is auto of lr_grid's own (L_distill knows no "
        "tau); with 1 the large weight of L_distill drives most units of h to zero for all images",
    )
    epochs: Literal["auto"] | Count = Field(
        "auto", description="passes over the shots; auto: CoOp's 50 / 100 / 200 for 1 / 2-4 / 8+ shots"
    )
    max_steps: Count = Field(
        500,
        description="most batches of a run; it has fewer epochs where those would take more",
    )
    batch: int = Field(32, ge=0, le=10_000_000, description="images a step; 0: the whole set")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd as CoOp, or adamw")
    momentum: Number = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: Number = Field(5e-4, ge=0, description="weight decay of either optimizer")
    warmup_epochs: int = Field(1, ge=0, le=10_000_000, description="epochs at warmup_lr before the cosine")
    warmup_lr: Positive = Field(1e-5, description="learning rate of the warm-up")

    head: Literal["residual", "literal", "full", "none"] = Field(
        "residual",
        description="g: w + V relu(A w + B h) with V = 0 at first; literal: without w, the paper's parameter count; "
        "full: relu(A w + B h) in full width, the paper's one layer; none: h(x) is the query",
    )
    classwise: bool = Field(
        False,
        description="whether each fitted class has a residual of its own beside g's, in closed form and as large as "
        "validation images bear (head residual alone; not in the paper)",
    )
    chain: int = Field(
        1,
        ge=1,
        le=16,
        description="generators that make h(x) step by step, each from the image and what the one before it made; 1: "
        "h alone (chain of thought prompt tuning; not in the paper)",
    )
    align: Number = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the part of a step against zero-shot's direction that is dropped (ProGrad; classes "
        "alone; not in the paper)",
    )
    image: bool = Field(True, description="false: h(x) = 0, the control without image conditioning")
    hidden: Size = Field(32, description="entries of both bottlenecks (33k parameters of h at width 512)")
    distill: Literal["squared", "cosine"] = Field(
        "squared", description="L_distill: squared distance (paper) or 1 - cosine"
    )
    distill_by: Literal["image", "class"] = Field(
        "image",
        description="what is drawn to p^a: every h(x) (paper), or the mean of h(x) over a class's images in a batch",
    )
    distill_prompts: Literal["own", "another", "random"] = Field(
        "own",
        description="whose prompts p^a is made of: the class's own, or as controls those of another class, or mixtures "
        "of prompts that say nothing of it; w_c stays as it is",
    )

    aggregator: Literal["attention", "mlp", "mean", "random"] = Field(
        "attention", description="what makes p^a of the prompts (table 4)"
    )
    query: Literal["mean", "image", "mean+image"] = Field(
        "mean", description="the attention's query; the paper does not say whether it sees the image"
    )
    heads: Size = Field(4, description="attention heads")
    head_width: Size = Field(64, description="entries of one head")
    feed_forward: Size = Field(
        128, description="hidden entries of the aggregator's feed-forward part and of the mlp kind"
    )
    dropout: Number = Field(
        0.0, ge=0, lt=1, description="share of the attention's weights that are left out in each step of its training"
    )
    reward_weight: Number = Field(
        1.0, ge=0, description="weight of the CLIP reward; 0 leaves the aggregator as it starts"
    )
    reward_scale: Positive = Field(2.5, description="s of CLIP-S(x, p^a) = s max(cos(x, p^a), 0)")
    aggregator_lr: Positive = Field(1e-3, description="learning rate of the aggregator (AdamW)")
    aggregator_steps: int = Field(
        30, ge=0, le=10_000_000, description="steps of the aggregator over all shots before h is learned (detach: true)"
    )
    detach: bool = Field(
        True, description="true: L_distill does not reach the aggregator, so p^a is one constant vector a class"
    )
    language: LanguageParams = Field(
        LanguageParams(), description="the frozen language model of captioning and vqa, and the map to it"
    )
    captions: CaptionParams = Field(
        CaptionParams(), description="AAPE learnt from captions (retrieval, captioning, vqa); all other settings hold"
    )
