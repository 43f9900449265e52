"""The stores as arrays: what `trainer run` sees, the test split by its own call only, docs/python.md as written."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aape import AAPEPlusClassifier, classifier, load, open_features, write_features
from aape.base import IMAGES_ALONE
from aape.estimators import CLASSES
from pipeline.verify import verify
from stages.training import TrainParams
from tests.trainer.small_stores import NAMES, WIDTH, make_stores
from trainer.confidence import fit_temperature
from trainer.data import Task
from trainer.data import features as trainer_features
from trainer.data.draws import few_shot
from trainer.methods import FITS_ALONE, methods

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_stores_come_as_arrays_and_fit_as_they_are(tmp_path: Path) -> None:
    make_stores(tmp_path, views=2)
    data = open_features(tmp_path, dataset="w")
    assert (data.encoder, data.encoder_fingerprint, data.width) == ("lite", "f", WIDTH)
    assert data.class_names == tuple(NAMES.values())
    assert data.train.X.shape == (32, WIDTH)
    assert data.train.views is not None
    assert data.train.views.shape == (32, 2, WIDTH)
    assert data.train.image_ids[:2] == ("train/0/0", "train/0/1")
    assert (data.train.y == np.repeat(range(4), 8)).all()
    assert len(data.val) == 12
    assert data.sources == ("llm", "people")
    assert data.notes == ("not CLIP",)
    text = data.classes("people")
    assert text.prompts is not None
    assert [len(rows) for rows in text.prompts] == [len(said) for said in data.sentences("people")] == [5] * 4
    made = AAPEPlusClassifier().fit(**data.few_shot(4, seed=2), text=text)
    assert made.score(data.val.X, data.val.y) > 0.6
    made.save(tmp_path / "head", encoder=data.encoder, encoder_fingerprint=data.encoder_fingerprint)
    with pytest.raises(ValueError, match="no prompts of 'llama'; it has: llm, people"):
        data.classes("llama")
    with pytest.raises(ValueError, match="9 shots asked, but 4 of 4 classes have fewer"):
        data.few_shot(9)


def test_arrays_are_written_as_stores_and_come_back_as_directions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(3, 8))
    y = np.repeat([0, 1, 2], 10)
    X, names = centres[y] + rng.normal(size=(30, 8)), ["heron", "ibis", "stork"]
    lines = write_features(
        "birds", embedding=X, class_id=y, class_names=names, encoder="my-encoder", text_template=torch.tensor(centres),
        image_id=[f"{i}.jpg" for i in range(30)], cache=tmp_path, precision="float32",
    )  # fmt: skip
    assert "30 of 30 rows of embedding are not of length 1: each is divided by its length" in lines
    data = open_features(tmp_path, dataset="birds")
    assert (data.encoder, data.class_names) == ("my-encoder", ("heron", "ibis", "stork"))
    rows = [int(name.removesuffix(".jpg")) for name in data.train.image_ids]
    np.testing.assert_allclose(data.train.X, X[rows] / np.linalg.norm(X[rows], axis=1, keepdims=True), atol=1e-6)
    text = data.classes().templates
    assert text is not None
    np.testing.assert_allclose(text[:, 0], centres / np.linalg.norm(centres, axis=1, keepdims=True), atol=1e-6)
    assert [fault.text for fault in verify(tmp_path).faults] == []
    with pytest.raises(ValueError, match="text_template is 7 wide and embedding 8"):
        write_features(
            "more", embedding=X, class_id=y, encoder="my-encoder", text_template=np.ones((3, 7)), cache=tmp_path
        )
    assert not list(tmp_path.rglob("*more*")), "nothing is written of what is refused"


@pytest.mark.parametrize("name", ["aape", "aape-plus", "tip-adapter"])
def test_a_fit_gives_what_trainer_run_gives_but_for_the_rounding_of_float16(tmp_path: Path, name: str) -> None:
    make_stores(tmp_path)
    features = trainer_features.load_features(tmp_path, "w", "lite", device="cpu")
    train, val = few_shot(features, 4, seed=3)
    settings = {"epochs": 12, "lr": 0.05} if name == "aape" else {}
    [method] = methods([name], settings=TrainParams.model_validate(settings))
    theirs = method.fit(Task(features.text["llm"], train, val), seed=3)
    data = open_features(tmp_path, dataset="w")
    ours = classifier(name, random_state=3, **settings).fit(**data.few_shot(4, seed=3), text=data.classes())
    assert ours.calibration_ is not None
    logits = theirs.logits(features.val.images.embeddings.float(), features.text["llm"])
    assert ours.calibration_.temperature == pytest.approx(fit_temperature(logits, features.val.images.labels), rel=0.02)
    expected = (logits / ours.info_["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(ours.predict_proba(data.val.X), expected, atol=0.01)
    assert ours.info_.keys() == theirs.info.keys() | {"temperature"}
    again = load(ours.save(tmp_path / "saved") and tmp_path / "saved")
    np.testing.assert_allclose(again.predict_proba(data.val.X), ours.predict_proba(data.val.X), atol=1e-6)


def test_the_test_split_is_read_by_its_own_call_and_by_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stores(tmp_path)
    opened: list[str] = []
    whole = trainer_features.read_split

    def watched(store: object, split: str, *rest: object, **named: object) -> object:
        opened.append(split)
        return whole(store, split, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer_features, "read_split", watched)
    data = open_features(tmp_path, dataset="w", encoder="lite")
    AAPEPlusClassifier().fit(**data.few_shot(4), text=data.classes()).predict(data.val.X)
    assert opened == ["train", "val"]
    assert data.read_test_split_for_final_evaluation().X.shape == (48, WIDTH)
    assert opened == ["train", "val", "test"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    make_stores(tmp_path)
    with pytest.raises(
        ValueError, match="data set 'x' has no embedded images: run `pipeline embed-images --dataset x`"
    ):
        open_features(tmp_path, dataset="x")
    (tmp_path / "images/dataset=w/encoder=other").mkdir()
    (tmp_path / "images/dataset=w/encoder=other/part-0.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"embeddings of 2 encoders \(lite, other\): name one with encoder="):
        open_features(tmp_path, dataset="w")


def test_every_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_stores(tmp_path / "cache", dataset="clothes")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    for snippet in snippets:
        exec(compile(snippet, "docs/python.md", "exec"), names)
    assert len(snippets) >= 6
    assert (tmp_path / "head" / "checkpoint.json").exists()


def test_the_table_of_estimators_is_that_of_the_registry() -> None:
    rows = []
    for name in FITS_ALONE:
        method = CLASSES[name]()._method()
        reads = "images" if name in IMAGES_ALONE else "prompts, templates" if method.uses_prompts else "templates"
        serves = "yes" if method.serves_new_classes else "no"
        rows.append(f"| `{name}` | `{CLASSES[name].__name__}` | {reads} | {serves} |")
    assert re.findall(r"^\| `.*Classifier` .*$", DOC, re.MULTILINE) == rows
