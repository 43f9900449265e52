"""Decisions about images, applied by ingest; and only what is new is embedded."""

from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, Command, picture
from small_cache import tiny_clip

from pipeline.embed import embed_images
from pipeline.encoders import load_encoder
from stages import ImageStore, ManifestStore
from stages.decisions import read_decisions, read_excluded, write_list
from stages.errors import UserError
from stages.params import EmbedParams


def rows(project: Path) -> dict[str, dict[str, object]]:
    store = ManifestStore(project / "cache", "weaves")
    return {row["image_id"]: row for row in store.read().to_pylist()}


@pytest.fixture
def project(weaves: Path, typed: Command) -> Path:
    """The weaves ingested, and beside them a pool of new pictures, one of which the data set has."""
    typed("pipeline", "ingest", "weaves", "--source", "weaves", cwd=weaves.parent)
    pool = weaves.parent / "pool"
    pool.mkdir()
    for i in range(3):
        picture(COLOURS["red weave"], 100 + i).save(pool / f"{i}.png")
    (pool / "copy.png").write_bytes((weaves / "blue weave" / "00.png").read_bytes())
    return weaves.parent


def test_decisions_change_labels_leave_images_out_and_add_new_ones_and_move_no_other_image(
    project: Path, typed: Command
) -> None:
    before = rows(project)
    write_list(
        project / "decisions.csv",
        ["image_id", "path", "action", "label"],
        [
            {"image_id": "red weave/00.png", "label": "BLUE weave"},
            {"image_id": "red weave/01.png", "action": "exclude"},
            {"path": str(project / "weaves/red weave/02.png"), "action": "confirm"},
            {"path": "pool/0.png", "label": "red weave"},
            {"path": "pool/copy.png", "label": "blue weave"},
            {"path": "pool/1.png"},
            {"image_id": "red weave/99.png", "label": "red weave"},
        ],
    )
    said = typed("pipeline", "ingest", "weaves", "--labels", "decisions.csv", cwd=project).stderr
    after = rows(project)
    assert set(after) == set(before) - {"red weave/01.png"} | {"pool/0.png"}
    assert after["red weave/00.png"]["class_name"] == "blue weave"
    assert after["pool/0.png"]["split"] == "train"
    assert after["pool/0.png"]["path"] == "pool/0.png"
    assert after["red weave/02.png"]["path"] == "weaves/red weave/02.png", "the root reaches both folders"
    assert {k: row["split"] for k, row in after.items() if k in before} == {
        k: row["split"] for k, row in before.items() if k in after
    }
    for line in (
        "1 image has another label", "1 image is left out", "1 image is confirmed", "1 row is undecided",
        "1 decision is about images that are gone", "2 new images are added to train",
        "1 new image is in weaves already, byte for byte, and not added",
    ):  # fmt: skip
        assert line in said


def test_a_second_round_keeps_the_first_and_a_plain_ingest_says_what_it_takes_back(
    project: Path, typed: Command
) -> None:
    (project / "one.csv").write_text("path,label\npool/0.png,red weave\n")
    (project / "two.csv").write_text("path;label\npool/1.png;yarn\n")
    typed("pipeline", "ingest", "weaves", "--labels", "one.csv", cwd=project)
    typed("pipeline", "ingest", "weaves", "--labels", "two.csv", cwd=project, code=1)
    said = typed("pipeline", "ingest", "weaves", "--labels", "two.csv", "--new-class", "yarn", cwd=project).stderr
    assert "taken again, as before: one.csv" in said
    assert {"pool/0.png", "pool/1.png"} < set(rows(project))
    assert rows(project)["pool/1.png"]["class_id"] == 4
    said = typed("pipeline", "ingest", "weaves", "--source", "weaves", cwd=project).stderr
    assert "no longer taken, though it was before: one.csv, two.csv (name it in data.weaves.labels)" in said
    assert len(rows(project)) == 48


