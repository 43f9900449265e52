"""A frozen causal language model that reads embeddings: the one place of stage two that loads one.

What is notable: gradients run through the model and never into it, so its weights need no memory for them; the loss
over the vocabulary is computed some rows at a time, since the logits of a batch would be the largest tensor by far.
Generation is the library's own `generate` on input embeddings, with its cache of keys and values.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.command import progress
from stages.errors import UserError

HEAD_ROWS = 64
"""Rows whose logits are computed at once: 12 MB with a vocabulary of 49,000."""
SPREAD_ROWS = 4096
"""Tokens whose embeddings their spread is measured on."""
WORKING_SHARE = 1.2
"""Memory that a model takes beside its weights, as a factor of them."""
Precision = Literal["auto", "float32", "bfloat16"]
_OWN_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""What a config says where logits are more than a linear map of the last hidden state."""


@dataclass(frozen=True)
class LanguageModelName:
    """A language model that was found and not yet loaded; small enough to go to another process.

    Attributes:
        name: as the user wrote it.
        model: a folder or a hub id.
        fingerprint: what pins the weights.
        revision: the commit of a hub id.
        context: tokens that it takes; None where its config does not say.
        precision: of weights and activations; `auto`: bfloat16 on a GPU and on a CPU that multiplies it in hardware
            (AMX), float32 elsewhere.
    """

    name: str
    model: str
    fingerprint: str
    revision: str | None = None
    note: str = ""
    context: int | None = None
    precision: Precision = "auto"


@functools.cache
def find_language_model(name: str, *, precision: Precision = "auto") -> LanguageModelName:
    """The language model of this name as stage one finds it: an alias, a hub id, a folder or a GGUF file.

    Raises:
        UserError: it is not there.
    """
    from pipeline.prompts.llms import resolve_llm

    found = resolve_llm(name)
    return LanguageModelName(
        name=name, model=found.model, fingerprint=found.fingerprint, revision=found.revision, note=found.note,
        context=found.context, precision=precision,
    )  # fmt: skip


