"""`trainer predict`: rows for people and programs, exit codes, and lines that help."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, picture
from small_stores import NAMES, fast, make_stores
from test_explain import Colours
from typer.testing import CliRunner

from stages import UserError
from trainer.checkpoint import load_checkpoint
from trainer.cli import analysis
from trainer.data.features import load_features
from trainer.predict import find_images
from trainer.runs.inputs import Inputs
from trainer.runs.run import run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_stores(folder / "cache")
    run(fast(methods=["zero-shot", "nearest-centroid"]), Inputs(load_features(folder / "cache", "w", "lite")),
        results=folder / "results", jobs=1)  # fmt: skip
    return folder / "results"


@pytest.fixture
def trainer(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command in a folder with four pictures."""
    monkeypatch.setattr("pipeline.encoders.load_encoder", lambda name, device: Colours())
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    for i, colour in enumerate(COLOURS.values()):
        picture(colour, i).save(f"new/{i}.png")

    def run(*args: str, code: int = 0) -> Any:
        done = CliRunner().invoke(analysis.app, [*args, "--results", str(results)], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return run


def test_every_image_gets_its_classes_and_the_line_says_who_answered(trainer: Any, results: Path) -> None:
    done = trainer("predict", "new", "--top", "2", "--json")
    rows = json.loads(done.stdout)
    assert [row["path"] for row in rows] == [f"new/{i}.png" for i in range(4)]
    assert all(row["error"] is None and len(row["classes"]) == 2 for row in rows)
    assert all(1 >= row["classes"][0]["probability"] >= row["classes"][1]["probability"] for row in rows)
    assert done.stderr.startswith("checkpoint: ")
    assert " of w, the best of 2 on 16 labelled images that no choice was made on: accuracy " in done.stderr


def test_csv_and_table_have_one_line_an_image(trainer: Any) -> None:
    (head, *lines) = csv.reader(io.StringIO(trainer("predict", "new", "--csv", "--method", "zero-shot").stdout))
    assert head == ["path", "class_1", "probability_1", "class_2", "probability_2", "class_3", "probability_3", "error"]
    assert len(lines) == 4
    assert all(line[1] in NAMES.values() for line in lines)
    assert len(trainer("predict", "new", "--method", "zero-shot").stdout.splitlines()) == 2 + 4


def test_images_that_cannot_be_read_are_counted_and_only_none_at_all_is_a_failure(trainer: Any) -> None:
    Path("bad.jpg").write_bytes(b"junk")
    Path("empty.jpg").write_bytes(b"")
    some = trainer("predict", "new/0.png", "bad.jpg", "empty.jpg", "--csv")
    assert "2 of 3 images could not be read (first: bad.jpg: not an image that can be read)" in some.stderr
    none = trainer("predict", "nope.jpg", "--csv", code=1)
    assert "1 of 1 images could not be read (first: nope.jpg: No such file or directory)" in none.stderr
    assert none.stdout.splitlines()[1] == "nope.jpg,,,,,,,No such file or directory"
    assert "1 of 1 images could not be read" in trainer("explain", "nope.jpg", code=1).stderr


def test_a_wrong_use_is_one_line(trainer: Any) -> None:
    Path("empty").mkdir()
    for args, line in {
        ("predict", "new", "--method", "zero-shto"): "no checkpoint of 'zero-shto'.*did you mean 'zero-shot'",
        ("export", "--to", "x", "--method", "aape"): "no checkpoint of 'aape'; there are: zero-shot, nearest-centroid",
        ("explain", "new", "--dataset", "v"): "no checkpoint of 'v'; choose with --dataset: w",
        ("predict", "new", "--device", "foo"): "device 'foo': no device of torch; known: auto, cpu",
        ("explain", "new", "--device", "foo"): "device 'foo': no device of torch",
        ("predict", "new", "--checkpoint", "c", "--method", "aape"): "is one classifier already: leave out --method",
        ("predict", "new", "--checkpoint", "c"): "no checkpoint in c: checkpoint.json is missing",
        ("predict", "empty"): "empty: no image in this folder",
        ("export", "--to", "/proc/x"): "/proc/x",
    }.items():
        with pytest.raises(UserError, match=line) as caught:
            trainer(*args)
        assert "\n" not in str(caught.value)


def test_a_program_of_any_kept_method_is_written_and_named(trainer: Any, results: Path) -> None:
    trainer("export", "--to", "head", "--method", "nearest-centroid")
    assert json.loads(Path("head/labels.json").read_text())["method"] == "nearest-centroid"
    found = load_checkpoint(results / "runs" / "w" / "checkpoints" / "nearest-centroid")
    assert json.loads(Path("head/labels.json").read_text())["classes"] == list(found.text.names)


def test_what_systems_leave_in_a_folder_is_no_image(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "__MACOSX/b.png", "sub/c.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [p.relative_to(tmp_path).as_posix() for p in find_images([tmp_path])] == ["a.png", "sub/c.JPG"]


def test_an_unsure_image_gets_no_label_but_a_reason_and_is_counted(trainer: Any) -> None:
    done = trainer("predict", "new", "--csv", "--abstain-below", "1")
    head, *lines = csv.reader(io.StringIO(done.stdout))
    assert head[:4] == ["path", "label", "reason", "class_1"]
    assert all(not line[1] and line[2].startswith("unsure: probability 0.") and line[3] for line in lines)
    assert "4 of 4 images without a label: below 1" in done.stderr
    lines = list(csv.DictReader(io.StringIO(trainer("predict", "new", "--csv", "--abstain-below", "0.01").stdout)))
    assert all(line["label"] == line["class_1"] and not line["reason"] for line in lines)


def test_sets_hold_the_likeliest_class_and_all_classes_where_too_few_images_were_held_out(trainer: Any) -> None:
    some = trainer("predict", "new", "--json", "--error-rate", "0.3")
    for row in json.loads(some.stdout):
        assert (row["label"], row["reason"]) == (row["set"][0], "")
        assert row["set"][0] == row["classes"][0]["class"]
        assert set(row["set"]) <= set(NAMES.values())
    assert "sets that miss the right class in at most 30% of images like those held out: " in some.stderr
    whole = trainer("predict", "new", "--csv", "--alpha", "0.01")
    assert (
        "every set holds all classes: 16 labelled images held out, and an error rate of 0.01 needs 99" in whole.stderr
    )
    for line in csv.DictReader(io.StringIO(whole.stdout)):
        assert set(json.loads(line["set"])) == set(NAMES.values())


def test_images_far_from_all_that_was_learned_from_get_no_label(trainer: Any) -> None:
    far = trainer("predict", "new", "--json", "--none-of-these", "--abstain-below", "0.01", "--keep", "0.05")
    rows = json.loads(far.stdout)
    assert [row["reason"][:23] for row in rows if not row["label"]] == ["none of these: distance"] * 4
    assert all(row["classes"] for row in rows)
    assert "4 of 4 images without a label: too far from every class" in far.stderr
    assert "0 of 4 images without a label: below 0.01" in far.stderr


def test_an_image_that_is_none_of_the_classes_has_no_set_and_is_not_counted_among_the_sets(trainer: Any) -> None:
    asked = ("predict", "new", "--none-of-these", "--error-rate", "0.3")
    far = trainer(*asked, "--json", "--keep", "0.05")
    assert [row["set"] for row in json.loads(far.stdout)] == [None] * 4
    assert "classes on average" not in far.stderr
    table = csv.DictReader(io.StringIO(trainer(*asked, "--csv", "--keep", "0.05").stdout))
    assert all(line["set"] == line["label"] == "" != line["class_1"] for line in table)
    near = trainer(*asked, "--json", "--keep", "0.999999")
    held = [row for row in json.loads(near.stdout) if row["set"] is not None]
    assert [row["label"] for row in held] == [row["set"][0] for row in held]
    assert (f" of {len(held)}\n" in near.stderr) == bool(held)


def test_an_unreadable_image_has_no_label_no_set_and_is_not_counted_twice(trainer: Any) -> None:
    Path("bad.jpg").write_bytes(b"junk")
    done = trainer("predict", "new/0.png", "bad.jpg", "--csv", "--none-of-these", "--error-rate", "0.3")
    bad = list(csv.DictReader(io.StringIO(done.stdout)))[1]
    assert (bad["label"], bad["reason"], bad["set"]) == ("", "", "")
    assert "of 1 image without a label" in done.stderr


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--error-rate", "0"), "--error-rate 0: expected a share above 0 and below 1"),
        (("--alpha", "1.5"), "--error-rate 1.5: expected a share"),
        (("--error-rate", "nan"), "--error-rate nan: expected a share"),
        (("--abstain-below", "60"), "--abstain-below 60: expected a probability above 0 and at most 1"),
        (("--none-of-these", "--keep", "95"), "--keep 95: expected a share"),
    ],
)
def test_a_share_out_of_range_is_one_line(trainer: Any, args: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        trainer("predict", "new", *args)
    assert caught.value.exit_code == 2


def test_a_checkpoint_made_without_held_out_images_says_what_it_cannot_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 1, "test": 4})
    features = load_features(tmp_path / "cache", "w", "lite")
    run(fast(methods=["zero-shot"], shots=1), Inputs(features), results=tmp_path, jobs=1)
    monkeypatch.setattr("pipeline.encoders.load_encoder", lambda name, device: Colours())
    picture(COLOURS["red weave"], 1).save(tmp_path / "x.png")
    for option in (["--error-rate", "0.1"], ["--none-of-these"]):
        with pytest.raises(UserError, match=f"cannot serve {option[0]}: no labelled image was held out"):
            CliRunner().invoke(
                analysis.app,
                ["predict", str(tmp_path / "x.png"), "--results", str(tmp_path), *option],
                catch_exceptions=False,
            )


def test_test_time_methods_look_at_views_of_new_pictures_and_say_so(trainer: Any, tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", views=4)
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    run(fast(methods=["tpt", "dynaprompt", "zero-shot"]), inputs, results=tmp_path / "viewed", jobs=1)
    told = {}
    for name in ("tpt", "dynaprompt", "zero-shot"):
        folder = str(tmp_path / "viewed" / "runs" / "w" / "checkpoints" / name)
        done = trainer("predict", "new", "--checkpoint", folder, "--views", "3", "--batch", "2", "--json")
        told[name] = [row["classes"][0]["probability"] for row in json.loads(done.stdout)]
        assert ("3 augmented views of each picture are looked at" in done.stderr) == (name != "zero-shot")
        again = trainer("predict", "new", "--checkpoint", folder, "--views", "3", "--batch", "3", "--json")
        assert json.loads(again.stdout) == json.loads(done.stdout), "whatever the batches are"
    assert told["tpt"] != told["zero-shot"]
