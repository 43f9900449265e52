"""`trainer export`: the program answers as the predictor does, alone, for any number of images."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_stores import fast, make_stores
from small_tasks import WIDTH, small_images, small_task, unit
from torch import Tensor
from torch.nn.functional import normalize

from stages import UserError
from stages.params import TrainParams
from trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.checkpoints import record_of
from trainer.confidence import Calibration
from trainer.data.features import load_features
from trainer.export import Format, export_head, head_of, labels_of, program_of
from trainer.export.card import model_card
from trainer.export.heads import Probabilities
from trainer.methods import FITS_ALONE, METHODS
from trainer.methods.aape import AAPE
from trainer.methods.aape_plus import AAPEPlusPredictor, ShotsPredictor, TextHead
from trainer.methods.base import Method
from trainer.runs.inputs import Inputs
from trainer.runs.record import summarize
from trainer.runs.run import run

QUICK = {"epochs": 6, "aggregator_steps": 5, "lr_grid": [0.1]}
PROVENANCE = {"encoder": "lite", "encoder_fingerprint": "f" * 64, "width": WIDTH, "dataset": "w"}
HEADS: list[dict[str, Any]] = [{"head": h, "image": i} for h in ("residual", "literal", "full") for i in (True, False)]


def saved(folder: Path, method: Method) -> Path:
    task = small_task()
    save_checkpoint(folder, method.fit(task, seed=1), task.text, provenance=PROVENANCE)
    return folder


def variant(**fields: object) -> AAPE:
    return AAPE("aape", TrainParams.model_validate({**QUICK, **fields}))


def test_the_program_answers_as_the_predictor_for_any_number_of_images(tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path / "c", variant()))
    export_head(found, tmp_path / "out", form="torch")
    head = torch.export.load(tmp_path / "out" / "head.pt2").module()
    images = small_images(draw=50).embeddings
    want = found.predictor.logits(images, found.text).softmax(-1)
    for rows in (1, 2, len(images)):
        torch.testing.assert_close(head(images[:rows]), want[:rows], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fields", [*HEADS, {"head": "none"}], ids=str)
def test_every_head_is_folded_exactly(tmp_path: Path, fields: dict[str, Any]) -> None:
    found = load_checkpoint(saved(tmp_path, variant(**fields)))
    images = small_images(draw=50).embeddings
    want = found.predictor.logits(images, found.text).softmax(-1)
    torch.testing.assert_close(Probabilities(head_of(found), 1.0)(images), want, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(by_numpy(found, tmp_path, images)), want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", [TextHead(share, beta, 0.1) for share, beta in [(0, 7), (0, 0), (0.25, 7), (1, 0)]])
@pytest.mark.parametrize("linear", [True, False])
def test_every_form_of_aape_plus_is_folded_exactly(tmp_path: Path, head: TextHead, linear: bool) -> None:
    task = small_task()
    keys, values = task.train.embeddings[: 0 if linear else 9], unit(0 if linear else 9, 6, seed=4)
    shots = ShotsPredictor(task.text.names, unit(6, WIDTH, seed=5), unit(1, 6, seed=6)[0], keys, values, 3.0)
    for name, predictor in (("text", AAPEPlusPredictor(head, shots, 0.7, 1.0)), ("shots", shots)):
        save_checkpoint(tmp_path / name, predictor, task.text, provenance=PROVENANCE)
        found, images = load_checkpoint(tmp_path / name), small_images(draw=50).embeddings
        want = predictor.logits(images, task.text).softmax(-1)
        torch.testing.assert_close(found.predictor.logits(images, found.text).softmax(-1), want, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(Probabilities(head_of(found), 1.0)(images), want, atol=1e-6, rtol=1e-5)
        told = torch.from_numpy(by_numpy(found, tmp_path, images))
        torch.testing.assert_close(told, want, atol=1e-6, rtol=1e-4)


@cache
def kept(name: str) -> Checkpoint:
    """A method fitted on a task with several templates a class, saved and loaded."""
    task = small_task()
    several = normalize(task.text.template[:, None] + 0.5 * unit(len(task.text), 3, WIDTH, seed=9), dim=-1)
    task = replace(task, text=replace(task.text, templates=several))
    predictor = METHODS[name](TrainParams.model_validate(QUICK)).fit(task, seed=1)
    with TemporaryDirectory() as folder:
        calibration = Calibration(1.7, 24, "validation images")
        save_checkpoint(Path(folder), predictor, task.text, provenance=PROVENANCE, calibration=calibration)
        return load_checkpoint(Path(folder))


def served(found: Checkpoint, images: Tensor) -> Tensor:
    """What `trainer predict` says."""
    return found.logits(images).softmax(-1)


def by_numpy(found: Checkpoint, folder: Path, images: Tensor) -> np.ndarray:
    """What the script says, run in this process."""
    export_head(found, folder, form="numpy")
    space: dict[str, Any] = {"__name__": "head", "__file__": str(folder / "head.py")}
    exec(compile((folder / "head.py").read_text(), "head.py", "exec"), space)
    assert space["CLASSES"] == list(found.text.names)
    shares: np.ndarray = space["probabilities"](images.numpy())
    assert shares.dtype == np.float32
    return shares


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_becomes_lines_of_numpy_that_answer_as_predict_does(name: str, tmp_path: Path) -> None:
    images = small_images(draw=50).embeddings
    for rows in (1, len(images)):
        given = torch.from_numpy(by_numpy(kept(name), tmp_path, images[:rows]))
        torch.testing.assert_close(given, served(kept(name), images[:rows]), atol=1e-5, rtol=1e-4)
    assert len((tmp_path / "head.py").read_text().splitlines()) <= 35


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_becomes_a_torch_program_that_answers_as_predict_does(name: str) -> None:
    program, images = program_of(kept(name)).module(), small_images(draw=50).embeddings
    for rows in (1, len(images)):
        torch.testing.assert_close(program(images[:rows]), served(kept(name), images[:rows]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_becomes_an_onnx_program_that_answers_as_predict_does(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_head(kept(name), tmp_path, form="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    images = small_images(draw=50).embeddings
    for rows in (1, len(images)):
        given = torch.from_numpy(session.run(None, {"images": images[:rows].numpy()})[0])
        torch.testing.assert_close(given, served(kept(name), images[:rows]), atol=1e-5, rtol=1e-4)
    (put,), (got,) = session.get_inputs(), session.get_outputs()
    assert (put.name, put.shape) == ("images", ["batch", WIDTH])
    assert (got.name, got.shape) == ("probabilities", ["batch", 6])
    assert capfd.readouterr().out == "", "standard output is for the command's own result"


def test_nothing_in_the_program_is_as_large_as_images_times_classes_times_width(tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path, variant(hidden=2)))
    for node in program_of(found).graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dim() == 3:
            assert value.shape[-1] == 2, f"{node}: {tuple(value.shape)}"


@pytest.mark.parametrize("form", ["torch", "onnx", "numpy"])
def test_the_lines_of_the_card_run_as_they_stand_without_this_project(form: Format, tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path / "c", variant()))
    export_head(found, tmp_path / "out", form=form)
    code = (tmp_path / "out" / "model-card.md").read_text().partition("```python\n")[2].partition("```")[0]
    images = small_images(draw=50).embeddings
    np.save(tmp_path / "out" / "x.npy", images.half().numpy())  # as the stores have them
    program = f"import sys, numpy\nx = numpy.load('x.npy')\n{code}\nprint(best)\n"
    strangers = ["trainer", "pipeline", "stages"] + ["torch"] * (form != "torch")
    program += f"print([m for m in sys.modules if m.split('.')[0] in {strangers}])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path / "out", check=False
    )
    assert done.returncode == 0, done.stderr
    best, modules = done.stdout.splitlines()
    labels = found.predictor.logits(images, found.text).argmax(1)
    assert best == str([found.text.names[i] for i in labels])
    assert modules == "[]"
    said = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert said["classes"] == list(found.text.names)
    assert (said["encoder"], said["encoder_fingerprint"], said["width"]) == ("lite", "f" * 64, WIDTH)
    assert said["temperature"] == found.temperature == 1.0


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_the_same_checkpoint_gives_the_same_files(form: Format, tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path / "c", variant()))
    for name in "ab":
        export_head(found, tmp_path / name, form=form)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_an_export_of_another_format_leaves_no_program_that_its_card_does_not_describe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "head.py").write_text("mine")
    export_head(kept("zero-shot"), tmp_path, form="torch")
    assert (tmp_path / "head.py").read_text() == "mine", "no export made it"
    export_head(kept("zero-shot"), tmp_path, form="numpy")
    (tmp_path / "notes.txt").write_text("mine")
    export_head(kept("zero-shot"), tmp_path, form="torch")
    assert {file.name for file in tmp_path.iterdir()} == {"head.pt2", "labels.json", "model-card.md", "notes.txt"}
    assert f"{tmp_path}: 2 files of an earlier export removed: head.py, head.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tpt", "it looks at several views of each image"),
        ("aape-plus-views", "it looks at several views of each image"),
        ("dynaprompt", "it learns while it judges"),
    ],
)
def test_what_cannot_be_exported_says_why_and_which_methods_beside_it_can(name: str, why: str, tmp_path: Path) -> None:
    task = small_task()
    for each in ("zero-shot", name):
        save_checkpoint(
            tmp_path / each, METHODS[each](TrainParams.model_validate(QUICK)).fit(task, seed=1), task.text,
            provenance=PROVENANCE | {"name": each},
        )  # fmt: skip
    line = rf"{name} cannot be exported: {why}, .*; of the methods kept beside it these can: zero-shot$"
    with pytest.raises(UserError, match=line):
        export_head(load_checkpoint(tmp_path / name), tmp_path / "out", form="numpy")
    assert not (tmp_path / "out").exists()


def test_the_numpy_program_without_embeddings_says_how_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export_head(kept("zero-shot"), tmp_path, form="numpy")
    monkeypatch.setattr(sys, "argv", ["head.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tmp_path / "head.py"), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "usage: python head.py embeddings.npy\n"


def test_onnx_without_its_packages_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.export.ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"--format onnx needs no_such_package: .*pip install .*or take --format numpy"):
        export_head(kept("zero-shot"), tmp_path / "out", form="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["/proc/x", "file/head", "x" * 300, "/dev/null/x"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, to: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"head\.pt2|file|/proc/x|/dev/null|xxx") as caught:
        export_head(kept("zero-shot"), tmp_path / to, form="torch")
    assert "\n" not in str(caught.value)


HOSTILE = [
    "plain | weave",
    "`code` <script>alert(1)</script>",
    '"""); import os  # {x}',
    "![a](http://b)\u2028\x1b[31m",
]


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on classes with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    make_stores(folder / "cache", names=dict(enumerate(HOSTILE)))
    features = load_features(folder / "cache", "w", "lite")
    run(fast(methods=["aape-plus", "logistic"], seeds=[1, 2]), Inputs(features), results=folder, jobs=1)
    return folder / "runs" / "w"


