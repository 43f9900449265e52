"""How many tokens a language model takes, question and answer together, told before it is loaded."""

from collections.abc import Iterator, Mapping
from typing import Any

# As vLLM reads a config.json; the smallest counts.
LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
# Their length in config.json is the stretched one already.
STRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope")


def context_of(config: Mapping[str, Any]) -> int | None:
    """The context of a model by its config.json, tokens; None where it does not say.

    Never smaller than what vLLM would take, so that nothing is refused that it could do.
    """
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)), config)
    found = [text[key] for key in LENGTHS if isinstance(text.get(key), int) and text[key] > 0]
    if not found:
        return None
    own = text.get("model_max_length")
    length = own if isinstance(own, int) and own > 0 else min(found)
    factors = [
        rope.get("factor")
        for rope in _ropes(text)
        if (rope.get("rope_type") or rope.get("type") or "default") not in STRETCHED
    ]
    return int(length * max([1.0, *(float(f) for f in factors if isinstance(f, int | float))]))


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a config says of its rotary embedding: one mapping, or one a kind of layer."""
    for key in ("rope_scaling", "rope_parameters"):
        found = config.get(key)
        if isinstance(found, Mapping):
            yield found
            yield from (each for each in found.values() if isinstance(each, Mapping))
