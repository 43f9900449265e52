"""`trainer predict --add-class`: classes served by their text alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_stores import NAMES, fast, make_stores
from small_tasks import WIDTH, small_images, small_task, small_text
from torch import Tensor
from typer.testing import CliRunner

from stages import UserError
from stages.training import TrainParams
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.cli import analysis
from trainer.data import ClassText
from trainer.data.features import load_features
from trainer.methods import METHODS, methods
from trainer.new_classes import NewClasses, checked_names, with_classes
from trainer.runs.inputs import Inputs
from trainer.runs.run import run

TASK = small_task(classes=6)
WHOLE = small_text(8)
"""The six classes of the task and two more: text rows do not depend on the number of classes."""
SETTINGS = TrainParams.model_validate({"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "epochs": 3})


class Words:
    """An encoder of text for tests: a sentence that names class 6 or 7 lies at its place."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([WHOLE.template[6 if "six" in text else 7] for text in texts])


def kept(folder: Path, name: str) -> Any:
    method = methods([name], settings=SETTINGS)[0]
    provenance = {
        "encoder": "lite", "encoder_fingerprint": "f", "width": WIDTH, "method": name, "templates": ["a photo of {}."],
    }  # fmt: skip
    save_checkpoint(folder, method.fit(TASK, seed=1), TASK.text, provenance=provenance)
    return load_checkpoint(folder)


ABLE = [name for name in METHODS if methods([name], settings=SETTINGS)[0].serves_new_classes]


@pytest.mark.parametrize("name", ABLE)
def test_every_method_that_serves_new_classes_serves_added_ones_as_it_serves_those_of_a_store(
    tmp_path: Path, name: str
) -> None:
    found = kept(tmp_path, name)
    more, notes = with_classes(found, Words(), NewClasses(("six", "number seven")))
    assert more.text.names == (*TASK.text.names, "six", "number seven")
    assert "2 classes known by text alone beside 6" in notes[-1]
    images = small_images(6, 5, draw=12).embeddings
    scores = more.logits(images)
    assert scores.shape == (30, 8)
    assert torch.isfinite(scores).all()
    new = WHOLE.template[6:8]
    prompts, mask = TASK.text.require_prompts()
    wide = torch.zeros(2, prompts.shape[1], WIDTH)
    wide[:, 0] = new
    only = torch.zeros(2, prompts.shape[1], dtype=torch.bool)
    only[:, 0] = True
    together = ClassText(more.text.names, torch.cat([TASK.text.template, new]), torch.cat([prompts, wide]),
                         torch.cat([mask, only]))  # fmt: skip
    torch.testing.assert_close(scores, found.predictor.logits(images, together), atol=0.05, rtol=0.01)
    if name in ("zero-shot", "template-ensemble", "cupl"):
        assert more.logits(new).argmax(1).tolist() == [6, 7]


def test_sentences_from_a_file_name_the_added_class(tmp_path: Path) -> None:
    found = kept(tmp_path / "c", "cupl")
    file = tmp_path / "said.json"
    file.write_text(json.dumps({"Six": ["a six.", "a six.", "another six"], "else": ["x"]}))
    more, notes = with_classes(found, Words(), NewClasses(("six",), file))
    assert notes[:2] == [f"2 sentences of {file}", f"{file}: 1 class in it that nobody asked for"]
    assert more.text.prompt_mean()[6] == pytest.approx(WHOLE.template[6], abs=2e-3)
    with pytest.raises(UserError, match="no sentence for 1 of 1 classes: 'seven'"):
        with_classes(found, Words(), NewClasses(("seven",), file))
    file.write_text(json.dumps({"seven": [" - "]}))
    with pytest.raises(UserError, match="no sentence with a letter or a digit about seven"):
        with_classes(found, Words(), NewClasses(("seven",), file))


def test_a_method_that_knows_only_its_own_classes_says_which_can(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"logistic knows no class but its own; run `trainer run` with one of: aape, .*zero-shot"
    ) as caught:
        with_classes(kept(tmp_path, "logistic"), Words(), NewClasses(("six",)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([""], "expected a class name with a letter or a digit"),
        (["  _ "], "expected a class name"),
        (["<b>six</b>"], "holds markup"),
        (["si\u200bx"], "holds markup or unseen characters"),
        (["a" * 201], "has 201 characters, expected at most 200"),
        (["Class_0"], "'class 0' is among the classes already"),
        (["six", "SIX"], "'six' is among the classes already"),
    ],
)
def test_a_name_that_cannot_be_added_is_one_line(names: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        checked_names(names, TASK.text.names)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_command_adds_a_class_and_refuses_what_does_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import COLOURS, picture
    from test_explain import Colours

    class Both(Colours):
        def encode_text(self, texts: Sequence[str]) -> Tensor:
            return torch.nn.functional.normalize(torch.ones(len(texts), self.width), dim=-1)

    make_stores(tmp_path / "cache")
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    run(fast(methods=["zero-shot", "logistic"]), inputs, results=tmp_path / "results", jobs=1)
    monkeypatch.setattr("pipeline.encoders.load_encoder", lambda name, device: Both())
    monkeypatch.chdir(tmp_path)
    picture(COLOURS["red weave"], 1).save("x.png")

    def typed(*args: str) -> Any:
        return CliRunner().invoke(analysis.app, ["predict", "x.png", *args], catch_exceptions=False)

    done = typed("--method", "zero-shot", "--add-class", "forklift", "--top", "5", "--json")
    (row,) = json.loads(done.stdout)
    assert {each["class"] for each in row["classes"]} == {*NAMES.values(), "forklift"}
    assert "1 class known by text alone beside 4" in done.stderr
    for args, line in {
        ("--llm", "smollm2"): "--prompts and --llm are about added classes",
        ("--add-class", "a", "--prompts", "f", "--llm", "x"): "exclude each other",
        ("--add-class", "a", "--error-rate", "0.1"): "--error-rate rests on labelled images of every class",
        ("--add-class", "a", "--none-of-these"): "--none-of-these rests on labelled images",
        ("--add-class", "a", "--method", "logistic"): "knows no class but its own; take --method zero-shot$",
        ("--add-class", "a", "--method", "zero-shot", "--prompts", "nope.json"): "nope.json",
    }.items():
        with pytest.raises(UserError, match=line):
            typed(*args)