def test_an_image_that_was_added_is_decided_about_like_any_other(project: Path, typed: Command) -> None:
    columns = ["image_id", "path", "action", "label"]
    write_list(project / "one.csv", columns, [{"path": f"pool/{i}.png", "label": "red weave"} for i in range(3)])
    again = [
        {"image_id": "pool/0.png", "path": str(project / "pool/0.png"), "label": "blue weave"},
        {"path": "./pool/1.png", "action": "exclude"},
    ]
    write_list(project / "two.csv", columns, again)
    (project / "out.txt").write_text("pool/2.png\n")
    typed("pipeline", "ingest", "weaves", "--labels", "one.csv", cwd=project)
    said = typed("pipeline", "ingest", "weaves", "--labels", "two.csv", "--exclude", "out.txt", cwd=project).stderr
    after = rows(project)
    assert after["pool/0.png"]["class_name"] == "blue weave"
    assert not {"pool/1.png", "pool/2.png"} & set(after)
    assert "2 images were decided otherwise in an earlier file" in said
    (project / "three.csv").write_text("image_id,label\npool/0.png,blue weave\n")
    typed("pipeline", "ingest", "weaves", "--labels", "three.csv", cwd=project)
    said = typed("pipeline", "ingest", "weaves", "--labels", "one.csv", cwd=project).stderr
    assert "three.csv: 1 decision is about an image that a later file decides about" in said
    assert rows(project)["pool/0.png"]["class_name"] == "red weave", "the file that was given last counts"
    everything = [{"image_id": name, "action": "exclude"} for name in rows(project) if name != "pool/0.png"]
    write_list(project / "all.csv", columns, everything)
    said = typed("pipeline", "ingest", "weaves", "--labels", "all.csv", cwd=project, code=1).stderr
    assert "after the decisions: only one class ('red weave')" in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"image_id": "red weave/00.png"}, {"path": "weaves/red weave/00.png"}),
        ({"path": "pool/0.png"}, {"path": "./pool/0.png"}),
    ],
)
def test_two_decisions_on_an_image_under_two_names_are_refused_with_both_lines(
    project: Path, typed: Command, one: dict[str, str], other: dict[str, str]
) -> None:
    rows = [{**one, "label": "red weave"}, {**other, "label": "blue weave"}]
    write_list(project / "two.csv", ["image_id", "path", "label"], rows)
    said = typed("pipeline", "ingest", "weaves", "--labels", "two.csv", cwd=project, code=1).stderr
    assert "line 3" in said
    assert "line 2" in said