class LanguageModel:
    """A frozen model with its tokenizer.

    Args:
        found: what was loaded.
        model: of transformers, in evaluation mode, without gradients.
        tokenizer: its own.

    Attributes:
        width: entries of an input embedding.
        start: tokens that it expects before any text, such as a begin-of-text token.
        end: the token that ends a caption.
        spread: standard deviation of the entries of its input embeddings.
        pad: a token that fills what `generate` gives back behind an end; never read.
    """

    def __init__(self, found: LanguageModelName, model: Any, tokenizer: Any) -> None:
        self.found, self.model, self.tokenizer = found, model, tokenizer
        self.embedding: Any = model.get_input_embeddings()
        self.head: Any = model.get_output_embeddings()
        self.width = int(self.embedding.weight.shape[1])
        self.vocabulary = int(self.embedding.weight.shape[0])
        self.spread = float(self.embedding.weight.detach()[:SPREAD_ROWS].float().std())
        self.dtype: torch.dtype = self.embedding.weight.dtype
        self.device: torch.device = self.embedding.weight.device
        self.start: list[int] = list(tokenizer("").input_ids)
        newline = self.tokens("\n")
        ends = tokenizer.eos_token_id
        if ends in self.start:  # such as GPT-2's, which begins and ends
            self.start = [token for token in self.start if token != ends]
        if ends is None and not newline:
            raise UserError(f"{found.name}: neither an end-of-text token nor a line break in its vocabulary")
        self.end: int = newline[-1] if ends is None else int(ends)
        self.stops = sorted({self.end, *newline[-1:]})
        self.pad = self.end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        highest = max([*self.stops, self.pad, len(tokenizer) - 1])
        if highest >= self.vocabulary:
            raise UserError(
                f"{found.name}: its tokenizer knows token {highest} and its model {self.vocabulary} tokens: they are "
                "not of one model; get both again"
            )
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in _OWN_LOGITS)
        self.linear_head = plain and isinstance(self.head, nn.Linear) and hasattr(model, "model")

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without those that the tokenizer would put around it."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, up to the first end or line break, without control characters: no CSV holds NUL."""
        cut = next((i for i, token in enumerate(tokens) if token in self.stops), len(tokens))
        said: str = self.tokenizer.decode(list(tokens[:cut]), skip_special_tokens=True)
        line = said.strip().partition("\n")[0]
        return "".join(c for c in line if c == "\t" or unicodedata.category(c) != "Cc").strip()

    @torch.no_grad()
    def embed(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape entries"]:
        """Input embeddings of tokens, in the model's own precision."""
        found: Tensor = self.embedding(tokens.to(self.device))
        return found

    def losses(
        self,
        inputs: Float[Tensor, "B tokens entries"],
        mask: Bool[Tensor, "B tokens"],
        targets: Int[Tensor, "B tokens"],
    ) -> tuple[Float[Tensor, " wanted"], Int[Tensor, " wanted"]]:
        """Negative log-likelihood (nats) of every target, and the row of each; differentiable in the inputs.

        Args:
            inputs: embeddings, padded on either side.
            mask: True where there is one.
            targets: the token that shall follow each input; -1 where it does not matter.
        """
        wanted = targets >= 0
        common = {
            "inputs_embeds": inputs.to(self.dtype), "attention_mask": mask.long(), "use_cache": False,
            "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0),
        }  # fmt: skip
        if self.linear_head:
            hidden: Tensor = self.model.model(**common).last_hidden_state
            found: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
                hidden[wanted], targets[wanted], self.head.weight, self.head.bias
            )
        else:
            logits = self.model(**common).logits[wanted].float()
            found = nn.functional.cross_entropy(logits, targets[wanted], reduction="none")
        return found, wanted.nonzero()[:, 0]

    @torch.no_grad()
    def generate(
        self,
        inputs: Sequence[Float[Tensor, "tokens entries"]],
        *,
        most: int,
        beams: int = 1,
        batch: int = 64,
        what: str = "",
    ) -> list[list[int]]:
        """What the model says behind each prompt, greedily or by beam search; tokens up to an end, an end included.

        Args:
            inputs: embeddings of prompts, each of its own length.
            most: new tokens at most.
            batch: prompts at once; those of like length stand together.
            what: what the bar says.
        """
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        parts = [order[at : at + batch] for at in range(0, len(order), batch)]
        said: dict[int, list[int]] = {}
        for some in progress(parts, what=what or self.found.name, total=len(parts), unit="batch"):
            embeds, mask = pad_left([inputs[i] for i in some])
            found = self.model.generate(
                inputs_embeds=embeds.to(self.dtype), attention_mask=mask.long(), **self.options(most, beams)
            )
            said |= {i: found[row].tolist() for row, i in enumerate(some)}
        return [said[i] for i in range(len(inputs))]

    @torch.no_grad()
    def likelihoods(
        self, prompt: Float[Tensor, "tokens entries"], continuations: Sequence[Sequence[int]]
    ) -> Float[Tensor, " choices"]:
        """The mean log-likelihood of the tokens of each continuation; the prompt is read once for all of them."""
        longest = max(1, *map(len, continuations))
        ids = torch.zeros(len(continuations), longest, dtype=torch.long, device=self.device)
        there = torch.zeros_like(ids, dtype=torch.bool)
        for row, tokens in enumerate(continuations):
            ids[row, : len(tokens)], there[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long), True
        prompt = prompt.to(self.dtype)
        known: Any = None
        head = prompt[-1:]
        if len(prompt) > 1:
            read = self.model.model if self.linear_head else self.model
            known = read(inputs_embeds=prompt[None, :-1], use_cache=True).past_key_values
            if hasattr(known, "batch_repeat_interleave"):
                known.batch_repeat_interleave(len(ids))
            else:
                known, head = None, prompt
        inputs = torch.cat([head.expand(len(ids), *head.shape), self.embed(ids)], dim=1)
        mask = torch.cat([there.new_ones(len(ids), len(prompt)), there], dim=1).long()
        logits = self.model(inputs_embeds=inputs, attention_mask=mask, past_key_values=known).logits
        shares = logits[:, len(head) - 1 : -1].float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        means: Tensor = (shares * there).sum(1) / there.sum(1).clamp(min=1)
        return means

    def options(self, most: int, beams: int) -> dict[str, Any]:
        """What `generate` is told: one token at least, no sampling, whatever the model's own settings say."""
        return {
            "max_new_tokens": most, "min_new_tokens": 1, "num_beams": beams, "do_sample": False, "temperature": None,
            "top_p": None, "top_k": None, "pad_token_id": self.pad, "eos_token_id": self.stops, "use_cache": True,
            **({"length_penalty": 1.0, "early_stopping": False} if beams > 1 else {}),
        }  # fmt: skip

    def require_context(self, tokens: int, *, what: str) -> None:
        """Refuse what is longer than the model's context.

        Raises:
            UserError: it is; says by how much.
        """
        if self.found.context is not None and tokens > self.found.context:
            raise UserError(
                f"{what}: {tokens} tokens, and {self.found.name} takes {self.found.context}: shorten it, ask with "
                "fewer shots (--shots), or take a model with a longer context"
            )


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy of a frozen linear head over a large vocabulary, some rows at a time.

    The gradient of the hidden states is made in the same pass; the logits of a whole batch never exist.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        slopes = torch.empty_like(hidden) if hidden.requires_grad else None
        for at in range(0, len(hidden), HEAD_ROWS):
            rows = slice(at, at + HEAD_ROWS)
            here = targets[rows, None]
            logits = nn.functional.linear(hidden[rows], weight, bias).float()
            log_shares = logits.log_softmax(1)
            losses[rows] = -log_shares.gather(1, here)[:, 0]
            if slopes is not None:
                shares = log_shares.exp_()
                shares.scatter_add_(1, here, shares.new_full(here.shape, -1.0))
                slopes[rows] = shares.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        (slopes,) = ctx.saved_tensors
        return (outer[0][:, None] * slopes).to(slopes.dtype), None, None, None


