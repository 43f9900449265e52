"""Lists as sources: CSV and its kin, JSON lines, Parquet; found by their columns, refused with the row's place."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import COLOURS, Command
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import READERS, Listing, ingest
from pipeline.ingest.base import check_listing
from pipeline.ingest.lists import ListReader
from pipeline.ingest.text_tables import text_header
from stages import ManifestStore, UserError
from stages.decisions import read_decisions, read_excluded
from stages.params import DataParams

DATA = DataParams()


def read(source: Path, **data: Any) -> Listing:
    return ListReader().read(str(source), DataParams(**data))


def write_csv(file: Path, header: list[str], rows: list[list[Any]], delimiter: str = ",") -> Path:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, delimiter=delimiter).writerows([header, *rows])
    return file


def weave_rows(weaves: Path) -> list[list[str]]:
    return [[p.relative_to(weaves).as_posix(), p.parent.name] for p in sorted(weaves.rglob("*.png"))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [["image", "class"], ["File Name", "LABEL"], ["filepath", "class_name"]])
def test_a_list_beside_its_images_is_a_source(weaves: Path, tmp_path: Path, delimiter: str, header: list[str]) -> None:
    file = write_csv(weaves / "list.csv", header, weave_rows(weaves), delimiter)
    for source in (file, weaves):
        summary = ingest("w", str(source), data=DATA, cache=tmp_path / "cache")
        assert (summary.classes, summary.images) == (4, {"train": 24, "val": 4, "test": 20})
    names = ManifestStore(tmp_path / "cache", "w").provenance().class_names
    assert list(names.values()) == sorted(COLOURS), "the same ids as those of the folders"


def test_images_lie_in_the_images_folder_or_where_the_user_says(weaves: Path, tmp_path: Path) -> None:
    rows = weave_rows(weaves)
    home = tmp_path / "home"
    home.mkdir()
    file = write_csv(home / "list.csv", ["image", "label"], rows)
    summary = ingest("w", str(file), data=DataParams(images=str(weaves)), cache=tmp_path / "cache")
    assert sum(summary.images.values()) == 48
    (home / "images").symlink_to(weaves)
    assert {e.path.split("/")[0] for e in read(file).entries} == {"images"}
    absolute = write_csv(home / "absolute.csv", ["image", "label"], [[f"{weaves}/{p}", c] for p, c in rows])
    assert read(absolute, images=str(weaves)).entries[0].path == rows[0][0]
    with pytest.raises(UserError, match=r"line 2: image .* does not lie below .* --images"):
        read(absolute)


def test_splits_ids_and_names_come_from_columns(tmp_path: Path) -> None:
    rows = [["a", "cat", 7, "Train"], ["b", "dog", 2, "validation"], ["c", "cat", 7, "TEST"]]
    file = write_csv(tmp_path / "l.csv", ["image", "class", "class_id", "split"], rows)
    found = read(file, class_names={"cat": "tabby cat"})
    assert [(e.class_id, e.class_name, e.split) for e in found.entries] == [
        (7, "tabby cat", "train"), (2, "dog", "val"), (7, "tabby cat", "test"),
    ]  # fmt: skip
    assert found.class_names == {2: "dog", 7: "tabby cat"}


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [["x", "a.jpg", "0"], ["y", "b.jpg", "1"]]
    file = write_csv(tmp_path / "l.csv", ["what", "where", "label"], rows)
    found = read(file, columns={"image": "where", "class": "what"})
    assert [(e.path, e.class_name) for e in found.entries] == [("a.jpg", "x"), ("b.jpg", "y")]
    for columns, part in (({"image": "wher"}, "did you mean 'where'"), ({"imag": "where"}, "did you mean 'image'")):
        with pytest.raises(UserError, match=part):
            read(file, columns=columns)
    with pytest.raises(UserError, match="no column of images"):
        read(file)


def test_numbers_as_labels_are_the_class_ids_and_get_names_from_classes_txt(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", ["image", "label"], [["a", 10], ["b", 2]])
    assert read(file).class_names == {2: "2", 10: "10"}
    (tmp_path / "classes.txt").write_text("\n".join(f"name {i}" for i in range(11)) + "\n")
    found = read(file)
    assert [e.class_name for e in found.entries] == ["name 10", "name 2"]
    assert len(found.class_names) == 11
    write_csv(file, ["image", "label"], [["a", 12], ["b", 2]])
    with pytest.raises(UserError, match=r"class id 12 \(image 'a'\): 11 class names are known, for the ids 0 to 10"):
        read(file)


def test_files_named_after_splits_give_the_splits(weaves: Path) -> None:
    rows = weave_rows(weaves)
    for name, part in (("train.csv", rows[::2]), ("Validation.csv", rows[1::4]), ("test_list.csv", rows[3::4])):
        write_csv(weaves / name, ["image", "label"], part)
    found = read(weaves)
    assert {e.split for e in found.entries} == {"train", "val", "test"}
    assert "train.csv" in found.notes[0]
    assert {e.split for e in read(weaves / "train.csv").entries} == {None}, "a lone file is split by seed"


def test_metadata_files_of_split_folders_find_their_own_images(weaves: Path) -> None:
    root = weaves.parent / "hub"
    for split, colours in (("train", ["red weave", "blue weave"]), ("test", ["red weave", "blue weave"])):
        (root / split).mkdir(parents=True)
        lines = []
        for i, colour in enumerate(colours):
            (root / split / f"{i}.png").write_bytes(
                (weaves / colour / f"0{i + 2 * (split == 'test')}.png").read_bytes()
            )
            lines.append(json.dumps({"file_name": f"{i}.png", "label": colour, "text": f"a {colour}"}))
        (root / split / "metadata.jsonl").write_text("\n".join(lines))
    found = read(root)
    assert [(e.path, e.split, list(e.captions or ())) for e in found.entries][:1] == [
        ("test/0.png", "test", ["a red weave"])
    ]
    assert {e.path.split("/")[0] for e in found.entries if e.split == "train"} == {"train"}


@pytest.mark.parametrize("struct", [True, False])
def test_a_parquet_file_may_hold_its_images(weaves: Path, tmp_path: Path, struct: bool) -> None:
    files = sorted(weaves.rglob("*.png"))
    images: list[Any] = [f.read_bytes() for f in files]
    images[3] = None
    if struct:
        images = [{"bytes": data, "path": "x.png"} for data in images]
    table = pa.table({"picture": images, "label": [f.parent.name for f in files], "junk": [0.5] * 48})
    pq.write_table(table, tmp_path / "w.parquet", row_group_size=10)
    summary = ingest("w", str(tmp_path / "w.parquet"), data=DATA, cache=tmp_path / "cache")
    assert sum(summary.images.values()) == 47
    assert summary.unreadable == ["w.parquet/picture/3: cannot be read: no image in this row"]
    with pytest.raises(UserError, match="leave --images away"):
        read(tmp_path / "w.parquet", images=str(weaves))


def test_a_parquet_list_may_name_its_images(weaves: Path, tmp_path: Path) -> None:
    rows = weave_rows(weaves)
    paths, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"path": paths, "label": labels}), weaves / "list.parquet")
    summary = ingest("w", str(weaves / "list.parquet"), data=DATA, cache=tmp_path / "cache")
    assert sum(summary.images.values()) == 48


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"image,class\na.jpg,cat\nb.jpg\n", "line 3: 1 cells where the header has 2"),
        (b"image,class\na.jpg,cat\nb.jpg,dog,x\n", "line 3: 3 cells"),
        (b"image,class\na.jpg,cat\n,dog\n", "line 3: names no image"),
        (b"image,class\na.jpg,caf\xe9\n", r"line 2: byte 0xe9 is not UTF-8"),
        (b"image,class\na.jpg,c\0t\n", "line 2: NUL"),
        ("image,class\na.jpg,cat\n".encode("utf-16"), "UTF-16"),
        (b"image,class\n../a.jpg,cat\n", "line 2: image '../a.jpg' leaves"),
        (b"image,class\n/etc/passwd,cat\n", "line 2: image '/etc/passwd' does not lie below"),
        (b"image,class\na.jpg,cat\na.jpg,cat\n", "line 3: image 'a.jpg' stands there twice"),
        (b"image,class,split\na.jpg,cat,trian\n", "line 2: unknown split 'trian'"),
        (b"image,class,split\na.jpg,cat,\n", "line 2: unknown split ''"),
        (b"image,class,class_id\na.jpg,cat,one\n", "line 2: expected a whole number, found 'one'"),
        (b"image,class,class_id\na.jpg,cat,1\nb.jpg,dog,1\n", "one to one"),
        (b"image,class,class_id\na.jpg,cat,-1\n", "1 images are unlabelled .*a.jpg.* and no image has a class"),
        (b"image,class,class_id\na.jpg,cat,-2\n", r"class id -2 \(image 'a.jpg'\)"),
        (b"image,class\na.jpg,1\nb.jpg,-1\n", "number two classes 0 and 1"),
        (b"image,class\na.jpg,\"cat\nb.jpg,dog\n", "unexpected end of data"),
        (b"image,class,class\na.jpg,cat,dog\n", "column 'class' stands twice"),
        (b"image,class\n", "no rows"), (b"", "no rows"), (b"image\na.jpg\n", "neither classes nor captions"),
        (b"image,class\na.jpg,a_b\nb.jpg,a b\n", "given to two classes"),
        (b"image,class\na.jpg,A\nb.jpg,a\n", "may be two letters: one class or two"),
        (b"image,class,class_id\na.jpg,Cat,0\nb.jpg,cat,1\n", "they have the class ids 0, 1: one class or two"),
        (b"image,class\nhttps://x.org/a.jpg,cat\n", r"line 2: column 'image' holds URLs \('https://x.org/a.jpg'\)"),
        (b"image_url,class\nhttps://x.org/a.jpg,cat\n", "download what 'image_url' names first"),
        (b"image,class\nC:\\a.jpg,cat\n", "line 2: image .* does not lie below"),
        (b"image,class\n..\\a.jpg,cat\n", "line 2: image .* leaves the image folder"),
        (b"id,breed\na,cat\n", "--column image=COLUMN, and --column class=COLUMN"),
        (b"image,class\na.jpg,cat\n", "only one class"),
    ],
)  # fmt: skip
def test_a_bad_list_is_refused_with_its_line(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(UserError, match=part) as caught:
        check_listing("l.csv", read(tmp_path / "l.csv"))
    assert "l.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_old_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfimage,class\r\na.jpg,cat\r\n\r\nb.jpg,dog\r\n")
    assert [e.class_name for e in read(tmp_path / "l.csv").entries] == ["cat", "dog"]


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\ufeffsep=;\r\n"])
def test_the_first_line_that_excel_writes_is_no_header(weaves: Path, tmp_path: Path, first: str) -> None:
    rows = "".join(f"{path};{name}\n" for path, name in weave_rows(weaves))
    (weaves / "list.csv").write_bytes(f"{first}image;label\n{rows}".encode())
    assert ingest("w", str(weaves / "list.csv"), data=DATA, cache=tmp_path / "cache").unreadable == []
    assert text_header(weaves / "list.csv") == ["image", "label"]
    decisions = tmp_path / "d.csv"
    decisions.write_bytes(f"{first}image_id;label\na,b;cat\n".encode())
    assert [(each.image_id, each.label) for each in read_decisions(decisions).rows] == [("a,b", "cat")]
    decisions.write_bytes(f"{first}a.png\n".encode())
    assert read_excluded(decisions) == ["a.png"]


def test_a_table_without_classes_or_captions_is_no_reason_to_leave_class_folders(weaves: Path, tmp_path: Path) -> None:
    write_csv(weaves / "ATTRIBUTION.csv", ["image", "licence"], [["00.png", "MIT"]])
    write_csv(weaves / "results.csv", ["epoch", "label"], [["1", "2"]])
    assert next(r for r in READERS if r.matches(str(weaves))).__class__.__name__ == "FolderReader"


def test_missing_images_are_rows_with_an_error_and_all_missing_is_one_line(weaves: Path, tmp_path: Path) -> None:
    rows = weave_rows(weaves)
    file = write_csv(weaves / "list.csv", ["image", "label"], [*rows, ["red weave/none.png", "red weave"]])
    summary = ingest("w", str(file), data=DATA, cache=tmp_path / "cache")
    assert summary.unreadable == ["red weave/none.png: cannot be read: No such file or directory"]
    alone = write_csv(tmp_path / "list.csv", ["image", "label"], rows)
    with pytest.raises(UserError, match=r"none of the 48 images that it names .* with --images"):
        ingest("w", str(alone), data=DATA, cache=tmp_path / "other")


def test_the_command_takes_the_image_folder_and_columns(command: Command, weaves: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "l.csv", ["Where", "What"], weave_rows(weaves))
    columns = ["--column", "image=Where", "--column", "class=What"]
    done = command(
        "pipeline", "ingest", "w", "--source", "l.csv", "--images", "weaves", *columns, "--json", cwd=tmp_path
    )
    assert json.loads(done.stdout)[0]["images"] == {"train": 24, "val": 4, "test": 20}
    for wrong in (["--column", "image"], ["--images", "nowhere"]):
        done = command("pipeline", "ingest", "w", "--source", "l.csv", *wrong, cwd=tmp_path, code=2)
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_source_that_is_no_kind_of_source_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name, part in (
        ("notes.txt", "is not a kind of source"),
        ("none.txt", "does not exist"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(UserError, match=part):
            ingest("w", str(tmp_path / name), data=DATA, cache=tmp_path / "cache")


CELLS = st.text(max_size=25) | st.sampled_from(
    ["../x", "/etc/passwd", '";DROP TABLE', "<b>", "a\0b", "\ud800", "🧵", "x" * 500]
)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), suffix=st.sampled_from([".csv", ".tsv", ".jsonl"])
)
def test_any_cells_are_a_listing_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], suffix: str
) -> None:
    file = tmp_path_factory.mktemp("cells") / f"l{suffix}"
    if suffix == ".jsonl":
        file.write_text("\n".join(json.dumps({"image": image, "class": name}) for image, name in rows))
    else:
        with file.open("w", newline="", encoding="utf-8", errors="surrogatepass") as handle:
            csv.writer(handle, delimiter="\t" if suffix == ".tsv" else ",").writerows([("image", "class"), *rows])
    caught = ""
    try:
        found = read(file)
        check_listing(str(file), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert str(file) in caught
        return
    unlabelled = sum(int(note.split()[0]) for note in found.notes if "unlabelled" in note)
    blank = 0 if suffix == ".jsonl" else sum(not (image + name).strip() for image, name in rows)
    assert len(found.entries) + unlabelled + blank == len(rows)
    for entry in found.entries:
        assert not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")
        assert found.class_names[entry.class_id or 0] == entry.class_name


def test_a_second_column_that_could_be_the_class_is_said(weaves: Path, tmp_path: Path, typed: Command) -> None:
    names = [f"{folder}/{i:02d}.png" for folder in ("red weave", "blue weave") for i in range(3)]
    rows = "".join(f"{name},{k},{name.split()[0]}\n" for k, name in enumerate(names))
    (tmp_path / "list.csv").write_text(f"path,label,class\n{rows}")
    words = ["pipeline", "ingest", "w", "--source", "list.csv", "--set", f"data.w.images={weaves}"]
    told = typed(*words, cwd=tmp_path).stderr
    assert "list.csv: column 'class' is taken for the class, not 'label' (--column class=label takes another)" in told
    assert "is taken for the class" not in typed(*words, "--column", "class=class", cwd=tmp_path).stderr


def test_one_file_that_is_passed_over_is_one_file(weaves: Path, tmp_path: Path, typed: Command) -> None:
    (weaves / "red weave" / "notes.txt").write_text("not a picture")
    told = typed("pipeline", "ingest", "w", "--source", weaves, cwd=tmp_path).stderr
    assert "w: 1 file passed over (no image by its name)" in told
