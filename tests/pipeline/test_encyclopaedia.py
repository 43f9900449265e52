"""An encyclopaedia as a prompt source: dumps and files of texts, well formed, cut off and hostile."""

import bz2
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import prompts as command_line
from pipeline.ingest import classes_hash
from pipeline.prompts.clean import sentences
from pipeline.prompts.dump import Page, pages
from pipeline.prompts.encyclopaedia import Article, articles_of_dump, cut
from pipeline.prompts.importing import import_prompts
from pipeline.prompts.wikitext import plain
from stages import ManifestProvenance, ManifestStore, PromptStore, UserError

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en"><siteinfo/>'
CRANE = """{{Short description|bird}}
{{Speciesbox
| name = Crane
* not a list
}}
[[File:Crane.jpg|thumb|A [[grey crowned crane]] stands.]]
'''Sea horses''' ({{x}}) are small [[fish|fish]] with a horse-like head, e.g. of the genus ''Hippocampus''.<ref>{{
cite|url=http://x.y}}</ref> A seahorse swims upright.<!-- A seahorse is hidden. --> It eats shrimp.
== Size ==
* A seahorse in a list.
{| class="wikitable"
! A seahorse head
|-
| A seahorse cell
|}
A seahorse measures 2&nbsp;cm to 35 cm.
=== More ===
A seahorse swims upright.
== References ==
A seahorse of the references.
=== Books ===
A seahorse of the books.
[[Category:Fish]]
"""


def page(title: str, text: str = "", *, ns: int = 0, redirect: str | None = None) -> str:
    sent = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    body = f"<revision><id>1</id><text xml:space='preserve'>{escape(text)}</text></revision>"
    return f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>7</id>{sent}{body}</page>"


def dump(file: Path, *found: str) -> Path:
    content = (HEAD + "".join(found) + "</mediawiki>").encode()
    file.write_bytes(bz2.compress(content) if file.suffix == ".bz2" else content)
    return file


def manifest(cache: Path, names: Mapping[int, str]) -> None:
    rows = [{"image_id": f"{i}.png", "path": f"{i}.png", "class_id": i, "split": "test"} for i in names]
    origin = ManifestProvenance(
        dataset="d", content="", inputs={"classes": classes_hash(dict(names))}, class_names=dict(names)
    )
    store = ManifestStore(cache, "d")
    store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)


def rows(cache: Path, source: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = PromptStore(cache, "d", source).read().to_pylist()
    return found


def test_of_markup_the_running_text_is_left() -> None:
    assert plain(CRANE).split("\n") == [
        "Sea horses are small fish with a horse-like head, e.g. of the genus Hippocampus. A seahorse swims "
        "upright. It eats shrimp.",
        "A seahorse measures 2 cm to 35 cm.",
        "A seahorse swims upright.",
    ]  # fmt: skip


def test_text_is_cut_where_sentences_end_and_not_at_abbreviations() -> None:
    said = "Dr. Gray named it, e.g. in 1827. It is small! Is it? 3.5 cm long\nA new paragraph."
    assert sentences(said) == [
        "Dr. Gray named it, e.g. in 1827.", "It is small!", "Is it?", "3.5 cm long", "A new paragraph.",
    ]  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="[]{}|=<>/'!-* \nab.:#&", max_size=120))
def test_any_markup_gives_text_and_sentences_lose_no_letter(text: str) -> None:
    plain(text)
    assert "".join(sentences(text)).replace(" ", "") == "".join(text.split())


