"""Images to manifests: every file is accounted for, splits are kept or drawn by seed, bad sources are one line."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import COLOURS, Command, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import ingest
from pipeline.ingest.base import check_listing
from pipeline.ingest.coop import CoOpReader
from stages import ManifestStore, UserError
from stages.params import DataParams, SplitParams

DATA = DataParams()


def rows(cache: Path, name: str = "w") -> list[dict[str, object]]:
    return ManifestStore(cache, name).read().to_pylist()  # type: ignore[no-any-return]


def test_class_folders_get_a_seeded_split_per_class(weaves: Path, tmp_path: Path) -> None:
    summary = ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")
    assert summary.images == {"train": 24, "val": 4, "test": 20}
    found = rows(tmp_path / "cache")
    assert [r["class_name"] for r in sorted(found, key=lambda r: str(r["class_id"]))][::12] == sorted(COLOURS)
    for name in COLOURS:
        assert Counter(r["split"] for r in found if r["class_name"] == name) == {"train": 6, "val": 1, "test": 5}
    again = DataParams(split=SplitParams(seed=2))
    ingest("v", str(weaves), data=again, cache=tmp_path / "cache")
    other = {r["image_id"]: r["split"] for r in rows(tmp_path / "cache", "v")}
    assert any(other[r["image_id"]] != r["split"] for r in found)


def test_ingesting_twice_gives_the_same_bytes(weaves: Path, tmp_path: Path) -> None:
    files = []
    for cache in ("a", "b"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / cache)
        files.append(ManifestStore(tmp_path / cache, "w").file.read_bytes())
    assert files[0] == files[1]


def test_split_folders_keep_their_split(weaves: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for split in ("train", "test"):
        for name in ("green weave", "red weave"):
            shutil.copytree(weaves / name, root / split / name)
    summary = ingest("w", str(root), data=DATA, cache=tmp_path / "cache")
    assert summary.images == {"train": 24, "val": 0, "test": 24}
    assert len(summary.duplicates) == 48, "the same files stand in both splits, and it is said"


def test_every_odd_file_is_accounted_for(weaves: Path, tmp_path: Path) -> None:
    folder = weaves / "green weave"
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    whole = (folder / "00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop").symlink_to(weaves)
    picture((1, 2, 3), 0).convert("CMYK").save(folder / "cmyk.jpg")
    picture((1, 2, 3), 0, size=1).save(folder / "one.png")
    summary = ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")
    assert sorted(line.split(":")[0].split("/")[-1] for line in summary.unreadable) == [
        "cut.png", "empty.jpg", "gone.png", "text.jpg",
    ]  # fmt: skip
    assert summary.ignored == 1
    found = rows(tmp_path / "cache")
    assert len(found) == 48 + 6
    assert sum(r["error"] is None for r in found) == 48 + 2


def test_class_names_of_the_settings_are_used(weaves: Path, tmp_path: Path) -> None:
    data = DataParams(class_names={"green weave": "a \"green\" 'weave'; <b>"})
    ingest("w", str(weaves), data=data, cache=tmp_path / "cache")
    assert "a \"green\" 'weave'; <b>" in {r["class_name"] for r in rows(tmp_path / "cache")}


@pytest.mark.parametrize(
    "name", ["quo'te", 'dou"ble', "sémaphore", "emoji 🧵", "<script>", "'; DROP TABLE x; --", "line\nbreak", "x" * 200]
)
def test_hostile_class_names_pass_through_unharmed(weaves: Path, tmp_path: Path, name: str) -> None:
    (weaves / "red weave").rename(weaves / name)
    ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")
    assert name in {r["class_name"] for r in rows(tmp_path / "cache")}


def test_bad_sources_are_one_clear_line(weaves: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    (tmp_path / "hollow" / "b").mkdir()
    (tmp_path / "single" / "a").mkdir(parents=True)
    picture((1, 2, 3), 0).save(tmp_path / "single" / "a" / "x.png")
    shutil.copytree(weaves, tmp_path / "mixed")
    shutil.copytree(weaves / "red weave", tmp_path / "mixed" / "train" / "red weave")
    junk = tmp_path / "junk"
    for name in "ab":
        (junk / name).mkdir(parents=True)
        (junk / name / "x.jpg").write_text("junk")
    cases = {
        tmp_path / "missing": "does not exist",
        empty: "no class folders",
        tmp_path / "hollow": "no image in them",
        tmp_path / "single": "only one class",
        tmp_path / "mixed": "beside other folders",
        junk: "can be read as an image",
        "package:conformal-clip-dta": "did you mean 'conformal-clip-data'",
    }
    for source, part in cases.items():
        with pytest.raises(UserError, match=part):
            ingest("w", str(source), data=DATA, cache=tmp_path / "cache")
    assert not ManifestStore(tmp_path / "cache", "w").exists()


def test_a_coop_split_file_decides_ids_names_and_splits(weaves: Path, tmp_path: Path) -> None:
    split = {
        "train": [["red weave/00.png", 0, "red"], ["blue weave/00.png", 1, "blue"]],
        "val": [["red weave/01.png", 0, "red"]],
        "test": [["blue weave/02.png", 1, "blue"], ["blue weave/99.png", 1, "blue"]],
    }
    (weaves / "split_zhou_Weaves.json").write_text(json.dumps(split))
    summary = ingest("w", str(weaves), data=DataParams(max_missing=0.2), cache=tmp_path / "cache")
    assert summary.images == {"train": 2, "val": 1, "test": 1}
    assert "99.png" in summary.unreadable[0]
    found = {str(r["image_id"]): (r["class_id"], r["class_name"]) for r in rows(tmp_path / "cache")}
    assert found["train/red weave/00.png"] == (0, "red")


@pytest.mark.parametrize(
    "content",
    [
        "not json", "[]", '{"train": []}', '{"train": [["../x.png", 0, "a"]], "val": [], "test": []}',
        '{"train": [["/etc/passwd", 0, "a"]], "val": [], "test": []}',
        '{"train": [["x", "0", "a"]], "val": [], "test": []}',
        '{"train": [["x", 0, "a"], ["y", 0, "b"]], "val": [], "test": []}',
    ],
)  # fmt: skip
def test_a_malformed_split_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "split_zhou_X.json").write_text(content)
    with pytest.raises(UserError, match="split_zhou_X"):
        check_listing("split_zhou_X", CoOpReader().read(str(tmp_path), DATA))


def test_a_coop_split_file_is_a_source_by_itself(weaves: Path, tmp_path: Path) -> None:
    rows = [[f"{name}/0{i}.png", number, name] for number, name in enumerate(COLOURS) for i in range(3)]
    file = tmp_path / "elsewhere" / "my_split.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}))
    with pytest.raises(UserError, match=r"none of the 12 images that it names .* --images"):
        ingest("w", str(file), data=DATA, cache=tmp_path / "cache")
    summary = ingest("w", str(file), data=DataParams(images=str(weaves)), cache=tmp_path / "cache")
    assert (summary.images, summary.classes) == ({"train": 4, "val": 4, "test": 4}, 4)
    (file.parent / "images").symlink_to(weaves)
    assert not ingest("w", str(file), data=DATA, cache=tmp_path / "cache").unreadable


def test_links_that_go_round_in_circles_are_refused_or_passed_by(weaves: Path, tmp_path: Path) -> None:
    (weaves / "self").symlink_to(weaves / "self")
    (weaves / "red weave" / "up").symlink_to(weaves)
    assert sum(ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache").images.values()) == 48
    (weaves / "loop").symlink_to(weaves)
    with pytest.raises(UserError, match="a link to a folder that it lies in"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_one_line(weaves: Path, tmp_path: Path) -> None:
    (weaves / "red weave").chmod(0)
    with pytest.raises(UserError, match="red weave: cannot be read"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")


@pytest.mark.parametrize(("one", "other"), [("grey_weave", "grey weave"), ("grey\tweave", "grey weave")])
def test_two_folders_that_sentences_would_call_the_same_are_refused(
    weaves: Path, tmp_path: Path, one: str, other: str
) -> None:
    (weaves / "red weave").rename(weaves / one)
    with pytest.raises(UserError, match=r"class names must differ|one class or two"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")
    assert (weaves / other).is_dir()


@pytest.mark.parametrize("name", ["_", "\n", " "])
def test_a_class_without_a_name_is_refused(weaves: Path, tmp_path: Path, name: str) -> None:
    (weaves / "red weave").rename(weaves / name)
    with pytest.raises(UserError, match="has no name"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")


def test_a_file_name_that_is_not_utf8_is_refused_by_name(weaves: Path, tmp_path: Path) -> None:
    picture((1, 2, 3), 0).save(os.fsdecode(os.fsencode(weaves / "red weave") + b"/caf\xe9.png"))
    with pytest.raises(UserError, match=r"caf\\udce9.png' is not UTF-8"):
        ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")


def test_folders_with_numbers_for_names_stand_in_the_order_of_the_numbers(weaves: Path, tmp_path: Path) -> None:
    for number, folder in zip((0, 2, 10, 100), sorted(weaves.iterdir()), strict=True):
        folder.rename(weaves / str(number))
    ingest("w", str(weaves), data=DATA, cache=tmp_path / "cache")
    assert list(ManifestStore(tmp_path / "cache", "w").provenance().class_names.values()) == ["0", "2", "10", "100"]


def test_what_a_name_would_do_to_a_terminal_is_shown_and_not_done(
    command: Command, weaves: Path, tmp_path: Path
) -> None:
    (weaves / "red weave" / "\x1b[2J\n.png").write_text("x")
    done = command("pipeline", "ingest", "w", "--source", weaves, cwd=tmp_path)
    assert "\\x1b[2J\\n.png" in done.stderr
    assert "\x1b" not in done.stderr


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    train=st.integers(1, 10),
    val=st.integers(0, 5),
    test=st.integers(0, 10),
)
def test_a_seeded_split_is_a_partition_with_the_asked_shares(
    counts: list[int], train: int, val: int, test: int
) -> None:
    from pipeline.ingest import Entry
    from pipeline.ingest.splits import draw_splits

    total = train + val + test
    shares = SplitParams(train=train / total, val=val / total, test=test / total)
    entries = [Entry("x", f"{c}/{i}", c, str(c)) for c, n in enumerate(counts) for i in range(n)]
    found = draw_splits(entries, shares)
    assert [e.image_id for e in found] == [e.image_id for e in entries]
    for c, n in enumerate(counts):
        drawn = Counter(e.split for e in found if e.class_id == c)
        assert abs(drawn["test"] - shares.test * n) <= 1
        assert abs(drawn["val"] - shares.val * n) <= 1
    assert draw_splits(list(reversed(entries)), shares) == list(reversed(found)), (
        "independent of the order of the files"
    )


def test_the_command_prints_counts_and_json(command: Command, weaves: Path, tmp_path: Path) -> None:
    (weaves / "red weave" / "bad.png").write_text("x")
    done = command("pipeline", "ingest", "w", "--source", weaves, "--json", cwd=tmp_path)
    assert "20 test images; 4 classes" in done.stderr
    assert "bad.png" in done.stderr
    assert json.loads(done.stdout)[0]["classes"] == 4
    done = command("pipeline", "ingest", "other", cwd=tmp_path, code=2)
    assert "give --source" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
