"""Known data sets with something wrong in them: `ingest` refuses it or counts it, and `doctor` tells it beforehand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import looks
from pipeline.doctor.check import Check
from pipeline.doctor.sources import check_sources
from pipeline.ingest import ingest
from pipeline.registry import cards
from pipeline.registry.synsets import class_ids, imagenet_names
from pipeline.rehearsal.sets import write_set
from stages import ManifestStore, UserError
from stages.params import DataParams, Params

Damage = Callable[[Path], Any]
NAMES = ("imagenet", "imagenetv2", "imagenet_a", "eurosat", "fgvc_aircraft", "coco", "flickr30k", "nocaps", "vqa2")
V2 = "imagenetv2-matched-frequency-format-val"
SPLIT, COCO, NOCAPS = "split_zhou_EuroSAT.json", "dataset_coco.json", "nocaps_val_4500_captions.json"
ASKED, SAID = "v2_OpenEnded_mscoco_{}2014_questions.json", "v2_mscoco_{}2014_annotations.json"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-ins")
    for name in NAMES:
        write_set(name, folder / name)
    return folder


@pytest.fixture
def copied(stand_ins: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        shutil.copytree(stand_ins / name, tmp_path / name)
        return tmp_path / name

    return copy


def take(name: str, folder: Path) -> list[str]:
    """What `ingest` notes."""
    return ingest(name, str(folder), data=DataParams(), cache=folder.parent / "cache").notes


def look(name: str, folder: Path) -> Check:
    """What `doctor` finds."""
    params = Params.model_validate({"datasets": [name], "data": {name: {"source": str(folder)}}})
    return check_sources(params, folder.parent / "cache")[0]


def rename(old: str, new: str) -> Damage:
    return lambda folder: (folder / old).rename(folder / new)


def write(file: str, text: str) -> Damage:
    return lambda folder: (folder / file).write_text(text)


def edit(file: str, change: Callable[[Any], Any]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def copy(old: str, new: str) -> Damage:
    return lambda folder: shutil.copy(folder / old, folder / new)


def deeper(path: str) -> Damage:
    """One folder too many: `2750/2750`; of the data set itself where there is no path."""

    def damage(folder: Path) -> None:
        place = folder / path
        place.rename(folder.parent / "aside")
        place.mkdir()
        (folder.parent / "aside").rename(place / "inner")

    return damage


def double_variants(folder: Path) -> None:
    (folder / "variants.txt").write_text((folder / "variants.txt").read_text() * 2)


REFUSED: list[tuple[str, Damage, str, str]] = [
    ("imagenet", rename("images/train/n01443537", "images/train/goldfish"),
     "images/train holds 1000 class folders: goldfish is none of its classes, n01443537 is missing", ""),
    ("imagenet", lambda f: (f / "images/train/n99999999").mkdir(),
     "images/train holds 1001 class folders, expected 1000: n99999999 is none of its classes", ""),
    ("imagenet", lambda f: [image.unlink() for image in (f / "images/val").rglob("*.JPEG")],
     "no image is in its test split, where the published one of ImageNet (ILSVRC 2012) has 50,000",
     "images/val: 1,000 class folders but no image in them"),
    ("imagenet_a", rename("imagenet-a/n01531178", "imagenet-a/goldfinch"),
     "goldfinch is none of its classes, n01531178 is missing", ""),
    ("imagenet_a", deeper("imagenet-a"), "they lie one folder deeper, in imagenet-a/inner", ""),
    ("imagenetv2", rename(f"{V2}/1", f"{V2}/goldfish"), "goldfish is none of its classes, 1 is missing", ""),
    ("eurosat", write(SPLIT, "{"), f"{SPLIT}: not readable as JSON", ""),
    ("eurosat", edit(SPLIT, lambda split: split.update(test=[])), "no image is in its test split", ""),
    ("eurosat", deeper("2750"), "AnnualCrop/AnnualCrop_1.jpg' lies below ", "which lies below "),
    ("eurosat", edit(SPLIT, lambda split: split["train"][0].__setitem__(1, True)), "train[0] is \"['AnnualCrop/", ""),
    ("eurosat", deeper(""), "EuroSAT (RGB) lies 1 folder deeper: --source ", ""),
    ("fgvc_aircraft", double_variants, "variants.txt, line 5: class '707-320' stands there twice (line 1)", ""),
    ("fgvc_aircraft", write("variants.txt", "\n"), "variants.txt: no class in it", ""),
    ("fgvc_aircraft", copy("images_variant_val.txt", "images_variant_test.txt"),
     "images_variant_test.txt, line 1: image 1100000 stands in images_variant_val.txt already", ""),
    ("coco", lambda f: (f / COCO).unlink(), f"{COCO} is missing (captions and Karpathy's split; get: ", ""),
    ("flickr30k", lambda f: (f / "dataset_flickr30k.json").unlink(), "no captions of Flickr30k (Karpathy's split)", ""),
    ("nocaps", lambda f: (f / NOCAPS).unlink(), f"{NOCAPS} is missing (4,500 images with 10 captions each; get: ", ""),
    ("coco", edit(COCO, lambda c: c["images"].append(c["images"][0])), "stands there twice; keep one", ""),
    ("coco", lambda f: ((f / COCO).unlink(), (f / COCO).mkdir()), f"{COCO} is a folder, expected a file", ""),
    ("nocaps", edit(NOCAPS, lambda c: c.update(annotations=[])), "3 images, of which nothing is said", ""),
    ("nocaps", edit(NOCAPS, lambda c: c.pop("annotations")), "3 images, of which nothing is said", ""),
    ("vqa2", copy(SAID.format("train"), SAID.format("val")),
     "question 9000 is answered in v2_mscoco_train2014_annotations.json too", ""),
    ("vqa2", edit(SAID.format("val"), lambda said: said.update(annotations=said["annotations"][:5])),
     "7 of 12 questions in test have no answer", ""),
    ("vqa2", edit(SAID.format("val"), lambda said: said.update(annotations=[])), "12 of 12 questions in test", ""),
    ("vqa2", lambda f: [(f / kind.format("train")).unlink() for kind in (ASKED, SAID)], "not the whole of VQA v2", ""),
]  # fmt: skip
"""Data set, damage, what `ingest` says, and what `doctor` does where that is other."""


@pytest.mark.parametrize(("name", "damage", "said", "told"), REFUSED)
def test_what_is_not_the_published_set_is_refused_and_doctor_knows_it(
    name: str, damage: Damage, said: str, told: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(name)
    damage(folder)
    found = look(name, folder)
    assert found.state == "fault"
    assert (told or said) in found.text
    with pytest.raises(UserError) as caught:
        take(name, folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not ManifestStore(folder.parent / "cache", name).exists()


COUNTED: list[tuple[str, Damage, str]] = [
    ("eurosat", edit(SPLIT, lambda split: split["train"].append(split["train"][0])), "1 rows stand there twice"),
    ("coco", edit(COCO, lambda c: c["images"][0].update(sentences=[])), "1 of 16 images have no caption"),
    ("nocaps", edit(NOCAPS, lambda c: c["annotations"].extend(c["annotations"])), "30 captions stand twice in"),
    ("vqa2", edit(SAID.format("val"), lambda said: said["annotations"][0].update(answers=[])),
     "1 of 30 questions have no answer"),
    ("vqa2", edit(SAID.format("val"), lambda said: said["annotations"].append({"question_id": 5, "answers": []})),
     "1 of 31 answered questions are in no file of questions"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "said"), COUNTED)
def test_what_is_left_out_or_lacking_is_counted(
    name: str, damage: Damage, said: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(name)
    damage(folder)
    assert any(said in note for note in take(name, folder))


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_images_than_published_is_said_by_both(name: str, stand_ins: Path, tmp_path: Path) -> None:
    summary = ingest(name, str(stand_ins / name), data=DataParams(), cache=tmp_path / "cache")
    assert any("published numbers do not compare" in note for note in summary.notes)
    found = look(name, stand_ins / name)
    assert found.state == "note"
    assert "published numbers do not compare" in found.text or "class folders are empty" in found.text


def test_questions_whose_answers_nobody_has_do_not_take_the_place_of_the_test_split(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("vqa2")
    asked = {"questions": [{"image_id": 1, "question": "Why?", "question_id": 7}], "data_subtype": "test2015"}
    (folder / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps(asked))
    assert "1 images of its test split are left out: their answers are not public" in take("vqa2", folder)
    rows = ManifestStore(folder.parent / "cache", "vqa2").read().to_pylist()
    assert {row["split"] for row in rows if "val2014" in row["path"]} == {"test"}


def test_doctor_reads_only_the_ends_of_large_files(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LARGEST", 100)
    coco, vqa = copied("coco"), copied("vqa2")
    assert "10 train, 2 val, 4 test images, where the published split of COCO" in look("coco", coco).text
    (coco / COCO).write_text((coco / COCO).read_text()[:-20])
    assert look("coco", coco).text == f"{coco / COCO}: cut off, or no JSON"
    shutil.copy(vqa / SAID.format("train"), vqa / SAID.format("val"))
    assert look("vqa2", vqa).text == f"{vqa / SAID.format('val')}: it says that it is of train2014"


def test_a_source_that_is_an_empty_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "ucf101").touch()
    found = look("ucf101", tmp_path / "ucf101")
    assert (found.state, found.text) == ("fault", f"{tmp_path / 'ucf101'} is an empty file")


def test_images_of_two_files_of_captions_are_not_taken_twice(copied: Callable[[str], Path]) -> None:
    folder = copied("nocaps")
    shutil.copy(folder / NOCAPS, folder / "captions_again.json")
    with pytest.raises(UserError, match=r"stands in captions_again\.json as well; keep one of the files"):
        ingest("mine", str(folder), data=DataParams(), cache=folder.parent / "cache")


def test_half_of_the_captions_of_all_images_is_said(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("nocaps")
    small = cards()["nocaps"].model_copy(update={"images_of": {"test": 3}, "texts": 30})
    monkeypatch.setattr("pipeline.ingest.published.card", lambda _: small)
    assert take("nocaps", folder) == []
    edit(NOCAPS, lambda c: c.update(annotations=c["annotations"][::2]))(folder)
    assert take("nocaps", folder)[0].startswith("15 captions, where the published NoCaps (validation) has 30: another")


def test_another_version_of_a_variant_is_not_taken_for_it(copied: Callable[[str], Path]) -> None:
    folder = copied("imagenetv2")
    other = (folder / V2).rename(folder / "imagenetv2-threshold0.7-format-val")
    assert "imagenetv2-threshold0.7-format-val is another version of it" in look("imagenetv2", other).text
    with pytest.raises(UserError, match=r"imagenetv2-threshold0\.7-format-val is another version of it"):
        take("imagenetv2", other)
    with pytest.raises(UserError, match=r"is another version of ImageNetV2 \(matched frequency\)"):
        take("imagenetv2", folder)


def test_a_file_and_a_part_under_a_known_name_are_read_as_they_are_with_a_line(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("nocaps")
    take("nocaps", folder / NOCAPS)
    assert "is a file, read as it is, without the split and names of NoCaps (validation)" in capsys.readouterr().err
    folder = copied("eurosat")
    take("eurosat", folder / "2750")
    assert f"for that give --source {folder}, of which it is a part" in capsys.readouterr().err


def test_the_variants_have_the_classes_of_the_published_ones() -> None:
    assert {name: len(class_ids(name)) for name, known in cards().items() if "ImageNet" in (known.names or "")} == {
        name: known.classes for name, known in cards().items() if "ImageNet" in (known.names or "")
    }
    assert class_ids("imagenet_a") < imagenet_names().keys()
    assert class_ids("imagenet_a") != class_ids("imagenet_r")