def test_a_dump_becomes_a_source_of_cleaned_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest(tmp_path, {0: "Sea_horse", 1: "sneaker", 2: "crane", 3: "unknown thing", 4: "crab"})
    file = dump(
        tmp_path / "wiki.xml.bz2",
        page("Sneakers", "'''Sneakers''' are soft shoes for sport. They last long. Sneakers are made of cloth."),
        page("Sea horse", redirect="Seahorse"), page("Seahorse", CRANE),
        page("Talk:Crab", "A crab is talked of.", ns=1), page("Sneaker", redirect="Sneakers#Shoes"),
        page("Crane", "'''Crane''' means:\n* [[Crane (bird)]], a bird\n* [[Crane (machine)]]\n{{disambiguation}}"),
        page("Crane (bird)", "A crane is a bird with long legs."),
    )  # fmt: skip
    command_line.import_prompts(dataset="d", file=file, cache=tmp_path)
    output = capsys.readouterr().err
    found = rows(tmp_path, "encyclopaedia")
    assert [(row["class_id"], row["text"]) for row in found if row["kept"]] == [
        (0, "Sea horses are small fish with a horse-like head, e.g. of the genus Hippocampus."),
        (0, "A seahorse swims upright."), (0, "A seahorse measures 2 cm to 35 cm."),
        (1, "Sneakers are soft shoes for sport."), (1, "Sneakers are made of cloth."),
    ]  # fmt: skip
    reasons = {row["text"]: row["drop_reason"] for row in found if not row["kept"]}
    assert reasons == {
        "It eats shrimp.": "too_short", "A seahorse swims upright.": "duplicate", "They last long.": "too_short",
    }  # fmt: skip
    assert "2 classes have no article, the template stands in: unknown thing, crab" in output
    assert "1 class is the name of several articles and left out: crane (Crane (bird), Crane (machine))" in output


def test_the_very_title_comes_before_one_that_differs_in_case_and_open_titles_are_named(tmp_path: Path) -> None:
    file = dump(
        tmp_path / "w.xml", page("Mouse", "A mouse is an animal."), page("MOUSE", "MOUSE is a system."),
        page("Pool table", "One."), page("Pool Table", "Two."),
        page("Loop", redirect="Pool"), page("Pool", redirect="Loop"),
    )  # fmt: skip
    found = articles_of_dump({0: "mouse", 1: "pool_table", 2: "POOL-TABLE", 3: "loop"}, file)
    assert found.of[0].names == ("mouse", "Mouse")
    assert found.of[1].text == "One."
    assert found.ambiguous == {2: ["Pool Table", "Pool table"]}
    assert found.missing == [3]


def test_a_class_can_be_given_the_title_of_its_article(tmp_path: Path) -> None:
    manifest(tmp_path, {0: "crane", 1: "cat"})
    file = dump(
        tmp_path / "w.xml", page("Crane", "Crane: * [[Crane (bird)]] {{disambig}}"),
        page("Crane (bird)", "A crane is a bird with long legs."), page("Cat", "A cat is a small animal."),
    )  # fmt: skip
    titles = tmp_path / "titles.json"
    titles.write_text('{"Crane": "crane (bird)"}')
    import_prompts("d", "wiki", file, cache=tmp_path, titles=titles)
    assert [row["text"] for row in rows(tmp_path, "wiki")] == [
        "A crane is a bird with long legs.", "A cat is a small animal.",
    ]  # fmt: skip
    for content, part in (
        ('{"cow": "Cow"}', "cow: no class of the data set"),
        ('["Cow"]', "expected a JSON file {class"),
    ):
        titles.write_text(content)
        with pytest.raises(UserError, match=part):
            import_prompts("d", "wiki", file, cache=tmp_path, titles=titles)
    (tmp_path / "t.json").write_text('{"cat": "A cat is a small animal."}')
    with pytest.raises(UserError, match="--titles is about a dump"):
        import_prompts("d", "wiki", tmp_path / "t.json", cache=tmp_path, titles=titles)


def test_no_more_sentences_are_taken_than_asked_for_and_the_rest_is_counted() -> None:
    article = Article(("cat",), "A cat is an animal. A cat is an animal. It purrs. A cat has a tail. A cat sees well.")
    found = cut(article, most=2)
    assert [reason for _, reason in found.rows] == [None, None, "too_short", None]
    assert found.beyond == 1


