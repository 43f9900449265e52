"""`trainer suggest`: what it picks first, what it leaves aside, and that a pool of any size fits."""

import csv
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, Command, picture
from small_cache import make_cache

from trainer.suggest.choose import choose, cover_by, likeness, margin_doubt, quick_classifier, width_of
from trainer.suggest.pool import Pool, Seen

ROOT = Path(__file__).parents[2]


def clusters(sizes: list[int], width: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(torch.eye(width)[labels] * 4 + noise, dim=1), labels


def test_the_first_picks_take_one_of_each_kind_the_largest_first() -> None:
    x, labels = clusters([40, 20, 10])
    picks = choose(x, x, torch.ones(70), torch.zeros(70), n=3, width=width_of(x))
    assert labels[picks.index].tolist() == [0, 1, 2]
    assert picks.gain == sorted(picks.gain, reverse=True)
    assert 0 < sum(picks.gain) < 1


def test_what_is_labelled_already_or_sure_is_not_picked() -> None:
    x, labels = clusters([30, 30, 30])
    width = width_of(x)
    cover = cover_by(iter([x[:10]]), x, width)
    assert torch.allclose(cover, likeness(x, x[:10], width).amax(1))
    picks = choose(x, x, torch.ones(90), cover, n=2, width=width)
    assert 0 not in labels[picks.index].tolist()
    doubt = torch.where(labels == 2, 1.0, 0.01)
    assert labels[choose(x, x, doubt, torch.zeros(90), n=4, width=width).index].tolist() == [2, 2, 2, 2]


def test_identical_images_are_picked_once_each_and_never_fail() -> None:
    x = torch.nn.functional.normalize(torch.ones(5, 4), dim=1)
    picks = choose(x, x, torch.ones(5), torch.zeros(5), n=9, width=width_of(x))
    assert sorted(picks.index) == [0, 1, 2, 3, 4]
    assert picks.gain[0] == pytest.approx(1)
    assert picks.gain[1:] == [0, 0, 0, 0]


def test_a_greedy_pick_is_the_best_of_all_single_ones() -> None:
    x, _ = clusters([9, 7, 5], seed=3)
    doubt, width = torch.rand(21, generator=torch.Generator().manual_seed(1)), width_of(x)
    cover = torch.zeros(21)
    for place in choose(x, x, doubt, cover, n=5, width=width).index:
        gains = [float((doubt * (likeness(x, x[[j]], width)[:, 0] - cover).clamp_min(0)).sum()) for j in range(21)]
        assert gains[place] == pytest.approx(max(gains))
        cover = torch.maximum(cover, likeness(x, x[[place]], width)[:, 0])


def test_a_quick_classifier_learns_from_one_image_a_class() -> None:
    x, labels = clusters([20, 20, 20])
    shares = quick_classifier(x[[0, 20, 40]], torch.arange(3))(x)
    assert (shares.argmax(1) == labels).float().mean() > 0.8
    assert torch.allclose(shares.sum(1), torch.ones(60))
    assert margin_doubt(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist() == [1, 0]


def test_a_pool_of_any_size_keeps_a_uniform_sample_and_the_most_doubtful() -> None:
    pool = Pool(seed=1, sample_size=200, doubtful_size=50)
    image = torch.zeros(1)
    pool.add(Seen(str(i), image, doubt=i / 20_000) for i in range(20_000))
    kept = pool.candidates()
    assert pool.total == 20_000
    assert len(pool.sample) == 200
    assert len(kept) <= 250
    assert 8_000 < np.mean([int(seen.path) for seen in pool.sample]) < 12_000
    assert {str(i) for i in range(19_960, 20_000)} <= {seen.path for seen in kept}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("suggest")
    _, encoder = make_cache(folder)
    pool = folder / "pool"
    pool.mkdir()
    for i, colour in enumerate(COLOURS.values()):
        for j in range(4):
            picture(colour, 100 * i + j + 50).save(pool / f"{i}{j}.png")
    (pool / "again.png").write_bytes((pool / "00.png").read_bytes())
    (pool / "known.png").write_bytes((folder / "weaves" / "red weave" / "03.png").read_bytes())
    (pool / "bad.png").write_text("no picture")
    return folder, encoder.name


def test_a_pool_becomes_a_list_that_ingest_takes(project: tuple[Path, str], typed: Command) -> None:
    folder, encoder = project
    line = ["suggest", "pool", "--n", 6, "--encoder", encoder, "--out", "list"]
    done = typed("trainer", *line, "--json", cwd=folder)
    rows = json.loads(done.stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["suggested"] in COLOURS and row["label"] is None for row in rows)
    assert not {"pool/known.png", "pool/bad.png"} & {row["path"] for row in rows}
    assert len({row["path"] for row in rows} & {"pool/00.png", "pool/again.png"}) < 2
    for said in ("a cold start", "2 images are in weaves already or twice in the pool", "1 image could not be read"):
        assert said in done.stderr
    with (folder / "list/suggest.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    assert list(table[0]) == ["rank", "score", "image_id", "path", "suggested", "probability", "action", "label"]
    for row in table[:4]:
        row["label"] = "red weave"
    with (folder / "list/suggest.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    lost = typed("trainer", *line, cwd=folder, code=1)
    assert "suggest.csv: 4 rows are filled in, and not written over" in lost.stderr
    said = typed("pipeline", "ingest", "weaves", "--labels", "list/suggest.csv", "--cache", "none", cwd=folder, code=2)
    assert "no source" in said.stderr, "no manifest there to go on from"
    shutil.copytree(folder / "cache", folder / "copy")
    said = typed("pipeline", "ingest", "weaves", "--labels", "list/suggest.csv", "--cache", "copy", cwd=folder)
    assert "4 new images are added to train" in said.stderr
    again = typed("trainer", *line[:6], "--features", "copy", cwd=folder, code=1)
    assert "run the commands after `pipeline ingest` again" in again.stderr


def test_without_any_data_set_the_pool_itself_is_enough(project: tuple[Path, str], typed: Command) -> None:
    folder, encoder = project
    line = ["suggest", "pool", "--n", 50, "--encoder", encoder, "--features", "empty", "--csv"]
    done = typed("trainer", *line, cwd=folder)
    assert len(done.stdout.splitlines()) == 1 + 17
    assert "nobody knows the classes yet" in done.stderr
    assert "the pool has 17 new images: all are listed" in done.stderr


def test_a_pool_with_nothing_new_or_nothing_readable_is_one_line(project: tuple[Path, str], typed: Command) -> None:
    folder, encoder = project
    (folder / "old").mkdir()
    (folder / "old" / "a.png").write_bytes((folder / "weaves" / "red weave" / "04.png").read_bytes())
    (folder / "bad").mkdir()
    (folder / "bad" / "a.png").write_text("no")
    for pool, line in (
        ("old", "nothing new to label: 1 image of the pool is in weaves already"),
        ("bad", "none of the 1 image can be read (first: bad/a.png: not an image"),
        ("nowhere", "none of the 1 image can be read (first: nowhere: No such file"),
    ):
        done = typed("trainer", "suggest", pool, "--encoder", encoder, "--dataset", "weaves", cwd=folder, code=1)
        assert line in done.stderr


def test_the_curves_of_the_documents_are_drawn_from_any_store(
    tmp_path: Path, typed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    x, labels = clusters([24, 24, 24])
    splits = np.array(["train", "train", "test"] * 24)
    names = np.array(["a", "b", "c"])
    np.savez(tmp_path / "made.npz", embedding=x.numpy(), class_id=labels.numpy(), split=splits, class_names=names)
    typed("pipeline", "ingest", "made", "--source", "made.npz", "--encoder-name", "made", cwd=tmp_path)
    np.savez(tmp_path / "pool.npz", embedding=clusters([4, 4, 4])[0].numpy() + 0.1)
    said = typed("trainer", "suggest", "pool.npz", "--n", 3, cwd=tmp_path).stderr
    assert "the embeddings are taken to be of made, as those of the data set are" in said
    assert "checkpoint was trained" not in said, "there is none"
    main = runpy.run_path(str(ROOT / "examples" / "suggest_curves.py"))["main"]
    main(["--features", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--seeds", "1,2", "made:3,6"])
    assert "| made | 3 | " in capsys.readouterr().out
    with (tmp_path / "out" / "curves.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * 2 * 2
    assert {float(row["classes"]) for row in rows if row["way"] == "suggest"} == {3}, "one of each kind first"
    assert (tmp_path / "out" / "curves.png").is_file()
