"""Heads of sources learnt apart: their composition is the joint closed form, and one left out was never there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import make_stores
from small_tasks import WIDTH, small_images, small_text
from torch.nn.functional import normalize

from stages import UserError
from stages.params import Params
from trainer.checkpoint import load_checkpoint
from trainer.checkpoints import record_of
from trainer.cli import compose as command_line
from trainer.compose.composition import compose
from trainer.compose.forms import gaussian, ridge
from trainer.compose.parts import About, Part, load_part, prints_of, save_part
from trainer.compose.run import Wanted, run
from trainer.compose.sources import asked_of, folder_part
from trainer.compose.sums import image_sums, joined_images, text_sums
from trainer.data import Images, Task
from trainer.export import export_head
from trainer.methods.gda import GDA
from trainer.methods.gda import discriminant as gda_scores

PARAMS = Params()
OTHERS = {i: name for i, name in enumerate(["plain, weave", "velvet", "felt"])}


def made(name: str, images: Images, *, words: bool = True, judges: Images | None = None, **about: object) -> Part:
    """A part of some of the six classes of `small_text`, which are those that it has images of."""
    there = sorted(set(images.labels.tolist()))
    at = {label: i for i, label in enumerate(there)}
    text = small_text().select(there)
    own = Images(images.embeddings, torch.tensor([at[label] for label in images.labels.tolist()]))
    facts = {"made_from": name, "dataset": name, "encoder": "lite", "encoder_fingerprint": "f", "width": WIDTH}
    sums = image_sums(own, len(there), width=WIDTH)
    judging = judges or own.take(torch.arange(0))
    said = text_sums(text, templates=True, prompts=False) if words else None
    origin = About.model_validate(facts | {"names": text.names} | about)
    return Part(name, origin, sums, sums, judging, said, prints_of(own))


def halves() -> tuple[Images, list[Images]]:
    """Images of six classes; and the same in three parts, of which two share classes."""
    images = small_images(shots=9)
    rows = [(images.labels < 3).nonzero()[:, 0], ((images.labels >= 3).nonzero()[:, 0])]
    return images, [images.take(rows[0]), images.take(rows[1][::2]), images.take(rows[1][1::2])]


def test_the_sums_of_parts_give_the_closed_forms_of_all_images() -> None:
    images, parts = halves()
    whole = image_sums(images, 6, width=WIDTH)
    added = joined_images([(range(6), image_sums(each, 6, width=WIDTH)) for each in parts], 6)
    assert added is not None
    for found, expected in [(gaussian(added), gaussian(whole)), (ridge(added, 0.3), ridge(whole, 0.3))]:
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shots", [1, 3, 20])
def test_the_ridge_is_least_squares_with_the_strength_as_further_rows(shots: int) -> None:
    images, classes = small_images(shots=shots), 6
    x, y = images.embeddings.double().numpy(), np.eye(classes)[images.labels]
    centred = x - x.mean(0)
    scale = (centred**2).sum() / len(x)
    rows = np.vstack([centred, np.sqrt(0.3 * scale) * np.eye(WIDTH)])
    target = np.vstack([y - y.mean(0), np.zeros((WIDTH, classes))])
    naive = np.linalg.lstsq(rows, target, rcond=None)[0]
    weight, bias = ridge(image_sums(images, classes, width=WIDTH), 0.3)
    np.testing.assert_allclose(x @ weight.numpy().T + bias.numpy(), centred @ naive + y.mean(0), atol=1e-9)


@pytest.mark.parametrize("shots", [2, 20])
def test_the_gaussian_is_that_of_gda_whose_images_are_at_hand(shots: int) -> None:
    text, images = small_text(), small_images(shots=shots)
    fitted = GDA().fit(Task(text, images, images.take(torch.arange(0))), seed=1)
    expected = gda_scores(fitted.means, fitted.means @ fitted.precision)
    weight, bias = gaussian(image_sums(images, 6, width=WIDTH))
    torch.testing.assert_close(weight.float(), expected[0], rtol=2e-3, atol=2e-3)
    bias = bias.float() - bias.float().mean()
    torch.testing.assert_close(bias, expected[1] - expected[1].mean(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("form", ["gaussian", "ridge"])
def test_a_part_left_out_was_never_there(form: str) -> None:
    _, draws = halves()
    parts = [made(name, each) for name, each in zip("abc", draws, strict=True)]
    never = compose([parts[2], parts[0]], form=form)  # type: ignore[arg-type]
    again = compose([part for part in parts if part.name != "b"], form=form)  # type: ignore[arg-type]
    assert never.text.names == again.text.names
    assert torch.equal(never.predictor.weight, again.predictor.weight)
    assert torch.equal(never.predictor.bias, again.predictor.bias)


def test_heads_of_classes_that_never_met_tell_them_apart() -> None:
    _, draws = halves()
    judges = small_images(shots=4, draw=12)
    one = Images(judges.embeddings[:12], judges.labels[:12])
    parts = [made("a", draws[0], judges=one), made("b", draws[1], words=True), made("c", draws[2])]
    found = compose(parts)
    test = small_images(shots=20, draw=13)
    scores = found.predictor.logits(test.embeddings, found.text)
    assert float((scores.argmax(1) == test.labels).double().mean()) > 0.8
    assert found.validation is not None
    assert found.notes[0].startswith("3 classes are in several parts, whose images add up: class 3")
    assert found.predictor.info["temperature"] == 1.0, "twelve images are too few to be sure by"
    text_alone = test.embeddings @ normalize(small_text().template, dim=-1).T
    assert (scores.argmax(1) == test.labels).sum() > (text_alone.argmax(1) == test.labels).sum()


def test_a_class_without_images_is_decided_by_its_text() -> None:
    _, draws = halves()
    words = replace(made("w", draws[1]), images=None, choosing=None, prints=torch.zeros(0, dtype=torch.int64))
    found = compose([made("a", draws[0]), words])
    assert found.notes == ("3 classes without an image, known by text alone",)
    difference = found.predictor.weight[4] - found.predictor.weight[5]
    text = small_text().template.double()
    torch.testing.assert_close(difference.double(), (text[4] - text[5]) / 0.05, rtol=1e-4, atol=1e-4)


def test_images_that_two_parts_share_are_counted() -> None:
    _, draws = halves()
    found = compose([made("a", draws[1]), made("b", draws[1].take(torch.arange(4)))])
    assert "4 images are in both a and b, and counted twice" in found.notes


def test_parts_that_do_not_go_together_are_refused() -> None:
    _, draws = halves()
    first = made("a", draws[0])
    with pytest.raises(
        UserError, match=r"part 'a' is of lite .* part 'b' of clip .* different encoders cannot be added"
    ):
        compose([first, made("b", draws[1], encoder="clip", encoder_fingerprint="g")])
    spelled = made("b", draws[0], names=("Class-0", "class 1", "class 2"))
    with pytest.raises(UserError, match="'class 0' of part 'a' and 'Class-0' of part 'b' differ in case or separators"):
        compose([first, spelled])
    with pytest.raises(UserError, match="3 classes have no words and others have some"):
        compose([first, made("b", draws[1], words=False)])
    with pytest.raises(UserError, match="at least 2 classes, the parts have 1"):
        compose([made("a", draws[0].take(torch.arange(4)))])


def test_a_part_comes_back_as_it_was_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    part = made("a", halves()[1][0])
    save_part(part, tmp_path / "a")
    back = load_part(tmp_path / "a")
    assert back.about == part.about
    assert torch.equal(compose([part]).predictor.weight, compose([back]).predictor.weight)
    record = tmp_path / "a" / "part.json"
    text = record.read_text()
    record.write_text(text.replace("class 0", "class 9"))
    with pytest.raises(UserError, match=r"part\.json: was changed since it was written"):
        load_part(tmp_path / "a")
    record.write_text(text)
    blob = tmp_path / "a" / "part.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"part\.safetensors: was cut off or changed: delete .* and make the part again"
    ):
        load_part(tmp_path / "a")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("compose")
    make_stores(cache, dataset="w")
    make_stores(cache, dataset="v", names=OTHERS, per_split={"train": 6, "val": 2, "test": 2}, sources=())
    return cache


def test_data_sets_prompts_and_listed_images_make_one_checkpoint(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("train/0/0\ntrain/1/3\ntrain/0/2\ntrain/1/3\n")
    to = tmp_path / "head"
    wanted = Wanted(sources=["w=w", "v=v", "words=w@people", f"few=w:{tmp_path / 'ids.txt'}"])
    done = run(to, wanted, PARAMS, cache=stores)
    assert [(each["name"], each["classes"], each["images"]) for each in done.parts] == [
        ("few", 2, 3), ("v", 3, 18), ("w", 4, 32), ("words", 4, 0),
    ]  # fmt: skip
    assert f"{tmp_path / 'ids.txt'}: 1 id named more than once" in done.lines
    assert "3 images are in both few and w, and counted twice" in done.lines
    before = load_checkpoint(to)
    assert set(before.text.names) == {"plain, weave", 'slub "yarn"', "<b>hole</b>", "stain$x$", "velvet", "felt"}
    again = run(to, Wanted(without=["few", "v"]), PARAMS, cache=stores)
    assert [each["state"] for each in again.parts] == ["no", "no", "yes", "yes"]
    other = tmp_path / "never"
    run(other, Wanted(sources=["words=w@people", "w=w"]), PARAMS, cache=stores)
    assert (to / "checkpoint.safetensors").read_bytes() == (other / "checkpoint.safetensors").read_bytes()
    found = load_checkpoint(to)
    assert record_of(to) is None
    assert found.provenance["left_out"] == ["few", "v"]
    export_head(found, tmp_path / "out", form="numpy")
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["classes"] == list(found.text.names)


@pytest.mark.parametrize(("wanted", "part"), [
    (Wanted(), "there is no part yet"),
    (Wanted(without=["a"]), "there is no part yet"),
    (Wanted(sources=["w"]), "'w': expected NAME=SOURCE"),
    (Wanted(sources=["a/b=w"]), "part name 'a/b'"),
    (Wanted(sources=["a=w", "a=v"]), "'a' is named twice"),
    (Wanted(sources=["a=nothing"]), "neither a data set of the cache .* nor a folder"),
    (Wanted(sources=["a=w@none-such"]), "no embedded prompts of 'none-such'"),
    (Wanted(sources=["a=w:/no/such/file"]), "/no/such/file: not found"),
    (Wanted(sources=["a=w"], without=["b"]), "--without b: no such part"),
    (Wanted(sources=["a=w"], without=["a"]), "every part is left out"),
    (Wanted(sources=["a=w"], shots=99), "99 shots asked"),
])  # fmt: skip
def test_a_line_that_asks_for_what_is_not_there_writes_nothing(
    stores: Path, tmp_path: Path, wanted: Wanted, part: str
) -> None:
    with pytest.raises(UserError, match=part):
        run(tmp_path / "head", wanted, PARAMS, cache=stores)
    assert not list(tmp_path.iterdir())


def test_classes_that_no_image_judges_are_counted_beside_the_accuracy_and_few_images_where_they_are_taken(
    stores: Path, tmp_path: Path
) -> None:
    params = Params.model_validate({"evaluation": {"up_to": True}})
    done = run(tmp_path / "head", Wanted(sources=["a=w"], shots=99), params, cache=stores)
    assert "w, up to 99 shots: 4 of 4 classes have fewer training images: <b>hole</b> 8" in done.lines[0]
    assert done.lines[-1].endswith("images of all 4 classes, which alpha was chosen on")
    (tmp_path / "ids.txt").write_text("train/0/0\ntrain/0/1\ntrain/1/1\ntrain/1/2\n")
    wanted = Wanted(sources=[f"few=w:{tmp_path / 'ids.txt'}", "words=w@people"])
    done = run(tmp_path / "other", wanted, PARAMS, cache=stores)
    assert done.lines[-1].endswith(
        "of 2 of the 4 classes, which alpha was chosen on; of the other 2 nothing is measured"
    )


def test_an_id_of_the_test_split_is_refused_and_a_part_is_not_overwritten(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("train/0/0\ntest/0/0\n")
    with pytest.raises(UserError, match=r"1 id is no training image of w .*never learned from"):
        run(tmp_path / "head", Wanted(sources=[f"a=w:{tmp_path / 'ids.txt'}"]), PARAMS, cache=stores)
    run(tmp_path / "head", Wanted(sources=["a=w"]), PARAMS, cache=stores)
    with pytest.raises(UserError, match="part 'a' is there already, made from 'w'"):
        run(tmp_path / "head", Wanted(sources=["a=v"]), PARAMS, cache=stores)


def test_the_command_prints_the_parts_and_refuses_an_unknown_form(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line.compose(tmp_path / "h", ["a=w", "b=v"], without=["b"], features=stores, shots="4", as_json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [(each["name"], each["images"], each["state"]) for each in found["parts"]] == [
        ("a", 16, "yes"),
        ("b", 12, "no"),
    ]
    assert "b is left out of the head; its part stays in" in said.err
    for flags, part in (({"form": "cubic"}, "--form 'cubic': known: gaussian, ridge"), ({"shots": "0"}, "--shots '0'")):
        with pytest.raises(UserError, match=part) as caught:
            command_line.compose(tmp_path / "h", features=stores, **flags)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2


def test_another_checkpoint_is_not_written_over(stores: Path, tmp_path: Path) -> None:
    run(tmp_path / "h", Wanted(sources=["a=w"]), PARAMS, cache=stores)
    (tmp_path / "other").mkdir()
    before = (tmp_path / "h" / "checkpoint.json").read_bytes()
    (tmp_path / "other" / "checkpoint.json").write_bytes(before)
    with pytest.raises(UserError, match="other: holds a checkpoint that is no composition: name another folder"):
        run(tmp_path / "other", Wanted(sources=["a=w"]), PARAMS, cache=stores)
    assert (tmp_path / "other" / "checkpoint.json").read_bytes() == before


class Colours:
    """An encoder that sees the mean colour and reads names of colours."""

    name, width, fingerprint, note = "colours", 3, "c", "mean colours"

    @property
    def preprocess(self):  # type: ignore[no-untyped-def]
        return lambda picture: torch.from_numpy(np.array(picture.resize((4, 4)))).permute(2, 0, 1)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize(pixels.float().mean((2, 3)), dim=-1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return normalize(torch.tensor([[1.0, 0.1, 0.1] if "red" in t else [0.1, 0.1, 1.0] for t in texts]), dim=-1)


def test_a_folder_of_class_folders_is_a_source_and_unreadable_images_are_counted(tmp_path: Path) -> None:
    from PIL import Image

    for name, colour in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        (tmp_path / "f" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), tuple(abs(c - 7 * i) for c in colour)).save(tmp_path / "f" / name / f"{i}.png")
    (tmp_path / "f" / "red" / "bad.png").write_bytes(b"no picture")
    asked = asked_of(f"mine={tmp_path / 'f'}")
    part, lines = folder_part(asked, tmp_path / "f", Colours(), templates=("a photo of a {}.",), batch=3)  # type: ignore[arg-type]
    assert len(lines) == 1
    assert "1 image could not be read and is left out (first: " in lines[0]
    assert part.images is not None
    assert part.images.counts.tolist() == [4, 4]
    assert len(part.judges) == 2
    found = compose([part])
    scores = found.predictor.logits(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), found.text)
    assert [found.text.names[i] for i in scores.argmax(1)] == ["red", "blue"]
    with pytest.raises(UserError, match="no class folder in it; expected"):
        folder_part(asked, tmp_path / "f" / "red", Colours(), templates=("{}",), batch=3)  # type: ignore[arg-type]
