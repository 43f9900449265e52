"""Sentences that a language model's have to beat, from the command to the prompt store."""

import json
from pathlib import Path

import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import classes_hash
from pipeline.prompts.controls import PAIRS, named, shuffled, waffle, words_of
from stages import ManifestProvenance, ManifestStore, PromptStore, UserError

NAMES = ["water lily", "sea_horse", "T-shirt"]
SENTENCES = {
    "water lily": ["A water lily floats.", "Water-lily leaves are round."],
    "sea_horse": ["A sea horse has a curled tail."],
    "T-shirt": ["Sleeves are short."],
}


def test_waffle_gives_every_class_the_same_random_words_and_characters() -> None:
    found = waffle(NAMES, "a photo of a {}.", words=words_of(SENTENCES))
    assert list(found) == NAMES
    tails = [[text.split(", which has ", 1)[1] for text in each] for each in found.values()]
    assert tails[0] == tails[1] == tails[2]
    assert len(tails[0]) == 2 * PAIRS
    assert found["sea_horse"][0].startswith("a photo of a sea horse, which has ")
    assert found == waffle(NAMES, "a photo of a {}.", words=words_of(SENTENCES))
    assert found != waffle(NAMES, "a photo of a {}.", words=words_of(SENTENCES), seed=2)
    alone = waffle(NAMES, "a photo of a {}.")
    assert len(alone["T-shirt"]) == 2 * PAIRS


def test_the_words_are_those_of_the_sentences_and_none_of_a_class_name() -> None:
    assert words_of(SENTENCES) == ["are", "curled", "floats", "has", "leaves", "round", "short", "sleeves", "tail"]


def test_shuffled_sentences_name_the_class_that_they_are_given_to() -> None:
    found = shuffled(SENTENCES)
    assert set(found) == set(SENTENCES)
    everything = [text for each in found.values() for text in each]
    assert len(everything) == 4
    keeper = next(name for name, texts in found.items() if any("floats" in text for text in texts))
    assert keeper != "water lily"
    own = keeper.replace("_", " ")
    assert found[keeper] == [f"A {own} floats.", f"{own} leaves are round."]
    unnamed = next(text for text in everything if "Sleeves" in text)
    assert unnamed.endswith(": Sleeves are short.")
    with pytest.raises(UserError, match="at least two classes"):
        shuffled({"a": ["b"]})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.text(max_size=12), min_size=1), min_size=2))
def test_no_class_keeps_its_own_sentences_whatever_they_are(given_: dict[str, list[str]]) -> None:
    marked = {name: [f"{i}-th: {text}" for text in texts] for i, (name, texts) in enumerate(given_.items())}
    found = shuffled(marked)
    assert set(found) == set(marked)
    assert sum(map(len, found.values())) == sum(map(len, marked.values()))


def test_further_names_stand_in_every_template_after_the_own_one() -> None:
    found = named({"maillot": ["tank suit", "maillot"]}, ["a photo of a {}.", "art of a {}."])
    assert found["maillot"] == [
        "a photo of a maillot.", "art of a maillot.", "a photo of a tank suit.", "art of a tank suit.",
    ]  # fmt: skip


def test_the_command_writes_a_file_that_import_prompts_takes(tmp_path: Path, typed: Command) -> None:
    names = dict(enumerate(NAMES))
    rows = [{"image_id": str(i), "path": str(i), "class_id": i, "split": "train"} for i in names]
    import pyarrow as pa

    origin = ManifestProvenance(
        dataset="d", content="", inputs={"classes": classes_hash(names)}, class_names=names
    )  # fmt: skip
    store = ManifestStore(tmp_path / "cache", "d")
    store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)
    (tmp_path / "s.json").write_text(json.dumps(SENTENCES))
    for kind, kept in (("waffle", 3 * 2 * PAIRS), ("shuffled", 4), ("names", 3 + 4)):
        said = typed(
            "pipeline", "control-sentences", kind, "--dataset", "d", "--file", "s.json", "--out", f"{kind}.json",
            cwd=tmp_path,
        ).stderr  # fmt: skip
        words = said.strip().splitlines()[-1].split("`")[1].split()
        typed(*words, cwd=tmp_path)
        assert len(PromptStore(tmp_path / "cache", "d", kind).read()) == kept
    typed("pipeline", "control-sentences", "waffle", "--dataset", "d", "--out", "w.json", cwd=tmp_path)
    said = typed("pipeline", "control-sentences", "names", "--dataset", "d", "--out", "x.json", cwd=tmp_path, code=2)
    assert "names needs --file: JSON {class: [name, ...]}" in said.stderr