def test_texts_of_a_json_file_are_cut_and_their_markup_taken_off(tmp_path: Path) -> None:
    manifest(tmp_path, {0: "Sea_horse", 1: "cat", 2: "dog"})
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"seahorse": CRANE, "CAT": "A cat is an animal. Cats have long ears.", "cow": "x"}))
    summary = import_prompts("d", "encyclopaedia", file, cache=tmp_path)
    assert summary.kept == 5
    assert summary.ignored == ["cow"]
    assert summary.note == (
        "1 text held wiki markup, which was taken off; 1 class has no article, the template stands in: dog"
    )
    assert (import_prompts("d", "encyclopaedia", file, cache=tmp_path, most=1).kept) == 2


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><mediawiki><page><title>&b;</title></page></mediawiki>'
WHOLE = HEAD + page("Cat", "A cat is a small animal.") + "</mediawiki>"
PACKED = bz2.compress(WHOLE.encode())


@pytest.mark.parametrize(("name", "content", "part"), [
    ("none.xml", None, "not found"),
    ("w.xml", b"", "line 1: the XML ends in the middle"),
    ("w.xml", WHOLE[:-30].encode(), "line 1: the XML ends in the middle: it was cut off; get it again"),
    ("w.xml", WHOLE.replace("small", "&nbsp;").encode(), "not readable as XML (undefined entity)"),
    ("w.xml", LAUGHS.encode(), "line 1: holds a DTD, which no export has"),
    ("w.xml", b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><mediawiki/>', "holds a DTD"),
    ("w.xml", b"<feed><doc/></feed>", "its outermost element is <feed>; expected a MediaWiki XML export"),
    ("w.xml", b"<mediawiki>" + b"<a>" * 100, "elements too deep"),
    ("w.xml", b"A cat is a small animal.", "not readable as XML"),
    ("w.xml", WHOLE.encode().replace(b"small", b"\xff"), "not readable as XML (not well-formed"),
    ("w.xml.bz2", PACKED[:-20], "ends in the middle: it was cut off"),
    ("w.xml.bz2", PACKED[:20] + b"garbage" + PACKED[27:], "expected a MediaWiki XML export"),
    ("w.xml.gz", gzip.compress(WHOLE.encode()), "is packed by gzip; expected a MediaWiki XML export, .xml or .xml.bz2"),
    ("w.xml.7z", b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7z archive"),
    ("w.xml", WHOLE.replace("Cat", "Cow").encode(), "no article of any class; 1 class has no article: cat; say which"),
    ("w.xml", WHOLE.replace("A cat is", "It was").encode(), "no sentence of any class could be kept (1 dropped)"),
    ("t.json", b'{"cat": " "}', "the text of 'cat' is empty"),
    ("t.json", b'{"cat": "a", "cat": "b"}', "'cat' stands there twice; join its texts"),
    ("t.json", b'{"cat": "a", "CAT": "b", "Cat": "c"}', "no sentence of any class could be kept"),
    ("t.json", b'{"CAT": "a", "Cat": "c"}', "'CAT' and 'Cat' are both the class 'cat'"),
    ("t.json", b'{"cat": "a", "cow": ["b"]}', "'cat' must be a list of sentences"),
])  # fmt: skip
def test_a_bad_file_is_one_clear_line_and_leaves_no_store(
    tmp_path: Path, name: str, content: bytes | None, part: str
) -> None:
    manifest(tmp_path, {0: "cat"})
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        import_prompts("d", "encyclopaedia", tmp_path / name, cache=tmp_path)
    assert part in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prompts").exists()


def test_a_long_dump_is_read_in_pieces_and_the_last_revision_counts(tmp_path: Path) -> None:
    twice = page("Old", "first").replace("</page>", "<revision><text>last</text></revision></page>")
    many = "".join(page(f"P{i}", "x" * 5000) for i in range(500))
    found = list(pages(dump(tmp_path / "w.xml", twice, many, page("End", "y"))))
    assert found[0] == Page("Old", None, "last")
    assert found[-1] == Page("End", None, "y")
    assert len(found) == 502
