"""params.yaml: every fault is reported, together, with its path and value; shipped files are sound."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages import UserError
from stages.params import EvaluationParams, Params, changed, check, load_params
from stages.training import TrainParams

ROOT = Path(__file__).parents[2]


def test_the_shipped_settings_are_sound() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.datasets == ["textile", "caltech101", "coco-small"]
    assert params.of("caltech101").source == "examples/caltech101"


@pytest.mark.parametrize("file", ["params.yaml", "pipeline/project/templates/params.yaml"])
def test_the_settings_of_training_that_are_listed_are_the_defaults(file: str) -> None:
    text = (ROOT / file).read_text()
    listed = yaml.safe_load(text[text.index("\ntrain:") :])["train"]
    defaults = TrainParams().model_dump(by_alias=True)
    assert listed == {key: defaults[key] for key in listed}
    assert {"lambda", "lr", "epochs", "hidden", "head", "aggregator", "query", "tau", "class_text"} <= set(listed)


def test_all_faults_are_reported_together_with_path_and_value(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("encodr: lite\nevaluation: {shots: many}\ndata: {a: {samples: 0, templates: [no gap]}}\n")
    with pytest.raises(UserError) as caught:
        load_params(file)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert str(file) in message
    assert "encodr: unknown key" in message
    assert "did you mean 'encoder'" in message
    assert "evaluation.shots" in message
    assert "'many'" in message
    assert "data.a.samples" in message
    assert "data.a.templates" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1,\n", "line 2"),
        ("datasets: [x]\ndatasets: [y]\n", "stands twice"),
        ("!!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("- 1\n- 2\n", "top level"),
        ("datasets: ['../x']\n", "data-set name"),
        ("data: {a: {split: {train: 0.9, val: 0.1, test: 0.4}}}\n", "must be 1"),
        ("? [a, b]\n: 1\n", "line 1, column 3: a key must be a word, not a list"),
        ("? {a: b}\n: 1\n", "a key must be a word"),
        ("a: " + 3000 * "[" + 3000 * "]", "too deep"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("a: 2001-99-99\n", "month must be in"),
        ("a: !!bool x\n", "params.yaml: "),
        ("evaluation: {seeds: [-1]}\n", r"evaluation.seeds.0: .*found -1"),
        ("evaluation: {seeds: [18446744073709551616]}\n", r"evaluation.seeds.0: .*found 18446744073709551616"),
        ("evaluation: {seeds: [1, 2, 1]}\n", "evaluation.seeds: 1 stands twice"),
        ("evaluation: {shots: []}\n", "evaluation.shots"),
        ("evaluation: {targets: [../x]}\n", "data-set name '../x'"),
        ("evaluation: {shifts: {a: [b/c]}}\n", "data-set name 'b/c'"),
        ("train: {hidden: 10000000000000000000000000}\n", "train.hidden: .*less than or equal to 65536"),
        ("train: {tau: .inf}\n", "train.tau"),
        ("train: {lr_grid: [.nan]}\n", "train.lr_grid.0: .*finite number"),
        ("train: {lambda: 1e999}\n", "train.lambda"),
    ],
)
def test_a_malformed_file_gets_one_clear_line(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=part) as caught:
        load_params(file)
    assert len(str(caught.value)) < 600


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {lr: 1e-3, lr_grid: [2E-2, 5], weight_decay: 0}\n")
    train = load_params(tmp_path / "params.yaml").train
    assert (train.lr, train.lr_grid, train.weight_decay) == (0.001, [0.02, 5.0], 0.0)


def test_many_faults_are_counted_and_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("datasets: [" + "1, " * 500 + "1]\n")
    with pytest.raises(UserError, match="and 481 more"):
        load_params(file)
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    file.write_text(bomb + "datasets: *a11\n")
    with pytest.raises(UserError, match="datasets"):
        load_params(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: not found"):
        load_params(tmp_path / "nowhere.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_structure_is_accepted_or_refused_in_words(raw: object) -> None:
    try:
        check(Params, raw, where="x")
    except UserError as error:
        message = str(error)
    else:
        message = "x: fine"
    assert message.startswith("x: ")


def test_a_data_set_may_have_seeds_of_its_own() -> None:
    asked = EvaluationParams.model_validate({"seeds": [1, 2], "seeds_of": {"weaves": [1, 2, 3, 4]}})
    assert asked.seeds_for("weaves") == [1, 2, 3, 4]
    assert asked.seeds_for("other") == [1, 2]
    with pytest.raises(ValueError, match="4 stands twice"):
        EvaluationParams.model_validate({"seeds_of": {"weaves": [4, 4]}})


def test_seeds_on_a_line_or_in_a_study_hold_for_data_sets_with_seeds_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("evaluation: {seeds: [1], seeds_of: {w: [4, 5]}}\n")
    params = load_params(file)
    assert params.evaluation.seeds_for("w") == [4, 5]
    assert load_params(file, {"evaluation.seeds": [7]}).evaluation.seeds_for("w") == [7]
    assert changed(params, {"evaluation.seeds": [7]}, where="point 1").evaluation.seeds_for("w") == [7]
    both = load_params(file, {"evaluation.seeds": [7], "evaluation.seeds_of": {"w": [8]}})
    assert (both.evaluation.seeds_for("w"), both.evaluation.seeds_for("v")) == ([8], [7])
