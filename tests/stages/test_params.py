"""params.yaml: every fault is reported, together, with its path and value; shipped files are sound."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import UserError
from stages.params import Params, check, load_params

ROOT = Path(__file__).parents[2]


def test_the_shipped_settings_are_sound() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.datasets == ["textile", "caltech101"]
    assert params.of("caltech101").source == "examples/caltech101"


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
    ],
)
def test_a_malformed_file_gets_one_clear_line(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=part):
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
