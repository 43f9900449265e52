"""Known data sets: what a card says is true of its folder, what is missing is named, and own data keep their way."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import Command, picture

from pipeline.ingest import ingest
from pipeline.prompts.questions import load_table
from pipeline.registry import Card, card, cards, prepare
from pipeline.registry.cards import TABLE
from pipeline.registry.cards import cards as read_cards
from pipeline.registry.readers import AircraftReader, SynsetReader
from pipeline.registry.synsets import imagenet_names
from stages import ManifestStore, UserError
from stages.params import DataParams

ROOT = Path(__file__).parents[2]
DATA = DataParams()
CLASSES = {
    "caltech101": 100, "oxford_pets": 37, "stanford_cars": 196, "flowers102": 102, "food101": 101,
    "fgvc_aircraft": 100, "sun397": 397, "ucf101": 101, "dtd": 47, "eurosat": 10, "imagenet": 1000,
    "imagenetv2": 1000, "imagenet_sketch": 1000, "imagenet_a": 200, "imagenet_r": 200,
    "coco": None, "flickr30k": None, "nocaps": None, "vqa2": None,
}  # fmt: skip


def lay_out(known: Card, folder: Path) -> None:
    """Make everything that a card asks for, with nothing in it that says more than its name."""
    for item in known.layout:
        path = folder / item.path[0]
        if path.suffix in (".json", ".txt"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
            (path / "some.jpg").touch()
        for name in known.folder_names()[0] if item.folders else ():
            (path / name).mkdir()


def picture_at(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture((40, 90, 160), seed, size=4).save(path)


def test_the_table_holds_the_known_data_sets_with_their_numbers_of_classes() -> None:
    assert {name: known.classes for name, known in cards().items()} == CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_a_card_says_all_that_its_task_needs(name: str) -> None:
    known = cards()[name]
    assert (known.task == "classification") == (known.classes is not None)
    if known.task == "classification":
        assert known.templates
        assert all(template.count("{}") == 1 for template in known.templates)
        assert known.questions in load_table().questions
        assert known.names
        assert known.kind
    if known.names == "split file":
        assert known.split_file in [path for item in known.layout for path in item.path]


@pytest.mark.parametrize("name", CLASSES)
def test_a_whole_folder_passes_and_every_missing_part_is_named(name: str, tmp_path: Path) -> None:
    known = cards()[name]
    lay_out(known, tmp_path)
    assert known.check(tmp_path) == []
    empty = tmp_path / "empty"
    empty.mkdir()
    faults = known.check(empty)
    assert len(faults) == len(known.layout)
    for item, fault in zip(known.layout, faults, strict=True):
        assert item.what in fault
        assert item.get in fault


def test_names_are_found_in_any_writing() -> None:
    assert card("Oxford-Pets") is cards()["oxford_pets"]
    assert card("my-own") is None


def test_all_faults_of_a_table_are_reported_together(tmp_path: Path) -> None:
    raw = yaml.safe_load(TABLE.read_text())
    raw["dtd"]["task"] = "textures"
    raw["eurosat"]["classe"] = 10
    del raw["coco"]["marks"]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError) as caught:
        read_cards(tmp_path / "t.yaml")
    for part in ("dtd.task", "eurosat.classe: unknown key", "coco.marks: missing"):
        assert part in str(caught.value)


def test_imagenet_has_a_thousand_different_class_names_in_the_order_of_the_ids() -> None:
    names = imagenet_names()
    assert list(names) == sorted(names)
    assert len(set(names.values())) == 1000
    assert next(iter(names.items())) == ("n01440764", "tench")
    assert names["n02012849"] == "crane bird"


def test_an_unknown_name_and_a_source_that_is_no_folder_pass_through() -> None:
    assert prepare("mine", "anywhere", DATA) == ("anywhere", DATA)
    assert prepare("eurosat", "package:eurosat", DATA) == ("package:eurosat", DATA)


def test_own_class_folders_may_have_a_known_name(weaves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("flowers102", str(weaves), DATA) == (str(weaves), DATA)
    assert "not laid out as Oxford Flowers 102: read as it is" in capsys.readouterr().err


def test_a_marked_folder_that_lacks_something_is_refused_with_what_and_where(tmp_path: Path) -> None:
    (tmp_path / "2750").mkdir()
    with pytest.raises(UserError, match=r"split_zhou_EuroSAT\.json is missing .*CoOp's DATASETS\.md.*https://"):
        prepare("eurosat", str(tmp_path), DATA)
    (tmp_path / "imagenet" / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(UserError, match=r"train holds 1 class folders, expected 1000.*images/val or val is missing"):
        prepare("imagenet", str(tmp_path / "imagenet"), DATA)


def test_coops_layout_is_read_with_its_split_names_and_template(tmp_path: Path) -> None:
    rows = {split: [] for split in ("train", "val", "test")}  # type: dict[str, list[list[object]]]
    for number, (folder, name) in enumerate((("AnnualCrop", "Annual Crop Land"), ("SeaLake", "Sea or Lake"))):
        for seed, split in enumerate(rows):
            picture_at(tmp_path / "2750" / folder / f"{seed}.png", seed + 10 * number)
            rows[split].append([f"{folder}/{seed}.png", number, name])
    (tmp_path / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    source, data = prepare("eurosat", str(tmp_path), DATA)
    assert data.templates == ["a centered satellite photo of {}."]
    summary = ingest("eurosat", source, data=data, cache=tmp_path / "cache")
    assert summary.images == {"train": 2, "val": 2, "test": 2}
    found = ManifestStore(tmp_path / "cache", "eurosat").read().to_pylist()
    assert {row["class_name"] for row in found} == {"Annual Crop Land", "Sea or Lake"}
    assert not any(row["error"] for row in found)


def coco(folder: Path, split: str, number: int) -> str:
    name = f"COCO_{split}_{number:012d}.jpg"
    picture_at(folder / split / name, number)
    return name


def test_coco_and_flickr_are_read_with_karpathys_split(tmp_path: Path) -> None:
    for name, filepath, folder in (("coco", "val2014", "images"), ("flickr30k", "", "flickr30k-images")):
        root = tmp_path / name
        coco(root / "images", "train2014", 9)
        images = []
        for number, split in enumerate(("train", "restval", "val", "test")):
            file = coco(root / folder, filepath or ".", number)
            sentences = [{"raw": f"a blue square {n}"} for n in range(5)]
            images.append({"filename": file, "filepath": filepath, "split": split, "sentences": sentences})
        (root / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
        source, data = prepare(name, str(root), DATA)
        summary = ingest(name, source, data=data, cache=tmp_path / "cache")
        assert summary.images == {"train": 2, "val": 1, "test": 1}
        assert (summary.captions, summary.unreadable) == (20, [])


def test_nocaps_is_all_test(tmp_path: Path) -> None:
    picture_at(tmp_path / "val" / "0013ea2087020901.jpg")
    file = {"images": [{"id": 0, "file_name": "0013ea2087020901.jpg"}],
            "annotations": [{"image_id": 0, "id": n, "caption": "a blue square"} for n in range(10)]}  # fmt: skip
    (tmp_path / "nocaps_val_4500_captions.json").write_text(json.dumps(file))
    source, data = prepare("nocaps", str(tmp_path), DATA)
    summary = ingest("nocaps", source, data=data, cache=tmp_path / "cache")
    assert (summary.images, summary.captions) == ({"train": 0, "val": 0, "test": 1}, 10)
    assert summary.unreadable == []


def test_vqa2_is_read_from_its_four_files(tmp_path: Path) -> None:
    for number, split in ((1, "train2014"), (2, "val2014")):
        coco(tmp_path, split, number)
        of = {"question_id": 10 * number, "image_id": number}
        asked = {"data_subtype": split, "questions": [{**of, "question": "Blue?"}]}
        said = {"annotations": [{**of, "answers": [{"answer": "yes"}] * 10}]}
        (tmp_path / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps(asked))
        (tmp_path / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps(said))
    source, data = prepare("vqa2", str(tmp_path), DATA)
    summary = ingest("vqa2", source, data=data, cache=tmp_path / "cache")
    assert (summary.images, summary.questions) == ({"train": 1, "val": 0, "test": 1}, 2), (
        "val2014 is what the field tests on"
    )
    found = ManifestStore(tmp_path / "cache", "vqa2").read().to_pylist()
    assert all(row["questions"][0]["answers"] == ["yes"] * 10 for row in found)
    assert summary.unreadable == []


def test_class_folders_called_as_the_known_ones_get_the_clean_names(tmp_path: Path) -> None:
    names = cards()["eurosat"].class_names
    for split in ("train", "test"):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
    source, data = prepare("eurosat", str(tmp_path), DATA)
    assert source == str(tmp_path)
    assert data.class_names == names
    assert data.images is None
    own = DataParams(templates=["{} from above."], class_names={"River": "stream"})
    assert prepare("eurosat", str(tmp_path), own)[1] == own, "what the user set stays"


def test_folders_of_wordnet_ids_get_imagenets_names_and_val_is_the_test_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01443537", "n01440764"):
            picture_at(tmp_path / split / wnid / "a.png")
    (tmp_path / "train" / "n01440764" / "notes.txt").touch()
    reader = SynsetReader()
    assert reader.matches(str(tmp_path))
    listing = reader.read(str(tmp_path), DataParams(class_names={"n01443537": "gold fish"}))
    assert listing.class_names == {0: "tench", 1: "gold fish"}
    assert listing.ignored == 1
    assert [(e.path, e.class_id, e.split) for e in listing.entries] == [
        ("train/n01440764/a.png", 0, "train"),
        ("train/n01443537/a.png", 1, "train"),
        ("val/n01440764/a.png", 0, "test"),
        ("val/n01443537/a.png", 1, "test"),
    ]


def test_folders_that_are_not_all_wordnet_ids_are_no_imagenet(weaves: Path) -> None:
    (weaves / "n01440764").mkdir()
    assert not SynsetReader().matches(str(weaves))
    assert not SynsetReader().matches("nowhere")


def test_imagenet_v2_gets_names_by_number_and_is_all_test(tmp_path: Path) -> None:
    inner = tmp_path / "imagenetv2-matched-frequency-format-val"
    for number in range(1000):
        (inner / str(number)).mkdir(parents=True)
    source, data = prepare("imagenetv2", str(tmp_path), DATA)
    assert source == str(inner)
    assert data.class_names["0"] == "tench"
    assert data.class_names["999"] == list(imagenet_names().values())[999]
    assert (data.split.train, data.split.val, data.split.test) == (0, 0, 1)


def aircraft(folder: Path, train: str = "0034309 707-320\n0034958 F/A-18\n") -> Path:
    folder.mkdir()
    (folder / "variants.txt").write_text("707-320\nF/A-18\n")
    (folder / "images_variant_train.txt").write_text(train)
    for split in ("val", "test"):
        (folder / f"images_variant_{split}.txt").write_text(f"000{len(split)} F/A-18\n")
    for image in ("0034309", "0034958", "0003", "0004"):
        picture_at(folder / "images" / f"{image}.jpg")
    return folder


def test_aircraft_are_read_from_their_text_files(tmp_path: Path) -> None:
    data = aircraft(tmp_path / "data")
    source, settings = prepare("fgvc-aircraft", str(tmp_path), DATA)
    assert Path(source) == data, "the archive's data/ is found"
    assert settings.templates == ["a photo of a {}, a type of aircraft."]
    listing = AircraftReader().read(source, settings)
    assert listing.class_names == {0: "707-320", 1: "F/A-18"}
    assert [(e.path, e.class_name, e.split) for e in listing.entries] == [
        ("images/0034309.jpg", "707-320", "train"),
        ("images/0034958.jpg", "F/A-18", "train"),
        ("images/0003.jpg", "F/A-18", "val"),
        ("images/0004.jpg", "F/A-18", "test"),
    ]


@pytest.mark.parametrize("line", ["0034309 747", "0034309", "../../etc/passwd 707-320", "\x00 707-320"])
def test_a_bad_line_of_the_aircraft_lists_is_named(tmp_path: Path, line: str) -> None:
    folder = aircraft(tmp_path / "data", train=f"0034309 707-320\n{line}\n")
    with pytest.raises(UserError, match=r"images_variant_train\.txt, line 2"):
        AircraftReader().read(str(folder), DATA)


def test_the_command_shows_the_table_one_card_and_json(tmp_path: Path, command: Command) -> None:
    table = command("pipeline", "datasets", cwd=tmp_path).stdout
    assert all(name in table for name in CLASSES)
    one = command("pipeline", "datasets", "UCF101", cwd=tmp_path).stdout
    assert "UCF-101-midframes" in one
    assert "a photo of a person doing {}." in one
    shown = json.loads(command("pipeline", "datasets", "dtd", "--json", cwd=tmp_path).stdout)
    assert shown["split_file"] == "split_zhou_DescribableTextures.json"
    assert "did you mean 'ucf101'?" in command("pipeline", "datasets", "ucf-101", cwd=tmp_path, code=2).stderr


def test_the_document_has_a_line_for_every_card() -> None:
    text = (ROOT / "docs" / "datasets.md").read_text()
    for name, known in cards().items():
        line = next((line for line in text.splitlines() if line.startswith(f"| `{name}` |")), "")
        cells = [cell.strip() for cell in line.split("|")]
        assert known.title in cells, name
        assert str(known.classes or "-") in cells, name
        assert (known.licence or "-") in cells, name


@pytest.mark.parametrize("name", CLASSES)
def test_how_a_data_set_is_got_says_place_licence_size_split_file_and_layout(name: str, typed: Command) -> None:
    known = cards()[name]
    said = typed("pipeline", "datasets", name, "--how", cwd=ROOT).stdout
    for part in (
        known.homepage or known.addresses(),
        known.licence or "licence:    not stated",
        "\ndownload:",
        "\nsplit file:",
        "\nimages:",
    ):
        assert part is not None
        assert part in said
    assert all(item.what in said and item.path[0] in said for item in known.layout)
    assert said.rstrip().endswith(f"then: pipeline ingest {name} --source FOLDER")


def test_a_split_file_of_another_version_is_said_when_it_is_read(tmp_path: Path, typed: Command) -> None:
    rows = {}
    for number, split in enumerate(("train", "val", "test")):
        rows[split] = [[f"{name}/{number}.png", k, name] for k, name in enumerate(("Forest", "River"))]
        for path, seed, _ in rows[split]:
            picture_at(tmp_path / "2750" / path, seed)
    (tmp_path / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    said = typed("pipeline", "ingest", "eurosat", "--source", tmp_path, "--cache", tmp_path / "c", cwd=tmp_path).stderr
    assert "eurosat: 2 train, 2 val, 2 test images of 2 classes, where the published split of EuroSAT (RGB) has" in said