def pad_left(
    parts: Sequence[Float[Tensor, "tokens entries"]],
) -> tuple[Float[Tensor, "B tokens entries"], Bool[Tensor, "B tokens"]]:
    """Embeddings of unequal length in one batch, zeros before the shorter ones; and where there is one."""
    longest = max(map(len, parts))
    embeds = parts[0].new_zeros(len(parts), longest, parts[0].shape[1])
    mask = torch.zeros(len(parts), longest, dtype=torch.bool, device=parts[0].device)
    for row, part in enumerate(parts):
        embeds[row, longest - len(part) :] = part
        mask[row, longest - len(part) :] = True
    return embeds, mask


@functools.lru_cache(maxsize=1)
def load_language_model(found: LanguageModelName, device: torch.device) -> LanguageModel:
    """Load a model that was found, once a process; weights from safetensors alone, no code from its folder.

    Raises:
        UserError: it does not fit into memory, is no causal language model, or cannot be read.
    """
    from pipeline.prompts.llms import require_weights
    from pipeline.torchvision_mend import mend_torchvision

    if found.revision is not None:
        require_weights(found.name, found.model, found.revision)
    mend_torchvision()
    with _quiet():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        dtype = _dtype(found.precision, device)
        origin = {"revision": found.revision, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(found.model, **origin)
            _require_memory(found, config, dtype, device)
            model = AutoModelForCausalLM.from_pretrained(
                found.model, config=config, dtype=dtype, use_safetensors=True, **_attention(device), **origin
            )
            tokenizer = AutoTokenizer.from_pretrained(found.model, **origin)
        except UserError:
            raise
        except Exception as error:  # transformers has many ways to say that a folder is not what it should be
            reason = next(iter(str(error).split("\n")), "") or type(error).__name__
            raise UserError(
                f"{found.name}: {found.model} cannot be loaded ({reason:.200}): get the model again"
            ) from error
        return LanguageModel(found, model.eval().requires_grad_(False).to(device), tokenizer)


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False))
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def _attention(device: torch.device) -> dict[str, str]:
    """On a CPU plain products: the gradient of torch's own attention in bfloat16 is ten times slower there."""
    return {"attn_implementation": "eager"} if device.type == "cpu" else {}


def _require_memory(found: LanguageModelName, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model that this machine cannot hold, counted by its config before a weight is read.

    Raises:
        UserError: says how much it takes and how much there is.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = {id(each): each.numel() * each.element_size() for each in skeleton.parameters()}
    needed = WORKING_SHARE * math.fsum(weights.values())
    free = free_memory(device)
    if needed > free:
        raise UserError(
            f"{found.name} takes about {needed / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')} and "
            f"{free / 1e9:.1f} GB are free on {device.type}: take a smaller model, or language.precision=bfloat16"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice of transformers; faults come as exceptions."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