def test_the_card_has_data_metrics_calibration_and_limits_from_the_run(hostile_run: Path, tmp_path: Path) -> None:
    folder = hostile_run / "checkpoints" / "aape-plus"
    record = record_of(folder)
    assert record is not None
    card = Path(export_head(load_checkpoint(folder), tmp_path, form="numpy", record=record)["card"]).read_text()
    for part in (
        "# aape-plus on w", "On 48 test images", "over 2 seeds", "| accuracy | ", "calibrated: temperature",
        "- licence of the images: not known", "- train: 32 images, 8 a class", "code: aape ", "`lite`", "`f`",
        "Sentences about the classes: llm", "not CLIP", "leave its accuracy open by ± ", "| 8 | 3 | 12 |",
        "- text/w/lite/llm: rows, sha256 `", "- choices were made on: ", "- learned parameters: ",
        "encoder = load_encoder('lite')\n",
    ):  # fmt: skip
        assert part in card, part
    estimate = summarize(record)["few-shot"]["aape-plus"]["accuracy"]
    assert f"| {100 * estimate.mean:.1f} % ± {100 * estimate.ci95:.1f} | " in card  # type: ignore[operator]
    assert record_of(tmp_path) is None
    assert "exported without its run" in model_card_alone(folder)


def test_the_card_of_a_method_speaks_of_what_it_read_alone(hostile_run: Path, tmp_path: Path) -> None:
    folder = hostile_run / "checkpoints" / "logistic"
    record, found = record_of(folder), load_checkpoint(folder)
    assert record is not None
    written = {"llm": ("the words of llm are wrong",)}
    origin = record.origin.model_copy(
        update={"source_notes": written, "images": {"train": (8, 9, 9, 8), "val": (0,) * 4}}
    )
    record = record.model_copy(update={"origin": origin, "notes": ("kept", *written["llm"])})
    found.provenance["notes"] = []
    card = model_card(found, labels_of(found), form="torch", record=record)
    assert "No generated sentence" in card
    assert "- kept\n" in card
    assert "words of llm" not in card
    assert "text/w/lite/llm" not in card
    for part in ("train: 34 images, 8 to 9 a class", "val: no images", "training images that are no shots",
                 "accuracy on the images that choices were made on, a fraction of 1: "):  # fmt: skip
        assert part in card, part
    assert "validation images" not in card
    assert "\\_" not in card.partition("## Made by")[2].partition("## Images")[0]
    for content in record.origin.contents.values():
        assert len(content) == 64


def model_card_alone(folder: Path) -> str:
    found = load_checkpoint(folder)
    return model_card(found, labels_of(found), form="torch", record=None)


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_hostile_class_names_are_text_in_the_card_and_data_in_the_script(
    hostile_run: Path, tmp_path: Path, form: Format
) -> None:
    found = load_checkpoint(hostile_run / "checkpoints" / "logistic")
    export_head(found, tmp_path, form=form, record=record_of(hostile_run / "checkpoints" / "logistic"))
    card = (tmp_path / "model-card.md").read_text()
    for raw in ("<script>", "plain | weave", "![a]", "\x1b", "\u2028"):
        assert raw not in card, raw
    assert len([line for line in card.splitlines() if line.endswith("| 8 | 3 | 12 |")]) == 4
    if form == "numpy":
        images = small_images(draw=50).embeddings
        assert by_numpy(found, tmp_path, images[:, :16]).shape == (len(images), 4)
        assert not any(name in (tmp_path / "head.py").read_text() for name in HOSTILE)
