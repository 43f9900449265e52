"""Spellings of one class are one class, said; where two may be meant nothing is decided for the user."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.class_names import join_spellings, spelling_key, tidy


def test_capitals_spaces_and_unicode_forms_are_one_class_and_the_line_names_the_spelling_kept() -> None:
    names = {"Cat": 3, "cat": 5, " cat ": 1, "caf\u00e9": 2, "cafe\u0301": 4, "dog": 2}
    mapping, lines = join_spellings({None: names})
    assert mapping == {
        "Cat": "cat", "cat": "cat", " cat ": "cat", "caf\u00e9": "caf\u00e9", "cafe\u0301": "caf\u00e9", "dog": "dog",
    }  # fmt: skip
    assert len(lines) == 1
    assert lines[0].startswith("2 classes stand there in several spellings")
    assert "'cat' (also ' cat ', 'Cat')" in lines[0]
    assert "6 images take" in lines[0]


def test_the_spelling_of_the_training_images_is_kept() -> None:
    mapping, _ = join_spellings({"train": {"Cat": 3}, "test": {"cat": 50}})
    assert set(mapping.values()) == {"Cat"}


def test_a_name_in_one_spelling_needs_no_line() -> None:
    assert join_spellings({"train": {"Cat": 1, "dog": 1}, "test": {"Cat": 1}}) == ({"Cat": "Cat", "dog": "dog"}, [])
    assert join_spellings({None: {"cafe\u0301 ": 1}}) == ({"cafe\u0301 ": "caf\u00e9"}, [])


@pytest.mark.parametrize("pair", [("bird_house", "bird house"), ("straße", "strasse"), ("x²", "x2"), ("cat", "cats")])
def test_names_that_differ_by_more_stay_two(pair: tuple[str, str]) -> None:
    mapping, lines = join_spellings({None: dict.fromkeys(pair, 1)})
    assert (mapping, lines) == ({name: name for name in pair}, [])


def test_letters_may_be_two_classes_and_the_user_says_which() -> None:
    letters = {None: {"A": 1, "a": 1}}
    with pytest.raises(ValueError, match=r"'A' and 'a' differ in capitals.*may be two letters.*class_names"):
        join_spellings(letters)
    assert join_spellings(letters, {"A": "capital A", "a": "small a"})[0] == {"A": "capital A", "a": "small a"}
    assert set(join_spellings(letters, {"A": "A", "a": "A"})[0].values()) == {"A"}
    mapping, lines = join_spellings(letters, ids={"A": 10, "a": 36})
    assert mapping == {"A": "A", "a": "a"}
    assert "'A' and 'a'" in lines[0]


def test_words_with_two_class_ids_are_refused_until_the_user_names_them() -> None:
    words = {None: {"Turkey": 1, "turkey": 1}}
    with pytest.raises(ValueError, match="they have the class ids 3, 8"):
        join_spellings(words, ids={"Turkey": 3, "turkey": 8})
    named = {"Turkey": "Turkey, the country", "turkey": "turkey, the bird"}
    assert join_spellings(words, named, ids={"Turkey": 3, "turkey": 8})[0] == named
    assert set(join_spellings(words, ids={"Turkey": 3, "turkey": 3})[0].values()) == {"turkey"}


def test_class_names_of_the_settings_decide_and_a_strange_one_is_refused() -> None:
    names = {"train": {"cafe\u0301": 2}, "test": {"Caf\u00e9": 1}}
    assert set(join_spellings(names, {"caf\u00e9": "coffee house"})[0].values()) == {"coffee house"}
    with pytest.raises(ValueError, match=r"class_names has 'caffè'.* did you mean 'café'"):
        join_spellings(names, {"caffè": "x"})
    with pytest.raises(ValueError, match="names only some of them"):
        join_spellings({None: {"Cat": 1, "cat": 1, "CAT": 1}}, {"Cat": "a", "cat": "b"})


def test_many_joined_classes_are_one_line() -> None:
    names = {form(f"class {i}"): 1 for i in range(900) for form in (str.lower, str.upper)}
    _, lines = join_spellings({None: names})
    assert len(lines) == 1
    assert "900 classes" in lines[0]
    assert "and 895 more" in lines[0]


@given(st.dictionaries(st.sampled_from([None, "train", "val", "test"]), st.dictionaries(st.text(), st.integers(1, 9))))
def test_every_name_has_one_class_and_only_spellings_share_one(names: dict[str | None, dict[str, int]]) -> None:
    caught, mapping, lines = "", {}, []
    try:
        mapping, lines = join_spellings(names)
    except ValueError as error:
        caught = str(error)
    if caught:
        assert "class_names" in caught
        return
    found = {name for counts in names.values() for name in counts}
    assert mapping.keys() == found
    assert bool(lines) == (len(set(mapping.values())) < len(found))
    for name, kept in mapping.items():
        assert spelling_key(kept) == spelling_key(name)
        assert tidy(kept) == kept == unicodedata.normalize("NFC", kept)
