"""Images a second from files to a finished store, against the bare encoder on pixels that lie in memory."""

import tempfile
from pathlib import Path
from time import perf_counter, process_time

import pyarrow.compute as pc
import torch

from pipeline.bench import Measured, compare
from pipeline.embed import embed_images
from pipeline.embed.pictures import Pictures
from pipeline.encoders import load_encoder
from pipeline.ingest import ingest
from stages import ManifestStore
from stages.params import DataParams, EmbedParams


def bench_images(
    encoder_name: str, source: str, *, images: int = 1000, repeats: int = 3, device: str = "auto",
    precision: str = "auto", embed: EmbedParams | None = None,
) -> Measured:  # fmt: skip
    """`embed_images`, worker start-up, decoding and writing included, against `encode_images` alone.

    `decode_cpu_ms` and `encode_cpu_ms` are the processor time of an image: where the encoder fills all cores of a CPU,
    the ratio cannot be above encode / (encode + decode).

    Args:
        source: what `pipeline ingest` reads; its images are taken in turn until `images` are reached.
        images: how many the bare encoder gets a repeat; ours embeds the whole source.
        embed: batch, workers and the like; both sides use the same batch.

    Raises:
        UserError: no image in the source, or no such encoder.
    """
    embed = embed or EmbedParams()
    encoder = load_encoder(encoder_name, device=device, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        ingest("bench", source, data=DataParams(), cache=cache)
        store = ManifestStore(cache, "bench")
        rows = store.read(["path", "image_id", "error"])
        rows = rows.filter(pc.is_null(rows["error"])).combine_chunks()
        paths, ids = (rows[name].combine_chunks().slice(0, images) for name in ("path", "image_id"))
        pictures = Pictures(
            Path(store.provenance().root or ""), paths, ids, preprocess=encoder.preprocess,
            augment=encoder.augment,
        )  # fmt: skip
        decoding = process_time()
        found = [pixels for pixels in (pictures[i] for i in range(len(paths))) if isinstance(pixels, torch.Tensor)]
        decode_ms = 1000 * (process_time() - decoding) / len(found)
        batches = torch.split(torch.cat(found), embed.batch)
        count = sum(map(len, batches))
        encoder.encode_images(batches[0])
        encoding = process_time()
        encoder.encode_images(batches[0])
        encode_ms = 1000 * (process_time() - encoding) / len(batches[0])
        again = 0

        def bare() -> float:
            start = perf_counter()
            for batch in batches:
                encoder.encode_images(batch)
            return count / (perf_counter() - start)

        def ours() -> float:
            nonlocal again
            again += 1
            start = perf_counter()
            summary = embed_images("bench", encoder, embed=embed, cache=_fresh(cache, again))
            return summary.rows / (perf_counter() - start)

        return compare(
            f"embed-images {encoder_name}", ours=ours, reference=bare, repeats=repeats, unit="images/s",
            images=len(rows), batch=embed.batch, workers=embed.workers, device=str(encoder.device),
            decode_cpu_ms=round(decode_ms, 2), encode_cpu_ms=round(encode_ms, 2),
        )  # fmt: skip


def _fresh(cache: Path, number: int) -> Path:
    """A cache with the same manifest and no embeddings."""
    there = ManifestStore(cache, "bench")
    store = ManifestStore(cache / str(number), "bench")
    store.write(there.read(), there.provenance())
    return store.cache
