"""The undamaged project that trials take copies of, and what its commands say."""

import json
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from tests.campaign.commands import Done, tree_of, typed, without_pictures
from tests.conftest import COLOURS, picture

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
METHODS = ["aape", "aape-plus", "nearest-centroid", "zero-shot", "tip-adapter"]
STAGES = ("ingest", "import-prompts", "embed-text", "embed-images")
RESULT_COMMANDS = {
    "report": ["trainer", "report"],
    "compare": ["trainer", "compare", "results", "other"],
    "two methods": ["trainer", "compare", "results", "--methods", "aape,nearest-centroid", "--json"],
    "gap": ["trainer", "gap", "--features", "cache"],
    "export": ["trainer", "export", "--to", "exported", "--method", "nearest-centroid"],
    "predict": ["trainer", "predict", "picture.png", "--json"],
}
STORE_COMMANDS = {
    "run": ["trainer", "run", "--features", "cache", "--results", "new", "--no-report", "--json",
            "--methods", "nearest-centroid,cupl"],
    "verify": ["pipeline", "verify", "--json"],
    "sql": ["pipeline", "sql", "SELECT class_id, count(*) FROM images GROUP BY ALL ORDER BY ALL"],
    "search": ["pipeline", "search", "red", "--json"],
    "embed-text": ["pipeline", "embed-text"],
    "embed-images": ["pipeline", "embed-images"],
    "gap": ["trainer", "gap", "--features", "cache"],
}  # fmt: skip
RESUMED = ("run", "embed-text", "embed-images")
"""Commands that keep what they have done when they fail."""
CHANGING = ("report", "export", "run", "embed-text", "embed-images")
"""Commands that write; the others leave everything as it is."""


def of_method(name: str, method: str) -> list[str]:
    """`gap`, `export` or `predict` of the checkpoint of a method."""
    return [*RESULT_COMMANDS[name][:-1], method] if name == "export" else [*RESULT_COMMANDS[name], "--method", method]


def make_pictures(folder: Path, *, images: int) -> list[str]:
    """Folders of coloured noise, and one picture that no one has seen; the names of the classes."""
    for name, colour in COLOURS.items():
        (folder / "weaves" / name).mkdir(parents=True)
        for i in range(images):
            picture(colour, i).save(folder / "weaves" / name / f"{i:02d}.png")
    picture(COLOURS["red weave"], 99).save(folder / "picture.png")
    return list(COLOURS)


def make_clip(folder: Path) -> None:
    """A small open_clip model with random weights, as a folder that open_clip reads."""
    from pipeline.torchvision_mend import mend_torchvision

    mend_torchvision()
    import open_clip

    (folder / "clip").mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "clip" / "open_clip_model.safetensors")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))


def make(folder: Path) -> None:
    """Images, sentences, a small encoder, settings, stores, two results, and what undamaged commands say of them."""
    without_pictures()
    names = make_pictures(folder, images=8)
    make_clip(folder)
    sentences = {name: [f"a {name}, seen {k} times" for k in range(3)] for name in names}
    (folder / "sentences.json").write_text(json.dumps(sentences))
    settings = {
        "datasets": ["w"],
        "encoder": f"open_clip:local-dir:{folder / 'clip'}",
        "data": {"w": {"source": str(folder / "weaves"), "templates": ["a photo of a {}.", "a {}."]}},
        "prompts": {"llm": "people"},
        "imports": [{"dataset": "w", "name": "people", "file": str(folder / "sentences.json")}],
        "embed": {"workers": 0, "batch": 8, "part": 10, "views": 1},
        "evaluation": {
            "protocols": ["few-shot", "base-to-new"], "methods": METHODS, "shots": 2, "seeds": [1, 2],
        },
        "train": {"epochs": 3, "lr": 0.1, "aggregator_steps": 2},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    for stage in STAGES:
        _sound(typed(["pipeline", stage], folder))
    _sound(typed(["trainer", "run", "--jobs", "1"], folder))
    _sound(typed(["trainer", "run", "--jobs", "1", "--results", "other", "--seeds", "1,3"], folder))
    kept = [path.name for path in (folder / "results" / "runs" / "w" / "checkpoints").iterdir()]
    said = {}
    for words in [
        *RESULT_COMMANDS.values(), *STORE_COMMANDS.values(),
        *(of_method(name, method) for name in ("gap", "export", "predict") for method in kept),
    ]:  # fmt: skip
        done = _sound(typed(words, folder))
        said[" ".join(words)] = {"out": done.out, "tree": {str(path): mark for path, mark in tree_of(folder).items()}}
        for made in ("exported", "new"):
            shutil.rmtree(folder / made, ignore_errors=True)
    (folder / "reference.json").write_text(json.dumps(said))


def _sound(done: Done) -> Done:
    assert done.code == 0, f"{done.words}: exit {done.code}\n{done.out}\n{done.err}"
    return done
