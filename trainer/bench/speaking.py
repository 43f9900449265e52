"""Captions a second against the language model's own `generate` on the same prompts, with the same options."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

from stages.language import LanguageParams
from trainer.bench.rows import Ratio, Sizes, in_turn, wait
from trainer.language.model import find_language_model, load_language_model, pad_left
from trainer.language.places import caption
from trainer.language.prefix import Prefix, PrefixMap


def speaking_rows(sizes: Sizes, device: torch.device) -> Iterator[Ratio]:
    """Ours: from image vectors to text, batched. The reference: `generate` alone, the prompts made before the clock.

    Raises:
        UserError: the language model is not there.
    """
    settings = LanguageParams(llm=sizes.llm, caption_tokens=20, decode_batch=32)
    found = find_language_model(settings.llm, precision=settings.precision)
    language = load_language_model(found, device)
    rng = torch.Generator().manual_seed(0)
    width = sizes.widths[0]
    map_ = PrefixMap(
        width=width,
        entries=language.width,
        tokens=settings.prefix_tokens,
        second=False,
        spread=language.spread,
        rng=rng,
    ).to(device)
    predictor = Prefix(
        map_.requires_grad_(False).eval(), "none", None, width, settings.prefix_tokens, found.name, found.fingerprint,
        settings, 0,
    )  # fmt: skip
    images = normalize(torch.randn(sizes.written, width, generator=rng), dim=-1).to(device)
    start = language.embed(torch.tensor(language.start, dtype=torch.long))
    prompts = [torch.cat([start, each.to(start.dtype)]) for each in predictor.prefix(images)]
    parts = [pad_left(prompts[at : at + settings.decode_batch]) for at in range(0, len(prompts), settings.decode_batch)]

    def ours() -> None:
        caption(predictor, images)
        wait(device)

    @torch.no_grad()
    def reference() -> None:
        for embeds, mask in parts:
            language.model.generate(
                inputs_embeds=embeds.to(language.dtype), attention_mask=mask.long(),
                **language.options(settings.caption_tokens, settings.beams),
            )  # fmt: skip
        wait(device)

    mine, theirs = in_turn(ours, reference, runs=sizes.runs)
    name = f"captions, {found.name}, {sizes.written} images"
    yield Ratio.of(name, sizes.written / mine, sizes.written / theirs, "captions/s")
