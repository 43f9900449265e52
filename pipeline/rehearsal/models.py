"""Stand-ins of the hub's models, random and small, laid out as the hub's cache lays out what it fetched.

The encoder is CLIP's ViT with patches of 16 pixels, of two thin layers; it fills the cached repository of the real
weights. The language model is a Llama of two thin layers with Llama 3's chat template and special tokens; its output
rows let it say nothing but the words it is given, in random order, and end after some twenty of them, so that some of
its answers name the class that they are asked about.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMIT = "0" * 40
EMBED_WIDTH = 512
"""As of ViT-B/16."""
CLIP = {
    "embed_dim": EMBED_WIDTH,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images."""

WIDTH, HEADS, KV_HEADS, LAYERS = 256, 4, 2, 2
FREEDOM, ENDING = 0.2, 0.13
"""Lengths of output rows: how far words differ in how likely they are, and how likely an answer is to end."""
BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
HEADER = ("<|start_header_id|>", "<|end_header_id|>")
TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Llama 3's."""


def snapshot(hub: Path, repo: str) -> Path:
    """The folder of a repository's files in the hub's cache, made as if `main` had been fetched."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    files = folder / "snapshots" / COMMIT
    files.mkdir(parents=True)
    return files


def write_clip(files: Path) -> None:
    """A random CLIP as open_clip's repositories on the hub have it."""
    from pipeline.torchvision_mend import mend_torchvision

    mend_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = open_clip.CLIP(**CLIP).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, files / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (files / "open_clip_config.json").write_text(json.dumps(config, indent=1))


def write_llama(files: Path, words: Sequence[str]) -> None:
    """A random Llama with its tokenizer, as Llama 3's repository on the hub has it.

    Args:
        words: what it says; anything else that it reads is spelled out in bytes.
    """
    tokenizer = _tokenizer(words)
    size = len(tokenizer)
    tokenizer.save_pretrained(files)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (BEGIN, END, TURN)}
    spoken = [tokenizer.convert_tokens_to_ids(f"\u0120{word}") for word in words]
    _save_weights(files, size, spoken, ids[TURN])
    (files / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": size, "max_position_embeddings": 8192,
        "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[TURN],
    }, indent=1))  # fmt: skip
    answer = {"bos_token_id": ids[BEGIN], "eos_token_id": [ids[END], ids[TURN]], "do_sample": True}
    (files / "generation_config.json").write_text(json.dumps(answer))


def _tokenizer(words: Sequence[str]) -> Any:
    """A byte-level BPE, as Llama 3's, in which each of the words is one token."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=50_000, initial_alphabet=alphabet, special_tokens=[BEGIN, END, *HEADER, TURN], show_progress=False
    )
    plain.train_from_iterator([f" {word}" for word in words], trainer)
    begin = plain.token_to_id(BEGIN)
    plain.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token=BEGIN, eos_token=TURN, chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _save_weights(files: Path, size: int, spoken: Sequence[int], turn: int) -> None:
    """Random weights; a direction that all embeddings share keeps all but `spoken` and `turn` from being said.

    Args:
        size: tokens of the vocabulary.
        spoken: those that answers are made of.
        turn: the one that ends an answer.
    """
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)

    def rows(n: int, width: int, length: float) -> torch.Tensor:
        drawn = torch.randn(n, width, generator=random)
        return length * torch.nn.functional.normalize(drawn, dim=1)

    shared, own = rows(1, WIDTH, 1.0), rows(size, WIDTH, 1.0)
    own -= own @ shared.T * shared
    says = -shared.repeat(size, 1)
    says[list(spoken)] = rows(len(spoken), WIDTH, FREEDOM)
    says[turn] = ENDING * shared[0]
    kv = KV_HEADS * (WIDTH // HEADS)
    weights = {
        "model.embed_tokens.weight": (shared + own) / 2**0.5, "lm_head.weight": says,
        "model.norm.weight": torch.ones(WIDTH),
    }  # fmt: skip
    for layer in range(LAYERS):
        made = {
            "self_attn.q_proj": rows(WIDTH, WIDTH, 0.1), "self_attn.k_proj": rows(kv, WIDTH, 0.1),
            "self_attn.v_proj": rows(kv, WIDTH, 0.1), "self_attn.o_proj": rows(WIDTH, WIDTH, 0.1),
            "mlp.gate_proj": rows(2 * WIDTH, WIDTH, 0.1), "mlp.up_proj": rows(2 * WIDTH, WIDTH, 0.1),
            "mlp.down_proj": rows(WIDTH, 2 * WIDTH, 0.1),
            "input_layernorm": torch.ones(WIDTH), "post_attention_layernorm": torch.ones(WIDTH),
        }  # fmt: skip
        weights |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in made.items()}
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        files / "model.safetensors",
        metadata={"format": "pt"},
    )
