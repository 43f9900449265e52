"""Images and questions a second with workers of a Ray cluster on this machine, against this process without one.

The start of the cluster and of its workers is measured apart: a small set pays it whole, a large one hardly.
"""

import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import pyarrow.compute as pc
import torch

from pipeline.bench import Measured
from pipeline.bench.prompts import asked
from pipeline.cluster.asking import ClusterEngine
from pipeline.cluster.encoding import ClusterEncoder
from pipeline.embed.images import vectors
from pipeline.encoders import load_encoder
from pipeline.ingest import ingest
from pipeline.prompts.engines import Answer, EngineOptions, Sampling, answered
from pipeline.prompts.engines.vllm import VLLMEngine
from pipeline.prompts.llms import resolve_llm
from stages import ManifestStore
from stages.params import ClusterParams, DataParams, EmbedParams


def bench_cluster_images(
    encoder_name: str, source: str, *, images: int, embed: EmbedParams, cluster: ClusterParams
) -> Measured:
    """Embeddings of `images` pictures of a source, from files, by the workers and by this process.

    Raises:
        UserError: no image in the source, no such encoder, or a cluster that cannot be used.
    """
    encoder = load_encoder(encoder_name, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        ingest("bench", source, data=DataParams(), cache=Path(folder))
        store = ManifestStore(Path(folder), "bench")
        rows = store.read(["path", "image_id", "error"])
        rows = rows.filter(pc.is_null(rows["error"])).slice(0, images).combine_chunks()
        root = Path(store.provenance().root or "")
        mapper = ClusterEncoder(encoder, cluster, device="auto", precision="auto")
        try:
            start = _timed(mapper.workers.start)[0]
            # The first pictures of a worker load the rest of its model: two batches for each.
            few = rows.slice(0, 2 * mapper.workers.count * cluster.batch)
            list(mapper.images(root, few, embed))
            found: list[np.ndarray | str] = []
            ours = _timed(lambda: found.extend(mapper.images(root, rows, embed)))
        finally:
            mapper.close()
    list(vectors(encoder, root, rows.slice(0, embed.batch), embed))
    alone: list[np.ndarray | str] = []
    local = _timed(lambda: alone.extend(vectors(encoder, root, rows, embed)))
    same = all(np.array_equal(one, other) for one, other in zip(found, alone, strict=True))
    return _measured(f"ray images {encoder_name}", len(rows), ours, local, "images/s", start, same, cluster)


def bench_cluster_prompts(llm: str, *, batch: int, batches: int, cluster: ClusterParams) -> Measured:
    """Answers to `batches` batches of questions, by the workers and by vLLM in this process.

    Raises:
        UserError: an unknown LLM, one that cannot be loaded here, or a cluster that cannot be used.
    """
    model, sampling = resolve_llm(llm), Sampling()
    every = asked(batch * batches)
    cut = [every[top : top + batch] for top in range(0, len(every), batch)]
    many = ClusterEngine(model, EngineOptions(), {}, cluster)
    try:
        start = _timed(many.workers.start)[0]
        list(many.generate_each(repeat(cut[0][:1], 2 * many.workers.count), sampling))
        found: list[list[list[Answer]]] = []
        ours = _timed(lambda: found.extend(many.generate_each(cut, sampling)))
    finally:
        many.close()
    engine = VLLMEngine(model, EngineOptions())
    try:
        engine.generate(cut[0][:1], sampling)
        alone: list[list[list[Answer]]] = []
        local = _timed(lambda: alone.extend(answered(engine, cut, sampling)))
    finally:
        engine.close()
    return _measured(f"ray prompts {llm}", len(every), ours, local, "prompts/s", start, found == alone, cluster)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes, and the processor's seconds of this process and all that it started."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before, start = _processor(family), perf_counter()
    work()
    return perf_counter() - start, _processor(family) - before


def _processor(family: list[psutil.Process]) -> float:
    return float(sum(sum(each.cpu_times()[:2]) for each in family))


def _measured(
    name: str, count: int, ours: tuple[float, float], local: tuple[float, float], unit: str, start: float, same: bool,
    cluster: ClusterParams,
) -> Measured:  # fmt: skip
    """The two rates, and the processor's time of an item, which a busy machine changes least.

    Args:
        ours: seconds and processor's seconds; a cluster elsewhere has more of these than are seen here.
        start: seconds until the cluster and all its workers were there.
        same: whether both gave the same, bit by bit.
    """
    return Measured(
        name, ours=count / ours[0], reference=count / local[0], ratio=local[0] / ours[0], unit=unit,
        detail={
            "count": count, "workers": cluster.workers, "threads_a_worker": cluster.cpus,
            "threads_local": torch.get_num_threads(), "start_seconds": round(start, 1),
            "cpu_ms": round(1000 * ours[1] / count, 1), "cpu_ms_local": round(1000 * local[1] / count, 1),
            "the_same": same,
        },
    )  # fmt: skip
