"""A classifier trained on embeddings from elsewhere names the classes of further ones, in any form."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from small_stores import fast

from pipeline.ingest import ingest
from stages import UserError
from stages.params import DataParams
from trainer.data.features import load_features
from trainer.predict import load_with_encoder, predict_files
from trainer.runs.inputs import Inputs
from trainer.runs.run import run

RNG = np.random.default_rng(0)
CENTRES = 3 * RNG.normal(size=(4, 16))


def drawn(per_class: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.repeat(np.arange(4), per_class)
    return (CENTRES[y] + RNG.normal(size=(len(y), 16))).astype(np.float32), y


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache/ and results/ of a data set without text, two of whose classes have one name."""
    home = tmp_path_factory.mktemp("given")
    x, y = drawn(20)
    names = np.array(["crane", "heron", "crane", "stork"])
    np.savez(home / "features.npz", embedding=x, class_id=y, class_names=names)
    ingest("birds", str(home / "features.npz"), data=DataParams(encoder_name="clip-x"), cache=home / "cache")
    features = load_features(home / "cache", "birds", "lite")
    assert features.encoder == "clip-x", "a data set that came as embeddings has one encoder"
    run(fast(methods=["all"]), Inputs(features), results=home / "results")
    return home


def test_new_embeddings_are_classified_and_explained_by_the_commands(trained: Path, typed: Command) -> None:
    x, y = drawn(3)
    x[0] = np.nan
    np.savez(trained / "new.npz", embedding=x, image_id=np.array([f"new {i}" for i in range(len(x))]))
    done = typed("trainer", "predict", "new.npz", "--method", "gda", "--json", cwd=trained)
    rows = json.loads(done.stdout)
    assert [row["path"] for row in rows] == [f"new {i}" for i in range(12)]
    assert rows[0]["error"] == "holds NaN or infinity"
    called = ["crane (0)", "heron", "crane (2)", "stork"]
    found = [row["classes"][0]["class"] for row in rows[1:]]
    assert np.mean([name == called[label] for name, label in zip(found, y[1:], strict=True)]) > 0.8
    assert "the embeddings are taken to be of clip-x" in done.stderr
    explained = typed("trainer", "explain", "new.npz", "--method", "gda", "--json", cwd=trained)
    assert json.loads(explained.stdout)[1]["classes"][0]["cos_template"] is None, "there is no text to compare with"


def test_a_bare_array_a_folder_and_other_forms_say_the_same(trained: Path) -> None:
    x, _ = drawn(2)
    checkpoint = trained / "results" / "runs" / "birds" / "checkpoints" / "logistic"
    np.save(trained / "bare.npy", x)
    (trained / "folder").mkdir()
    np.save(trained / "folder" / "embedding.npy", x * 7)
    torch.save({"embedding": torch.from_numpy(x)}, trained / "new.pt")
    said = []
    for name in ("bare.npy", "folder", "new.pt"):
        rows, _ = predict_files([trained / name], checkpoint, top=1, batch=3, device="cpu")
        said.append([row["classes"] for row in rows])
    assert said[0] == said[1] == said[2]
    assert len(said[0]) == 8


def test_a_name_in_the_file_cannot_steer_the_terminal(trained: Path, typed: Command) -> None:
    x, _ = drawn(1)
    np.savez(trained / "names.npz", embedding=x, image_id=np.array(["a\nb", "\x1b[31mred", "c", "d"]))
    out = typed("trainer", "predict", "names.npz", "--method", "gda", cwd=trained).stdout
    assert "\x1b" not in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["a\\nb", "\\x1b[31mred", "c", "d"]
    explained = typed("trainer", "explain", "names.npz", "--method", "gda", cwd=trained).stdout
    assert explained.startswith("a\\nb\n")
    assert "\x1b" not in explained


def test_views_that_are_left_out_are_counted(trained: Path, typed: Command) -> None:
    x, _ = drawn(1)
    np.savez(trained / "views.npz", embedding=x, image_id=np.array([*"aabb"]), view=np.array([0, 1, 0, 1]))
    done = typed("trainer", "predict", "views.npz", "--method", "gda", "--json", cwd=trained)
    assert [row["path"] for row in json.loads(done.stdout)] == ["a", "b"]
    assert "note: 2 of 4 rows of views.npz are further views of an image and left out" in done.stderr


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"embedding": np.ones((0, 16))}, "embedding has no row: there is no image to classify"),
        ({"embedding": np.ones((2, 16)), "image_id": np.array(["a"])}, r"image_id is of shape \(1,\); expected \(2,\)"),
        ({"embedding": np.ones((2, 16)), "view": np.zeros(3, int)}, r"view is of shape \(3,\); expected \(2,\)"),
        ({"embedding": np.ones((2, 16)), "view": np.array(["0", "1"])}, "view holds no whole numbers"),
    ],
)
def test_keys_that_do_not_fit_the_embeddings_are_one_line(
    trained: Path, arrays: dict[str, np.ndarray], line: str
) -> None:
    checkpoint = trained / "results" / "runs" / "birds" / "checkpoints" / "logistic"
    np.savez(trained / "unfit.npz", **arrays)
    with pytest.raises(UserError, match=line):
        predict_files([trained / "unfit.npz"], checkpoint, top=1, batch=3, device="cpu")


def test_a_class_cannot_be_added_by_name_where_the_encoder_is_a_name_alone(trained: Path) -> None:
    checkpoint = trained / "results" / "runs" / "birds" / "checkpoints" / "logistic"
    np.save(trained / "again.npy", drawn(1)[0])
    with pytest.raises(UserError, match="the name of an added class has to be embedded by it"):
        predict_files(
            [trained / "again.npy"], checkpoint, top=1, batch=3, device="cpu", extend=lambda found, _: (found, [])
        )


def test_another_width_and_image_files_without_the_encoder_are_one_line(trained: Path) -> None:
    checkpoint = trained / "results" / "runs" / "birds" / "checkpoints" / "logistic"
    np.save(trained / "wide.npy", np.ones((2, 17)))
    with pytest.raises(UserError, match="embeddings 17 wide, expected 16: they are of another encoder"):
        predict_files([trained / "wide.npy"], checkpoint, top=1, batch=3, device="cpu")
    with pytest.raises(UserError, match="trained on embeddings of clip-x, an encoder that is not at hand"):
        load_with_encoder(checkpoint, device="cpu", files=[trained / "image.png"])
