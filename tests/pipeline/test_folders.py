"""Folders of images as people have them: splits by any name, side tables, strays, junk; nothing goes without a line."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from conftest import Command, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import Listing, ingest, read_source
from pipeline.ingest.splits import split_of_folder
from stages import ManifestStore, UserError
from stages.names import is_left_behind
from stages.params import DataParams


def plant(root: Path, *paths: str, each: int = 2) -> Path:
    """Empty files `PATH/0.png`, ... below a root; a path that ends in `/` is an empty folder."""
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)
        for number in range(0 if path.endswith("/") else each):
            (root / path / f"{number}.png").touch()
    return root


def read(root: Path, **data: object) -> Listing:
    return read_source(str(root), DataParams(**data))  # type: ignore[arg-type]


def by_split(listing: Listing) -> dict[str | None, set[str | None]]:
    return {entry.split: {e.class_name for e in listing.entries if e.split == entry.split} for entry in listing.entries}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("Train/Train", "Test/Test"),
        ("train_images", "test_images"), ("Training", "Testing"), ("TRAIN", "EVAL"), ("trainset", "testset"),
        ("training", "evaluation"), ("train2017", "test2017"), ("TrainImages", "TestImages"), ("train-1", "test-1"),
        ("train/images", "test/images"), ("flowers_train", "flowers_test"), ("data/train", "data/test"),
        ("a/b/train", "a/b/test"), ("train_1", "test_1"), ("x-train/x-train", "x-test/x-test"),
    ],
)  # fmt: skip
def test_splits_by_other_names_are_splits(tmp_path: Path, train: str, test: str) -> None:
    plant(tmp_path, f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    listing = read(tmp_path)
    assert by_split(listing) == {"train": {"cat", "dog"}, "test": {"cat", "dog"}}
    assert listing.class_names == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("name", ["validation", "valid", "Val", "dev", "Validation/Validation", "val_set", "valset"])
def test_validation_has_many_names_too(tmp_path: Path, name: str) -> None:
    plant(tmp_path, *(f"{split}/{c}" for split in ("train", name, "test") for c in ("cat", "dog")))
    assert by_split(read(tmp_path))["val"] == {"cat", "dog"}


def test_other_names_of_splits_are_said(tmp_path: Path) -> None:
    plant(tmp_path, "training_set/cat", "training_set/dog", "holdout_test/cat", "holdout_test/dog")
    assert read(tmp_path).notes == ["split folders: holdout_test is test, training_set is train"]
    plant(tmp_path / "plain", "train/cat", "test/dog")
    assert read(tmp_path / "plain").notes == []


@pytest.mark.parametrize("name", ["trains", "test tube", "train station", "protest", "valley", "contest", "validator"])
def test_words_that_only_begin_like_a_split_are_classes(tmp_path: Path, name: str) -> None:
    listing = read(plant(tmp_path, name, "cat"))
    assert set(listing.class_names.values()) == {name, "cat"}


def test_folders_of_the_same_names_are_refused_with_both_mends(tmp_path: Path) -> None:
    plant(tmp_path, "part_a/cat", "part_a/dog", "part_b/cat", "part_b/dog")
    with pytest.raises(
        UserError, match=r"--split-folder part_a=train .*part_b=test for splits.*--split-folder none .* for classes"
    ):
        read(tmp_path)
    told = read(tmp_path, split_folders={"part_a": "train", "part_b": "test"})
    assert by_split(told) == {"train": {"cat", "dog"}, "test": {"cat", "dog"}}
    assert set(read(tmp_path, split_folders={}).class_names.values()) == {"part_a", "part_b"}


def test_a_split_beside_a_folder_of_the_same_classes_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat", "train/dog", "holdout/cat", "holdout/dog")
    with pytest.raises(UserError, match=r"split folders \(train\) beside other folders \(holdout\)"):
        read(tmp_path)
    listing = read(tmp_path, split_folders={"train": "train", "holdout": "test"})
    assert by_split(listing) == {"train": {"cat", "dog"}, "test": {"cat", "dog"}}
    listing = read(tmp_path, split_folders={"train": "train"})
    assert (len(listing.entries), len(listing.outside)) == (4, 4), "what is told to be left out is counted"


def test_split_folders_below_class_folders_are_splits(tmp_path: Path) -> None:
    listing = read(plant(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test"))
    assert by_split(listing) == {"train": {"cat", "dog"}, "test": {"cat", "dog"}}
    assert any("below the class folders" in note for note in listing.notes)


def test_class_and_split_in_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say a class and a split"):
        read(plant(tmp_path, "cat_train", "cat_test", "dog_train", "dog_test"))


def test_nested_folders_of_a_class_stay_its_own(tmp_path: Path) -> None:
    listing = read(plant(tmp_path, "cat/2019", "cat/2020", "dog/2020", "dog/2021"))
    assert listing.class_names == {0: "cat", 1: "dog"}


def test_a_folder_around_all_is_looked_through_and_said(tmp_path: Path) -> None:
    plant(tmp_path, "archive/pets/cat", "archive/pets/dog")
    (tmp_path / "archive" / "notes").mkdir()
    (tmp_path / "archive" / "notes" / "licence.txt").touch()
    listing = read(tmp_path)
    assert (listing.class_names, listing.notes[0]) == ({0: "cat", 1: "dog"}, "read from archive/pets")
    with pytest.raises(UserError, match="only one class"):
        ingest("x", str(plant(tmp_path / "one", "cat")), data=DataParams(), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("names", "split"),
    [(("bus", "car", "train"), "train"), (("valid", "invalid"), "valid"), (("a", "b", "val"), "val")],
)
def test_classes_called_like_splits_are_classes_beside_others(tmp_path: Path, names: list[str], split: str) -> None:
    listing = read(plant(tmp_path, *names))
    assert sorted(listing.class_names.values()) == sorted(names)
    assert any(split in note and "read as a class" in note for note in listing.notes)


def test_folders_that_are_all_called_like_splits_and_hold_images_ask_for_the_setting(tmp_path: Path) -> None:
    plant(tmp_path, "train", "valid", "test")
    with pytest.raises(UserError, match=r"no class folders.*if these are the classes: --split-folder none"):
        read(tmp_path)
    assert set(read(tmp_path, split_folders={}).class_names.values()) == {"train", "valid", "test"}


def test_the_setting_that_says_what_is_a_split_is_a_flag_too(command: Command, tmp_path: Path) -> None:
    for name in ("train", "valid"):
        for number in range(3):
            (tmp_path / "docs" / name).mkdir(parents=True, exist_ok=True)
            picture((number, 2, 3), number, size=4).save(tmp_path / "docs" / name / f"{number}.png")
    done = command(
        "pipeline", "ingest", "x", "--source", "docs", "--split-folder", "none", "--max-missing", "0", cwd=tmp_path
    )
    assert "2 classes" in done.stderr
    for wrong in ("train", "train=tain", "=train", "none=none"):
        command("pipeline", "ingest", "x", "--source", "docs", "--split-folder", wrong, cwd=tmp_path, code=2)


@pytest.mark.parametrize("folders", [{"trian": "train"}, {"train": "train", "test": "test"}])
def test_a_setting_that_fits_no_folder_is_refused(tmp_path: Path, folders: dict[str, str]) -> None:
    plant(tmp_path, "train/cat", "train/dog", "test")
    with pytest.raises(UserError, match=r"split_folders names 'trian'|split folder 'test' holds no class folders"):
        read(tmp_path, split_folders=folders)


def test_images_without_a_class_are_counted_listed_and_sent_to_predict(command: Command, tmp_path: Path) -> None:
    for path in ("train/cat/0.png", "train/dog/0.png", "test/7.png", "stray.png", "train/loose.png"):
        (tmp_path / "pets" / path).parent.mkdir(parents=True, exist_ok=True)
        picture((1, 2, 3), len(path), size=4).save(tmp_path / "pets" / path)
    said = command("pipeline", "ingest", "x", "--source", "pets", cwd=tmp_path).stderr
    assert "1 images in pets/test have no class" in said
    assert "`trainer predict pets/test --dataset x`" in said
    assert "2 images outside class folders, left out:\n  stray.png\n  train/loose.png\n" in said


@pytest.mark.parametrize("name", ["test", "Testing", "test_set", "seg_pred", "unlabeled", "test/test"])
def test_a_flat_folder_of_test_images_is_no_class(tmp_path: Path, name: str) -> None:
    top = name.split("/", maxsplit=1)[0]
    if top not in ("seg_pred", "unlabeled"):
        beside = read(plant(tmp_path / "classes", "cat", "dog", name, each=3))
        assert (beside.unlabelled, set(beside.class_names.values())) == ({top: 3}, {"cat", "dog"})
    splits = read(plant(tmp_path / "splits", "train/cat", "train/dog", "val/cat", "val/dog", name, each=3))
    assert (splits.unlabelled, set(by_split(splits))) == ({top: 3}, {"train", "val"})


def test_training_folders_alone_are_split_by_seed_and_it_is_said(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat", "train/dog", "test")
    assert set(by_split(read(tmp_path))) == {None}
    assert any("split by seed" in note and "--split-folder train=train" in note for note in read(tmp_path).notes)
    assert set(by_split(read(tmp_path, split_folders={"train": "train"}))) == {"train"}
    assert set(by_split(read(plant(tmp_path / "shifted", "test/cat", "test/dog")))) == {"test"}


@pytest.mark.parametrize(("rows", "is_set"), [(2, False), (4, False), (5, True), (10, True)])
def test_a_table_that_names_few_of_the_images_is_not_the_set(tmp_path: Path, rows: int, is_set: bool) -> None:
    plant(tmp_path, "cat", "dog", each=5)
    paths = [f"{name}/{number}.png" for number in range(5) for name in ("cat", "dog")]
    lines = [f"{path},{'dog' if path.startswith('cat') else 'cat'}" for path in paths[:rows]]
    (tmp_path / "mistakes.csv").write_text("\n".join(["file,label", *lines]))
    listing = read(tmp_path)
    said = " ".join(listing.notes)
    assert len(listing.entries) == (rows if is_set else 10)
    assert rows == 10 or f"{10 - rows} of 10 images" in said
    assert ("mistakes.csv is not the data set" in said) != is_set
    assert (f"mistakes.csv gives {rows} of {rows} images another class than their folder does" in said) == is_set
    assert len(read(tmp_path, split_folders={}).entries) == 10, "what is said about folders says that they are the set"


def test_a_faulty_table_among_class_folders_says_what_can_be_done(tmp_path: Path) -> None:
    plant(tmp_path, "cat", "dog")
    (tmp_path / "predictions.csv").write_text("file,label\ncat/0.png,cat\ncat/0.png,dog\n")
    with pytest.raises(UserError, match=r"predictions\.csv.*if it does not list the data set, move it away"):
        read(tmp_path)


def test_captions_of_a_few_images_do_not_replace_the_class_folders(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\ncat/0.png,a red square\n")
    assert set(by_split(read(tmp_path))) == {"train", "test"}


def test_a_list_beside_images_without_class_folders_stays_the_set_and_counts_the_others(tmp_path: Path) -> None:
    plant(tmp_path, "images", "test", each=4)
    (tmp_path / "labels.csv").write_text("file,label\n0.png,cat\n1.png,dog\n")
    listing = read(tmp_path)
    assert len(listing.entries) == 2
    assert any("6 of 8 images" in note for note in listing.notes)
    assert listing.unlabelled == {"test": 4}


def test_what_systems_leave_behind_is_no_class(tmp_path: Path) -> None:
    plant(tmp_path, "cat", "dog", "__MACOSX/cat", ".ipynb_checkpoints", "@eaDir", "cat/@eaDir", "lion/", "lion/cub/")
    (tmp_path / "cat" / "Thumbs.db").touch()
    (tmp_path / "cat" / "._0.png").touch()
    listing = read(tmp_path)
    assert listing.class_names == {0: "cat", 1: "dog"}
    assert "1 folder holds no image and is no class: lion" in listing.notes
    assert any(note.startswith("6 hidden files or folders") for note in listing.notes)
    assert (listing.ignored, listing.outside) == (0, [])


def test_an_empty_class_is_counted_the_same_everywhere(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        picture((1, 2, 3), number, size=4).save(tmp_path / "pets" / name / "0.png")
    (tmp_path / "pets" / "classes.txt").write_text("ape\ncat\ndog\n")
    (tmp_path / "pets" / "list.csv").write_text("file,label\ncat/0.png,1\ndog/0.png,2\n")
    summary = ingest("x", str(tmp_path / "pets"), data=DataParams(), cache=tmp_path / "cache")
    assert summary.classes == 2
    assert ManifestStore(tmp_path / "cache", "x").provenance().class_names == {1: "cat", 2: "dog"}
    assert "1 classes of the source have no image and are left out: ape" in summary.notes


def test_spellings_of_one_class_in_two_splits_are_one_class(tmp_path: Path) -> None:
    composed, apart = "Caf\u00e9", "Cafe\u0301"
    plant(tmp_path, f"train/{composed}", "train/Dog", f"test/{apart}", "test/dog ", each=3)
    listing = read(tmp_path)
    assert listing.class_names == {0: composed, 1: "Dog"}
    assert by_split(listing) == {"train": {composed, "Dog"}, "test": {composed, "Dog"}}
    assert any("6 images take the spelling kept" in note for note in listing.notes)
    named = read(tmp_path, class_names={apart: "coffee house"})
    assert named.class_names == {0: "coffee house", 1: "Dog"}


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("Caf\u00e9", "Cafe\u0301"), ("cat ", "cat")])
def test_spellings_side_by_side_are_refused_unless_they_are_named(tmp_path: Path, one: str, other: str) -> None:
    plant(tmp_path, f"train/{one}", f"train/{other}", "test/dog")
    with pytest.raises(UserError, match="in train differ in capitals, spaces or Unicode form alone"):
        read(tmp_path)
    if unicodedata.normalize("NFC", one).strip() != unicodedata.normalize("NFC", other).strip():
        names = {one: "big cat", other: "house cat"}
        assert set(read(tmp_path, class_names=names).class_names.values()) == {"big cat", "house cat", "dog"}


def test_links_are_followed_down_to_classes_and_counted_below(tmp_path: Path) -> None:
    plant(tmp_path / "elsewhere", "cat", "more")
    plant(tmp_path / "pets", "train/dog", "train/cow")
    (tmp_path / "pets" / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "pets" / "train" / "dog" / "loop").symlink_to(tmp_path / "pets")
    listing = read(tmp_path / "pets")
    assert set(listing.class_names.values()) == {"cat", "cow", "dog"}
    assert any("1 link to a folder is not followed (first: train/dog/loop)" in note for note in listing.notes)


NAMES = ["train", "Train", "test", "test_set", "val", "seg_train", "a_test", "cat", "Cat", "dog", "caf\u00e9",
         "cafe\u0301", "images", "__MACOSX", ".git", "x", "pred", "1"]  # fmt: skip
PATHS = st.lists(st.sampled_from(NAMES), max_size=4).map("/".join)


@settings(deadline=None, max_examples=150)
@given(found=st.dictionaries(PATHS, st.integers(0, 3), max_size=12), told=st.sampled_from([None, {}, {"x": "train"}]))
def test_every_image_is_a_row_or_in_a_counted_line_or_all_is_refused_in_one(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, int], told: dict[str, str] | None
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path, number in found.items():
        plant(root, path or ".", each=number)
    try:
        listing = read(root, split_folders=told)
    except UserError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert refused.startswith(str(root))
        assert "\n" not in refused
        return
    there = {file.relative_to(root).as_posix() for file in root.rglob("*.png")}
    there = {path for path in there if not any(map(is_left_behind, path.split("/")))}
    waiting = {path for path in there for folder in listing.unlabelled if path.startswith(f"{folder}/")}
    rows = [entry.path for entry in listing.entries]
    assert Counter(rows) + Counter(listing.outside) + Counter(waiting) == Counter(there)
    assert sum(listing.unlabelled.values()) == len(waiting)
    assert {entry.class_id: entry.class_name for entry in listing.entries} == listing.class_names
    assert sorted(listing.class_names) == list(range(len(listing.class_names)))
    assert all(unicodedata.is_normalized("NFC", name) for name in listing.class_names.values())


@given(st.text(max_size=40))
def test_any_folder_name_says_one_split_or_none(name: str) -> None:
    said = split_of_folder(name)
    assert said is None or said[0] in ("train", "val", "test")
