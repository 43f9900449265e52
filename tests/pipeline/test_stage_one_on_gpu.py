"""Stage one on a GPU against the CPU: what no other machine can show. Skipped where there is none."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import EMBED, make_cache, tiny_clip

from pipeline.embed import embed_images
from pipeline.encoders import load_encoder
from pipeline.search.approximate import Approximate
from pipeline.search.exact import nearest_rows
from stages import ImageStore
from stages.stores.artifacts import embedding_matrix

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = "cuda"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_encoder_gives_the_embeddings_of_the_cpu(tmp_path: Path, precision: str) -> None:
    name = tiny_clip(tmp_path / "clip")
    here, there = load_encoder(name, device="cpu"), load_encoder(name, device=GPU, precision=precision)
    sentences = ["a red weave", "a photo of a dog", "nothing"]
    assert cosines(here.encode_text(sentences).cpu(), there.encode_text(sentences).cpu()) > 0.99


def cosines(a: torch.Tensor, b: torch.Tensor) -> float:
    """The least of the rows' cosines."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double()).min())


def test_images_are_embedded_on_the_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    cache, encoder = make_cache(tmp_path)
    here = ImageStore(cache, "weaves", encoder.name).read(["image_id", "view", "embedding"])
    other = load_encoder(encoder.name, device=GPU)
    other.name = "on-gpu"
    embed_images("weaves", other, embed=EMBED, cache=cache)
    there = ImageStore(cache, "weaves", "on-gpu").read(["image_id", "view", "embedding"])
    assert here["image_id"].to_pylist() == there["image_id"].to_pylist()
    assert (
        cosines(*(torch.from_numpy(embedding_matrix(t["embedding"]).astype(np.float32)) for t in (here, there))) > 0.99
    )


def test_faiss_on_the_gpu_finds_what_exact_search_finds(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("FAISS without a GPU")
    cache, encoder = make_cache(tmp_path)
    store = ImageStore(cache, "weaves", encoder.name)
    query = embedding_matrix(store.read(["embedding"])["embedding"])[0].astype(np.float32)
    near = Approximate(store).nearest_rows(query, top=5)
    exact = nearest_rows(store, query, top=5)
    assert len(set(near["image_id"].to_pylist()) & set(exact["image_id"].to_pylist())) >= 4
