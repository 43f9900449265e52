"""Sentences from files and from the captions of the manifest, well formed and hostile."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Command
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.cli import prompts as command_line
from pipeline.ingest import classes_hash
from pipeline.prompts.importing import import_captions, import_prompts, match
from pipeline.prompts.sentence_files import LONGEST, read_sentences
from stages import ManifestProvenance, ManifestStore, PromptStore, UserError

NAMES = {0: "water lilly", 1: "Sea_horse", 2: "T-shirt"}
Captions = Mapping[str, list[str] | None]


def manifest(cache: Path, names: Mapping[int, str] = NAMES, captions: Captions | None = None) -> None:
    captions = captions or {f"{i}.png": None for i in names}
    ids = list(names) or [None]
    rows = [
        {"image_id": image, "path": image, "class_id": ids[k % len(ids)], "split": "test", "captions": each}
        for k, (image, each) in enumerate(captions.items())
    ]
    inputs = {"classes": classes_hash(dict(names))}
    origin = ManifestProvenance(dataset="d", content="", inputs=inputs, class_names=dict(names))
    store = ManifestStore(cache, "d")
    store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)


def rows(cache: Path, source: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = PromptStore(cache, "d", source).read().to_pylist()
    return found


def test_class_names_match_blind_to_case_and_separators_and_others_are_said(tmp_path: Path) -> None:
    manifest(tmp_path)
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"T shirt": ["a", "b"], "WATER-LILLY": [" c\n d "], "seahorse": ["A."], "dog": ["e"]}))
    summary = import_prompts("d", "people", file, cache=tmp_path)
    assert [(row["class_id"], row["text"]) for row in rows(tmp_path, "people")] == [
        (0, "c d"), (1, "A."), (2, "a"), (2, "b"),
    ]  # fmt: skip
    assert summary.ignored == ["dog"]
    assert (summary.asked, summary.kept, summary.short) == (4, 4, [])


def test_both_sides_of_a_mismatch_are_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        match(NAMES, {"t-shirts": ["x"], "seahorse": ["x"], "dog": ["x"]}, where="f.json")
    assert str(caught.value) == (
        "f.json: no sentence for 2 of 3 classes: 'water lilly', 'T-shirt' (like 't-shirts'); "
        "left over in the file: 'dog', 't-shirts'; give the file the class names of the data set"
    )
    with pytest.raises(UserError, match="'T shirt' and 't_shirt' are both the class 'T-shirt'"):
        match(NAMES, {"T shirt": ["x"], "t_shirt": ["x"], "seahorse": ["x"], "water lilly": ["x"]}, where="f.json")


@pytest.mark.parametrize("text", [
    "class,sentence\ncat,A cat.\ncat,\"A cat, too.\"\n\ndog,A dog.\n",
    "\ufeffLabel;Prompt;by\r\ncat;A cat.;x\r\ncat;A cat, too.;x\r\ndog;A dog.;x\r\n",
    "description\tsplit\tClass_Name\nA cat.\ta\tcat\nA cat, too.\ta\tcat \nA dog.\ta\tdog",
])  # fmt: skip
def test_a_table_of_sentences_is_read_by_the_names_of_its_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.csv").write_bytes(text.encode())
    assert read_sentences(tmp_path / "s.csv") == {"cat": ["A cat.", "A cat, too."], "dog": ["A dog."]}


@pytest.mark.parametrize(("name", "content", "part"), [
    ("s.csv", b"", "no column class or class_name"),
    ("s.csv", b"class,sentence\n", "there is no sentence in it"),
    ("s.csv", b"image,sentence\na,b\n", "no column class .* in the header 'image,sentence'"),
    ("s.csv", b"class,words\na,b\n", "no column sentence or prompt"),
    ("s.csv", b"class,sentence\ncat,A cat.\ncat,A cat, too.\n", "line 3: 3 columns, the header has 2"),
    ("s.csv", b"class,sentence\ncat, \n", "line 2: the sentence is empty"),
    ("s.csv", b"class,sentence\n,A cat.\n", "line 2: the class is empty"),
    ("s.csv", b'class,sentence\ncat,"A cat.\n', "line 2: unexpected end of data"),
    ("s.csv", b"class,sentence\ncat," + b"a" * 10_000_000, "line 2: field larger than field limit"),
    ("s.csv", b"class,sentence\ncat,\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    ("s.json", "{}".encode("utf-16"), "line 1: NUL bytes or UTF-16"),
    ("s.json", b"", "not readable as JSON"),
    ("s.json", b"{}", "there is no sentence in it"),
    ("s.json", b'["a"]', "expected an object .* found"),
    ("s.json", b'{"cat": []}', r"'cat' must be a list of sentences, found \[\]"),
    ("s.json", b'{"cat": "A cat."}', "'cat' must be a list of sentences, found 'A cat.'"),
    ("s.json", b'{"cat": ["A cat.", 7]}', "'cat' must be a list of sentences, number 2 is 7"),
    ("s.json", b'{"cat": ["A cat.", " "]}', "number 2 is empty"),
    ("s.json", b'{"cat": ["' + b"a" * 10_000_000 + b'"]}', f"10000000 characters, expected at most {LONGEST}"),
    ("s.json", b'{"cat": ["A."], "cat": ["B."]}', "'cat' stands there twice"),
    ("s.json", b'{"cat": ' + b"[" * 100_000, "not readable as JSON"),
    ("s.json", b'{"cat": [' + b"9" * 10_000 + b"]}", "not readable as JSON"),
    ("none.json", None, "not found"),
    ("folder", None, "cannot be read"),
])  # fmt: skip
def test_a_malformed_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes | None, part: str) -> None:
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=part) as caught:
        read_sentences(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200) | st.text(alphabet='class,sentence;\t"\n\r\x00\u2028é', max_size=200).map(str.encode))
@example(b"class,sentence\na,\x00\n")
@settings(deadline=None, max_examples=200)
def test_any_file_gives_sentences_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for name in ("any.csv", "any.json"):
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes(b"class,sentence\n" + content if name.endswith("csv") else content)
        found, message = {}, str(file)
        try:
            found = read_sentences(file)
        except UserError as error:
            message = str(error)
        assert message.startswith(str(file))
        assert "\n" not in message
        assert all(name.strip() and all(text.strip() for text in texts) for name, texts in found.items())


@given(st.dictionaries(st.text(), st.lists(st.text().filter(str.strip), min_size=1), min_size=1, max_size=4))
@example({"cat": ["\ud800 a", "\x00\x1b", "a\u2028b", "."]})
@settings(deadline=None, max_examples=30)
def test_any_sentence_comes_through_a_sound_store(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[str]]
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    manifest(cache)
    texts = ["a word", *(text for each in content.values() for text in each)]
    (cache / "s.json").write_text(json.dumps(dict.fromkeys(NAMES.values(), texts)))
    import_prompts("d", "people", cache / "s.json", cache=cache)
    assert PromptStore(cache, "d", "people").verify() == []
    for row in rows(cache, "people"):
        assert row["kept"] == (row["drop_reason"] is None)
        assert row["text"] == " ".join(row["text"].split())
    again = PromptStore(cache, "d", "people").file.read_bytes()
    import_prompts("d", "people", cache / "s.json", cache=cache)
    assert PromptStore(cache, "d", "people").file.read_bytes() == again


def test_captions_become_reference_prompts_of_their_image(tmp_path: Path) -> None:
    long = " ".join(["word"] * 10_000)
    captions: Captions = {
        "a/b.jpg": ["A cat.", "a CAT", "A dog.", ""], "c.jpg": [long], "d.jpg": None, "e.jpg": ["A cat."], "f.jpg": [],
    }  # fmt: skip
    manifest(tmp_path, {}, captions)
    summary = import_captions("d", "captions", cache=tmp_path)
    found = rows(tmp_path, "captions")
    kept = {(row["image_id"], row["text"]) for row in found if row["kept"]}
    assert kept == {("a/b.jpg", "A cat."), ("a/b.jpg", "A dog."), ("c.jpg", long), ("e.jpg", "A cat.")}
    assert [row["drop_reason"] for row in found if not row["kept"]] == ["duplicate", "empty"]
    assert {row["class_id"] for row in found} == {None}
    assert len({row["prompt_id"] for row in found}) == 6
    assert (summary.kept, summary.images, summary.classes) == (4, 3, [])
    inputs = PromptStore(tmp_path, "d", "captions").provenance().inputs
    assert inputs["manifest"] == ManifestStore(tmp_path, "d").provenance().content


def test_captions_keep_the_class_of_their_image(tmp_path: Path) -> None:
    manifest(tmp_path, captions={"a.jpg": ["One."], "b.jpg": ["Two."]})
    import_captions("d", "captions", cache=tmp_path)
    assert [(r["image_id"], r["class_id"], r["text"]) for r in rows(tmp_path, "captions")] == [
        ("a.jpg", 0, "One."), ("b.jpg", 1, "Two."),
    ]  # fmt: skip


def test_the_command_takes_flags_or_the_imports_of_the_settings(tmp_path: Path, command: Command) -> None:
    manifest(tmp_path / "cache", captions={"a.jpg": ["One."], "b.jpg": ["Two."]})
    (tmp_path / "s.csv").write_text("class,sentence\n" + "".join(f"{name},A {name}.\n" for name in NAMES.values()))
    (tmp_path / "params.yaml").write_text(
        "imports: [{dataset: d, name: people, file: s.csv}, {dataset: d, name: own, file: null}]"
    )
    done = command("pipeline", "import-prompts", "--json", cwd=tmp_path)
    assert [(each["llm"], each["kept"]) for each in json.loads(done.stdout)] == [("people", 3), ("own", 2)]
    assert "d: 2 of 2 prompts of 2 images kept (own)" in done.stderr
    done = command("pipeline", "import-prompts", "--dataset", "d", "--captions", cwd=tmp_path)
    assert "d: 2 of 2 prompts of 2 images kept (captions)" in done.stderr


@pytest.mark.parametrize(("flags", "part"), [
    ({"captions": True}, "--captions needs --dataset"),
    ({"file": Path("s.csv"), "dataset": "d"}, "--file needs --name"),
    ({"file": Path("s.csv"), "dataset": "d", "captions": True}, "exclude each other"),
    ({"captions": True, "dataset": "d", "name": "none"}, "'none' stands for text that has no source"),
])  # fmt: skip
def test_the_command_used_wrongly_says_how(tmp_path: Path, flags: dict[str, Any], part: str) -> None:
    manifest(tmp_path, captions={"a.jpg": ["One."]})
    with pytest.raises(UserError, match=part) as caught:
        command_line.import_prompts(**flags, cache=tmp_path)
    assert caught.value.exit_code == 2


def test_one_file_that_is_not_there_does_not_keep_the_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    Path("s.csv").write_text("class,sentence\n" + "".join(f"{name},A {name}.\n" for name in NAMES.values()))
    Path("params.yaml").write_text(
        "imports: [{dataset: d, name: one, file: gone.csv}, {dataset: d, name: two, file: s.csv}]"
    )
    with pytest.raises(UserError, match=r"^gone\.csv: not found"):
        command_line.import_prompts(cache=tmp_path / "cache")
    assert "3 of 3 prompts kept (two)" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["...", "\u200b"])
def test_a_class_whose_sentences_have_no_word_is_refused_and_the_old_store_stays(tmp_path: Path, left: str) -> None:
    manifest(tmp_path)
    sentences = {name: [f"A {name}."] for name in NAMES.values()}
    (tmp_path / "s.json").write_text(json.dumps(sentences))
    import_prompts("d", "people", tmp_path / "s.json", cache=tmp_path)
    (tmp_path / "s.json").write_text(json.dumps({**sentences, "T-shirt": [left]}))
    with pytest.raises(UserError, match=r"no sentence with a letter or a digit for 1 of 3 classes: 'T-shirt'"):
        import_prompts("d", "people", tmp_path / "s.json", cache=tmp_path)
    assert len(rows(tmp_path, "people")) == 3


def test_importing_what_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    manifest(tmp_path)
    with pytest.raises(UserError, match="no image has captions"):
        import_captions("d", "captions", cache=tmp_path)
    manifest(tmp_path, captions={"a.jpg": ["..."]})
    with pytest.raises(UserError, match="no caption has a letter or a digit"):
        import_captions("d", "captions", cache=tmp_path)
    manifest(tmp_path, {}, {"a.jpg": ["A cat."]})
    with pytest.raises(UserError, match="no classes to take sentences for; --captions"):
        import_prompts("d", "people", tmp_path / "s.json", cache=tmp_path)
