"""The front door: scikit-learn's own checks, cosines in place of lengths, the same bytes, nothing heavy loaded."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from small_arrays import NAMES, WIDTH, small

import aape
from aape import AAPEClassifier, AAPEPlusClassifier, Classes, MethodClassifier, classifier
from aape.estimators import CLASSES
from stages.training import TrainParams
from trainer.checkpoint import save_checkpoint
from trainer.methods import FITS_ALONE

ROOT = Path(__file__).parents[2]
FAST: dict[str, Any] = {"epochs": 3, "lr": 0.05, "aggregator_steps": 1, "hidden": 8, "heads": 1, "feed_forward": 8}
EXPECTED = {
    "check_estimators_dtypes": "its data hold a zero vector, which has no direction and is refused",
    "check_methods_subset_invariance": "it asks for seven digits; scores are float32 and agree to six",
}
DATA = small()


def fast(name: str) -> Any:
    """An estimator that fits in a moment."""
    return classifier(name, **(FAST if issubclass(CLASSES[name], AAPEClassifier) else {}))


@pytest.mark.parametrize("name", ["aape-plus", "aape", "zero-shot", "gda"])
def test_scikit_learn_finds_nothing_to_complain_of_but_what_is_listed(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(fast(name), on_fail=None, on_skip=None, expected_failed_checks=EXPECTED)
    failed = [f"{each['check_name']}: {each['exception']}" for each in found if each["status"] == "failed"]
    assert not failed
    assert {each["check_name"] for each in found if each["status"] == "xfail"} == set(EXPECTED), "the list is not stale"
    assert sum(each["status"] == "passed" for each in found) > 45


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_of_the_registry_fits_predicts_and_comes_back(name: str, tmp_path: Path) -> None:
    made = fast(name).fit(DATA.X, DATA.y, **DATA.text, X_val=DATA.X_new[::5], y_val=DATA.y_new[::5])
    assert made.text_source_ == "templates and prompts"
    assert made.score(DATA.X_new, DATA.y_new) > 0.3, "some start far from zero-shot and learn for a moment only"
    proba = made.predict_proba(DATA.X_new)
    assert proba.shape == (40, 4)
    assert np.allclose(proba.sum(1), 1)
    assert (made.predict(DATA.X_new) == proba.argmax(1)).all()
    made.save(tmp_path / "head")
    for again in (
        aape.load(tmp_path / "head"),
        type(made).load(tmp_path / "head"),
        MethodClassifier.load(tmp_path / "head"),
    ):
        np.testing.assert_allclose(again.decision_function(DATA.X_new), made.decision_function(DATA.X_new), rtol=1e-5)
        assert again.get_params(deep=False)["random_state"] == 1
    assert aape.load(tmp_path / "head").get_params() == made.get_params()
    assert issubclass(type(made), getattr(aape, type(made).__name__)), "each has a class of its own"


def test_the_arguments_of_aape_are_the_train_settings() -> None:
    given = {name: p.default for name, p in inspect.signature(AAPEClassifier).parameters.items()}
    of_classes = [name for name in TrainParams.model_fields if name not in ("captions", "language")]
    defaults = {name: getattr(TrainParams(), name) for name in of_classes}
    given["lr_grid"] = list(given["lr_grid"])
    assert {name: given[name] for name in defaults} == defaults
    assert set(given) == {*defaults, "random_state", "device"}


@pytest.mark.parametrize("name", ["aape", "aape-plus", "zero-shot", "tip-adapter", "gda"])
def test_lengths_say_nothing(name: str) -> None:
    made, text = fast(name).fit(DATA.X, DATA.y, **DATA.text), DATA.text
    lengths = np.random.default_rng(1).uniform(0.01, 100, size=(len(DATA.X), 1))
    scaled = {
        "class_names": NAMES,
        "templates": 3 * text["templates"],
        "prompts": [c * p for c, p in enumerate(text["prompts"], 1)],
    }  # fmt: skip
    other = fast(name).fit(lengths * DATA.X, DATA.y, **scaled)
    expected = made.decision_function(DATA.X_new)
    np.testing.assert_allclose(other.decision_function(1e30 * DATA.X_new), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(made.decision_function(1e-30 * DATA.X_new), expected, rtol=1e-6)
    assert (made.decision_function(4 * DATA.X_new) == expected).all(), "a power of two does not even round"


def test_the_same_random_state_gives_the_same_bytes(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for count, name in enumerate("ab", 1):
        torch.set_num_threads(count)
        AAPEClassifier(random_state=3, **FAST).fit(DATA.X, DATA.y, **DATA.text).save(tmp_path / name)
        assert torch.get_num_threads() == count, "the caller's threads are as before"
    torch.set_num_threads(threads)
    for file in ("checkpoint.json", "checkpoint.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    drawn = [AAPEPlusClassifier(random_state=np.random.RandomState(5)).fit(DATA.X, DATA.y, **DATA.text) for _ in "ab"]
    assert drawn[0].seed_ == drawn[1].seed_


def test_tensors_half_precision_strides_and_lists_are_taken() -> None:
    made = AAPEPlusClassifier().fit(DATA.X, DATA.y, **DATA.text)
    expected = made.decision_function(DATA.X_new)
    T, P = torch.tensor(DATA.text["templates"]), [torch.tensor(p) for p in DATA.text["prompts"]]
    tensors = AAPEPlusClassifier().fit(
        torch.tensor(DATA.X, requires_grad=True), torch.tensor(DATA.y), class_names=NAMES, templates=T, prompts=P
    )
    np.testing.assert_array_equal(tensors.decision_function(torch.tensor(DATA.X_new)), expected)
    assert tensors.score(torch.tensor(DATA.X_new), torch.tensor(DATA.y_new)) == made.score(DATA.X_new, DATA.y_new)
    wide = np.asfortranarray(np.repeat(DATA.X_new, 2, axis=0))[::2]
    np.testing.assert_array_equal(made.decision_function(wide), expected)
    for half in (DATA.X_new.astype(np.float16), torch.tensor(DATA.X_new).half(), torch.tensor(DATA.X_new).bfloat16()):
        np.testing.assert_allclose(made.decision_function(half), expected, atol=2, rtol=0.05)
    np.testing.assert_array_equal(made.decision_function(DATA.X_new.tolist()), expected)
    assert isinstance(tensors.predict(torch.tensor(DATA.X_new)), np.ndarray)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", ["aape", "aape-plus", "gda", "logistic"])
def test_tensors_of_any_device_are_taken_and_any_device_computes(name: str, device: str) -> None:
    text = {**DATA.text, "templates": torch.tensor(DATA.text["templates"], device=device)}
    made = fast(name).set_params(device=device).fit(torch.tensor(DATA.X, device=device), DATA.y, **text)
    assert made.text_.template.device.type == device
    found = made.predict(torch.tensor(DATA.X_new, device=device))
    assert (found == fast(name).fit(DATA.X, DATA.y, **DATA.text).predict(DATA.X_new)).mean() > 0.9
    with pytest.raises(ValueError, match="device 'abacus': no device of torch"):
        fast(name).set_params(device="abacus").fit(DATA.X, DATA.y)


def test_labels_may_be_strings_or_have_gaps() -> None:
    numbers = AAPEPlusClassifier().fit(DATA.X, DATA.y, **DATA.text)
    names = np.array(NAMES)
    shuffled = [2, 0, 3, 1]  # strings find their text by name, wherever it stands
    text = {
        "class_names": [NAMES[i] for i in shuffled], "templates": DATA.text["templates"][shuffled],
        "prompts": [DATA.text["prompts"][i] for i in shuffled],
    }  # fmt: skip
    strings = AAPEPlusClassifier().fit(DATA.X, names[DATA.y], **text)
    assert (strings.predict(DATA.X_new) == names[numbers.predict(DATA.X_new)]).all()
    ids = np.array([30, 7, 21, 4])
    by_id = {**DATA.text, "class_names": dict(zip(ids.tolist(), NAMES, strict=True))}
    mapped = AAPEPlusClassifier().fit(DATA.X, ids[DATA.y], **by_id)
    assert (mapped.predict(DATA.X_new) == ids[numbers.predict(DATA.X_new)]).all()
    assert mapped.classes_.tolist() == [4, 7, 21, 30]
    kept = DATA.y != 1
    with pytest.warns(UserWarning, match=r"1 of 4 named classes have no sample in y .* \(first: 'dog'\)"):
        gap = AAPEPlusClassifier().fit(DATA.X[kept], DATA.y[kept], **DATA.text)
    assert gap.classes_.tolist() == [0, 2, 3]
    assert gap.score(DATA.X_new[DATA.y_new != 1], DATA.y_new[DATA.y_new != 1]) > 0.6


def test_without_text_the_mean_images_stand_in_and_it_says_so() -> None:
    with pytest.warns(
        UserWarning, match="AAPEClassifier was given no class text: the mean image of each class"
    ) as said:
        made = AAPEClassifier(**FAST).fit(DATA.X, DATA.y)
    assert len(said) == 1
    assert made.text_source_ == "image prototypes"
    assert made.score(DATA.X_new, DATA.y_new) > 0.6
    with pytest.warns(UserWarning, match="reads reference prompts and was given none: the template"):
        made = AAPEClassifier(**FAST).fit(DATA.X, DATA.y, class_names=NAMES, templates=DATA.text["templates"])
    assert made.text_source_ == "templates"
    made = AAPEPlusClassifier().fit(DATA.X, DATA.y, prompts=DATA.text["prompts"])
    assert made.text_source_ == "prompts"
    assert classifier("logistic").fit(DATA.X, DATA.y).score(DATA.X_new, DATA.y_new) > 0.6, "reads none and misses none"


def test_classes_never_seen_are_served_by_their_text() -> None:
    base = DATA.y < 2
    T, P = DATA.text["templates"], DATA.text["prompts"]
    made = AAPEPlusClassifier().fit(DATA.X[base], DATA.y[base], class_names=NAMES[:2], templates=T[:2], prompts=P[:2])
    new = Classes(NAMES[2:], T[2:], P[2:])
    judged = DATA.y_new >= 2
    found = made.predict(DATA.X_new[judged], text=new)
    assert (found == np.array(NAMES)[DATA.y_new[judged]]).mean() > 0.8
    assert made.predict_proba(DATA.X_new, text=Classes(NAMES, T, P)).shape == (40, 4)
    labelled = made.predict(DATA.X_new[judged], text=Classes({2: "emu", 3: "fox"}, T[2:], P[2:]))
    assert (labelled == DATA.y_new[judged]).mean() > 0.8
    with pytest.raises(ValueError, match="LogisticClassifier knows only the classes of y; text can be given to: aape"):
        classifier("logistic").fit(DATA.X, DATA.y, **DATA.text).predict(DATA.X_new, text=new)
    with pytest.raises(ValueError, match="needs templates or prompts beside the names"):
        made.predict(DATA.X_new, text=Classes(["gnu"]))
    with pytest.raises(ValueError, match="text has 3 features, but AAPEPlusClassifier is expecting 12 features"):
        made.predict(DATA.X_new, text=Classes(["gnu", "owl"], np.eye(3)[:2]))


def test_it_works_in_pipelines_and_searches() -> None:
    text = Classes(NAMES, DATA.text["templates"], DATA.text["prompts"])
    search = GridSearchCV(AAPEClassifier(**FAST), {"lambda_": np.array([1.0, 5.0]), "hidden": np.array([4])}, cv=2)
    search.fit(DATA.X, DATA.y, text=text)
    assert search.best_params_["lambda_"] in (1, 5)
    assert search.score(DATA.X_new, DATA.y_new) > 0.6
    line = make_pipeline(FunctionTransformer(), AAPEPlusClassifier())
    line.fit(DATA.X, DATA.y, aapeplusclassifier__text=text)
    assert line.score(DATA.X_new, DATA.y_new) > 0.6
    assert cross_val_score(AAPEPlusClassifier(), DATA.X, DATA.y, cv=2, params={"text": text}).mean() > 0.6
    twin = clone(AAPEClassifier(lambda_=2.0, lr_grid=(0.1,)))
    assert twin.get_params()["lambda_"] == 2
    assert twin.set_params(hidden=4).hidden == 4
    assert not hasattr(twin, "predictor_")


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("NaN", {"X": np.where(DATA.X > 2, np.nan, DATA.X)}, "Input X contains NaN"),
    ("infinity", {"X": np.where(DATA.X > 2, np.inf, DATA.X)}, "Input X contains infinity"),
    (
        "zeros",
        {"X": np.where(np.arange(24)[:, None] == 5, 0, DATA.X)},
        r"Input X contains 1 zero vectors \(first: row 5\)",
    ),
    (
        "one class",
        {"y": np.zeros(24, int)},
        "needs samples of at least 2 classes, but the data contains only one class: 0",
    ),
    (
        "no name",
        {"class_names": NAMES[:3], "templates": None, "prompts": None},
        r"1 classes of y have no name \(first: 3\)",
    ),
    ("names", {"y": np.array(["cat", "dog", "emu", "gnu"])[DATA.y]}, r"no name \(first: 'gnu'\)"),
    ("name twice", {"class_names": ["cat", "dog", "emu", "dog"]}, "class_names has 'dog' more than once"),
    ("no string", {"class_names": ["cat", "dog", "emu", 3]}, "must be a list of strings, got 3"),
    ("prompt count", {"prompts": DATA.text["prompts"][:3]}, "Found prompts for 3 classes, but 4 classes are named"),
    ("no prompt", {"prompts": [*DATA.text["prompts"][:3], np.zeros((0, WIDTH))]}, r"missing for 1 of 4 .* 'fox'"),
    ("template count", {"templates": DATA.text["templates"][:2]}, "Found templates for 2 classes, but 4"),
    ("template NaN", {"templates": DATA.text["templates"] * np.nan}, "Input templates contains NaN"),
    ("prompt NaN", {"prompts": [*DATA.text["prompts"][:3], np.full((1, WIDTH), np.nan)]}, r"prompts\[3\] contains NaN"),
    ("template width", {"templates": DATA.text["templates"][:, :5]}, "templates have 5 features and prompts have 12"),
    (
        "prompt width",
        {"prompts": [*DATA.text["prompts"][:3], np.ones((2, 5))]},
        r"prompts\[3\] has 5 features, but prompts\[0",
    ),
    ("width", {"X": DATA.X[:, :5]}, "X has 5 features, but templates and prompts have 12: all must come from the same"),
    ("samples", {"y": DATA.y[:-1]}, "inconsistent numbers of samples"),
    ("regression", {"y": DATA.X[:, 0]}, "Unknown label type"),
    ("1D", {"X": DATA.X[:, 0]}, "Expected 2D array, got 1D array"),
    ("4D", {"templates": np.ones((4, 1, 1, WIDTH))}, "Expected 2D or 3D array for templates, got 4D"),
    ("val", {"X_val": DATA.X}, "X_val and y_val belong together"),
    ("val class", {"X_val": DATA.X, "y_val": DATA.y + 1}, "y_val holds class 4, which y does not"),
    (
        "val width",
        {"X_val": DATA.X[:, :5], "y_val": DATA.y},
        "X has 5 features, but AAPEPlusClassifier is expecting 12",
    ),
    ("both", {"text": Classes(NAMES)}, "give either text or these"),
]


@pytest.mark.parametrize(("changed", "message"), [pytest.param(*rest, id=name) for name, *rest in BAD])
def test_what_cannot_be_learned_from_is_refused_in_scikit_learns_words(changed: dict[str, Any], message: str) -> None:
    given = {"X": DATA.X, "y": DATA.y, **DATA.text, **changed}
    with pytest.raises(ValueError, match=message):
        AAPEPlusClassifier().fit(**given)


def test_predicting_refuses_another_width_and_settings_are_checked() -> None:
    made = AAPEPlusClassifier().fit(DATA.X, DATA.y, **DATA.text)
    with pytest.raises(ValueError, match="X has 5 features, but AAPEPlusClassifier is expecting 12 features as input"):
        made.predict(DATA.X_new[:, :5])
    with pytest.raises(ValueError, match=r"hidden=0: Input should be greater than or equal to 1"):
        AAPEClassifier(hidden=0).fit(DATA.X, DATA.y, **DATA.text)
    with pytest.raises(ValueError, match=r"unknown method 'gad'; known: .* did you mean 'gda'"):
        classifier("gad")


def test_a_saved_estimator_keeps_labels_arguments_and_text_or_is_refused(tmp_path: Path) -> None:
    ids = np.array([30, 7, 21, 4], dtype=np.int16)
    text = {**DATA.text, "class_names": dict(zip(ids.tolist(), NAMES, strict=True))}
    made = AAPEClassifier(lambda_=2.0, lr_grid=(0.05,), epochs=2, aggregator_steps=1).fit(DATA.X, ids[DATA.y], **text)
    made.save(tmp_path / "head")
    again = AAPEClassifier.load(tmp_path / "head")
    assert (again.predict(DATA.X_new) == made.predict(DATA.X_new)).all()
    assert again.classes_.dtype == np.int16
    assert (again.lambda_, again.epochs, again.text_source_) == (2, 2, "templates and prompts")
    assert again.text_.names == made.text_.names
    assert not list(tmp_path.rglob("*.pkl"))
    with pytest.raises(ValueError, match=r"the checkpoint is of method 'aape', which AAPEClassifier.load reads"):
        AAPEPlusClassifier.load(tmp_path / "head")
    with pytest.raises(ValueError, match="no checkpoint in"):
        aape.load(tmp_path / "nothing")
    (tmp_path / "head" / "checkpoint.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="it was cut off, changed or belongs to another checkpoint"):
        aape.load(tmp_path / "head")


def test_a_checkpoint_of_trainer_run_is_an_estimator_whose_labels_are_the_class_names(tmp_path: Path) -> None:
    made = AAPEPlusClassifier().fit(DATA.X, DATA.y, **DATA.text)
    about = {"encoder": "lite", "encoder_fingerprint": "f", "width": WIDTH, "method": "aape-plus", "seed": 2}
    save_checkpoint(tmp_path, made.predictor_, made.text_, provenance=about)
    again = aape.load(tmp_path)
    assert isinstance(again, AAPEPlusClassifier)
    assert (again.predict(DATA.X_new) == np.array(NAMES)[made.predict(DATA.X_new)]).all()
    assert again.seed_ == 2
    settings = {"lr_grid": (0.05,), "hidden": np.int64(4), "epochs": 2, "aggregator_steps": 1}
    MethodClassifier("aape", settings=settings).fit(DATA.X, DATA.y, **DATA.text).save(tmp_path / "settings")
    assert aape.load(tmp_path / "settings").get_params()["hidden"] == 4
    assert MethodClassifier.load(tmp_path / "settings").settings["lr_grid"] == [0.05]


def test_nothing_heavy_is_loaded_by_the_import_or_a_fit() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import aape
from small_arrays import small
data = small()
aape.AAPEPlusClassifier().fit(data.X, data.y, **data.text).predict(data.X_new)
aape.AAPEClassifier(epochs=2, aggregator_steps=1).fit(data.X, data.y, **data.text)
heavy = ["vllm", "dvc", "open_clip", "transformers", "duckdb", "torchvision", "timm", "openai", "matplotlib", "faiss"]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
