"""Names become folders without surprises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import UserError, display_name, slug
from stages.names import dataset_name, is_left_behind


def test_an_encoder_name_becomes_a_folder_name() -> None:
    assert slug("open_clip:ViT-B-16/openai") == "open_clip-ViT-B-16-openai"
    assert slug("meta-llama/Meta-Llama-3-8B-Instruct") == "meta-llama-Meta-Llama-3-8B-Instruct"


@given(st.text())
def test_a_slug_is_one_folder_and_stays_itself(name: str) -> None:
    try:
        found = slug(name)
    except UserError:
        return
    assert "/" not in found
    assert "\\" not in found
    assert found not in (".", "..")
    assert slug(found) == found


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x'; DROP", "-x", "é", "a\nb"])
def test_a_dangerous_dataset_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="data-set name"):
        dataset_name(name)


@given(st.text())
def test_a_display_name_has_no_control_character_and_single_spaces(name: str) -> None:
    found = display_name(name)
    assert found == " ".join(found.split())
    assert "_" not in found
    assert found.isprintable() or not found


def test_what_systems_leave_behind_is_told_from_what_people_name() -> None:
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "Thumbs.db", "thumbs.db", "._cat.jpg", "$RECYCLE.BIN"):
        assert is_left_behind(name), name
    for name in ("cat", "macosx", "_", "thumbs", "eaDir", "recycle"):
        assert not is_left_behind(name), name
