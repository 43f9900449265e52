"""Language models of a few thousand weights in folders as the hub has them: for tests that need a real one, fast."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.torchvision_mend import mend_torchvision

mend_torchvision()

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402


def byte_tokenizer(**special: str) -> Any:
    """A tokenizer that takes any text, byte by byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: i for i, letter in enumerate([*special.values(), *letters])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def small_language_model(
    folder: Path, *, tied: bool = True, context: int = 256, pad: bool = True, seed: int = 1, lacking: int = 0
) -> Path:
    """A Llama of two layers that knows bytes, saved as a folder.

    Args:
        lacking: tokens that its tokenizer knows and the model does not.
    """
    tokenizer = byte_tokenizer(eos_token="<end>", **({"pad_token": "<pad>"} if pad else {}))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - lacking, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=tied, initializer_range=0.2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def huge_language_model(folder: Path, small: Path) -> Path:
    """A folder whose config speaks of a thousand billion weights, which are not there."""
    folder.mkdir()
    config = json.loads((small / "config.json").read_text())
    config |= {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 100}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