def test_settings_name_decisions_and_exclude_lists(project: Path, typed: Command) -> None:
    (project / "out.txt").write_text("red weave/00.png\nred weave/98.png\n")
    (project / "wrong.csv").write_text("image_id,label\nred weave/00.png,blue weave\n")
    (project / "params.yaml").write_text(
        "data: {weaves: {source: weaves, labels: wrong.csv, exclude: [out.txt]}}\ndatasets: [weaves]\n"
    )
    said = typed("pipeline", "ingest", cwd=project).stderr
    assert "out.txt: 1 image is left out" in said
    assert "out.txt: 1 image to leave out not there anyway (first: red weave/98.png)" in said
    assert "red weave/00.png" not in rows(project)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("image_id,label\nred weave/00.png,bleu weave\n", "line 2: class 'bleu weave' is none of weaves"),
        ("image_id,label\nelse/00.png,red weave\n", "none of the 1 image that it decides about is in weaves"),
        (
            "image_id,label\nred weave/00.png,red weave\nred weave/00.png,blue weave\n",
            "line 3: image 'red weave",
        ),
        ("image_id,action\nred weave/00.png,lable\n", "line 2: action 'lable'; known: label, confirm, exclude"),
        ("image_id,action,label\nred weave/00.png,exclude,red weave\n", "both to be excluded and labelled"),
        ("image_id,action,label\nred weave/00.png,confirm,blue weave\n", "is of class 'red weave' and confirmed as"),
        ("path,action\npool/0.png,confirm\n", "one that is new cannot be confirmed"),
        ("image_id,name\nred weave/00.png,x\n", "neither a column `label` nor `action`"),
        ("image,label\nred weave/00.png,red weave\n", "neither a column `image_id` nor `path`"),
        ("image_id,label\nred weave/00.png\n", "line 2: 1 cells where the header has 2"),
        ("image_id,label\n", "no rows below the header"),
        ("image_id,label\n,red weave\n", "line 2: a decision without an image"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_and_the_manifest_stays(
    project: Path, typed: Command, text: str, line: str
) -> None:
    (project / "list.csv").write_text(text)
    before = ManifestStore(project / "cache", "weaves").file.read_bytes()
    said = typed("pipeline", "ingest", "weaves", "--labels", "list.csv", cwd=project, code=1).stderr
    assert line in said
    assert ManifestStore(project / "cache", "weaves").file.read_bytes() == before


def test_an_exclude_list_of_another_data_set_or_with_decisions_is_refused(project: Path, typed: Command) -> None:
    (project / "list.csv").write_text("rank,image_id\n1,cats/1.jpg\n")
    said = typed("pipeline", "ingest", "weaves", "--exclude", "list.csv", cwd=project, code=1).stderr
    assert "an exclude list of another data set?" in said
    (project / "list.csv").write_text("image_id,action,label\nred weave/00.png,,\n")
    said = typed("pipeline", "ingest", "weaves", "--exclude", "list.csv", cwd=project, code=1).stderr
    assert "give it to --labels" in said
    (project / "list.csv").write_text("image_id\n" + "".join(f"{c}/{i:02d}.png\n" for c in COLOURS for i in range(12)))
    said = typed("pipeline", "ingest", "weaves", "--exclude", "list.csv", cwd=project, code=1).stderr
    assert "no images in it" in said


def test_lists_are_read_as_spreadsheets_write_them(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes('\ufeffRank;Image_ID;Label\r\n1;"a;\nb.png";caf\u00e9\r\n2;c.png;\r\n'.encode())
    found = read_decisions(file)
    assert [(d.image_id, d.label) for d in found.rows] == [("a;\nb.png", "café")]
    assert found.undecided == 1
    write_list(file, ["image_id"], [{"image_id": name} for name in ("a,b.png", "c\rd.png", 'e"f.png', " g ")])
    assert read_excluded(file) == ["a,b.png", "c\rd.png", 'e"f.png', " g "]
    file.write_text("\n")
    with pytest.raises(UserError, match="an empty list"):
        read_excluded(file)


def test_only_what_is_new_is_embedded_again(project: Path, typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(tiny_clip(project / "tiny"), device="cpu")
    embed = EmbedParams(batch=8, workers=0, part=16)
    first = embed_images("weaves", encoder, embed=embed, cache=project / "cache")
    assert first.reused == 0
    store = ImageStore(project / "cache", "weaves", encoder.name)
    old = dict(zip(store.read(["image_id"])["image_id"].to_pylist(), store.embeddings(), strict=True))
    (project / "one.csv").write_text(
        "image_id,path,action,label\n,pool/0.png,,red weave\n,pool/2.png,,red weave\nred weave/03.png,,exclude,\n"
        "red weave/04.png,,,blue weave\n"
    )
    (project / "weaves" / "red weave" / "05.png").write_bytes((project / "pool" / "1.png").read_bytes())
    typed("pipeline", "ingest", "weaves", "--labels", "one.csv", cwd=project)
    store.file.unlink()  # as DVC does before it runs the stage
    encoded: list[int] = []
    encode = encoder.encode_images

    def counting(pixels: object) -> object:
        encoded.append(len(pixels))  # type: ignore[arg-type]
        return encode(pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder, "encode_images", counting)
    second = embed_images("weaves", encoder, embed=embed, cache=project / "cache")
    assert (second.rows, second.reused, sum(encoded)) == (49, 46, 3)
    new = dict(zip(store.read(["image_id"])["image_id"].to_pylist(), store.embeddings(), strict=True))
    assert all(np.array_equal(new[name], old[name]) for name in new if name in old and name != "red weave/05.png")
    assert not np.array_equal(new["red weave/05.png"], old["red weave/05.png"]), "other bytes under the same name"
    (project / "cache" / ".kept").rename(project / "away")
    store.file.unlink()
    assert embed_images("weaves", encoder, embed=embed, cache=project / "cache").reused == 0
    again = dict(zip(store.read(["image_id"])["image_id"].to_pylist(), store.embeddings(), strict=True))
    assert min(float(again[name] @ new[name]) for name in new) > 0.999


def test_with_augmentations_an_image_under_another_name_is_embedded_anew(project: Path, typed: Command) -> None:
    encoder = load_encoder(tiny_clip(project / "tiny"), device="cpu")
    embed = EmbedParams(batch=8, workers=0, part=16, views=1)
    embed_images("weaves", encoder, embed=embed, cache=project / "cache")
    (project / "weaves" / "red weave" / "05.png").rename(project / "weaves" / "red weave" / "50.png")
    typed("pipeline", "ingest", "weaves", "--source", "weaves", cwd=project)
    assert embed_images("weaves", encoder, embed=embed, cache=project / "cache").reused == 47
