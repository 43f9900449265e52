"""Every query and command of docs/queries.md and every snippet of docs/stores.md, against a computation without SQL."""

import json
import re
import shlex
from collections import Counter
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_cache import WIDTH, make_cache
from typer.testing import CliRunner

from pipeline.catalog import query
from pipeline.cli import app
from pipeline.verify import stores_in
from stages import ImageStore, ManifestProvenance, ManifestStore, PromptStore, TextStore
from stages.stores.artifacts import embedding_matrix

ROOT = Path(__file__).parents[2]
QUERIES = (ROOT / "docs" / "queries.md").read_text()
STORES = (ROOT / "docs" / "stores.md").read_text()
SENTENCE = "template-00003-00"


def blocks(page: str, language: str) -> dict[str, list[str]]:
    """Heading -> its code blocks of a language."""
    found = {}
    for section in page.split("\n## ")[1:]:
        found[section.splitlines()[0]] = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return {heading: codes for heading, codes in found.items() if codes}


class Small:
    """A small cache, and its rows as plain lists of dictionaries."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.encoder = make_cache(folder, called="lite")
        asked = {"question_id": "q0", "question": "Which colour?", "choices": None, "answers": ["red", "crimson"]}
        row = {
            "image_id": "1.jpg", "path": "1.jpg", "split": "val", "captions": ["a red cloth", "cloth"],
            "questions": [asked], "class_id": None, "class_name": None, "width": 4, "height": 4, "sha256": None,
            "error": None,
        }  # fmt: skip
        ManifestStore(self.cache, "spoken").write(
            pa.Table.from_pylist([row], schema=ManifestStore.schema()),
            ManifestProvenance(dataset="spoken", content=""),
        )
        self.manifest = ManifestStore(self.cache, "weaves").read().to_pylist()
        self.prompts = PromptStore(self.cache, "weaves", "people").read().to_pylist()
        images = ImageStore(self.cache, "weaves", "lite").read()
        rows = np.flatnonzero(images["view"].to_numpy() == 0)
        self.images = images.drop_columns(["embedding"]).take(rows).to_pylist()
        self.all_vectors = embedding_matrix(images["embedding"]).astype(np.float64)
        self.vectors = self.all_vectors[rows]
        self.text: list[dict[str, Any]] = []
        self.sentences = np.empty((0, WIDTH))
        for source in ("none", "people"):
            table = TextStore(self.cache, "weaves", "lite", source).read()
            self.text += [{**row, "llm": source} for row in table.to_pylist()]
            self.sentences = np.concatenate([self.sentences, embedding_matrix(table["embedding"]).astype(np.float64)])
        self.class_of = {row["image_id"]: row["class_name"] for row in self.manifest}
        self.names = {row["class_id"]: row["class_name"] for row in self.manifest}

    def ask(self, heading: str) -> list[tuple[Any, ...]]:
        (sql,) = blocks(QUERIES, "sql")[heading]
        return query(self.cache, "lite", sql)[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module", params=["one part", "many parts"])
def either(request: pytest.FixtureRequest, small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small cache, and its stores once more in parts of ten rows."""
    if request.param == "one part":
        return small
    parted = copy(small)
    parted.cache = tmp_path_factory.mktemp("parted") / "cache"
    for store in stores_in(small.cache):
        other = type(store)(parted.cache, **store.partitions)
        with other.writing(store.provenance(), part_rows=10) as writer:
            writer.add(store.read())
    assert len(ImageStore(parted.cache, "weaves", "lite").files()) == 15
    return parted


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def images_a_class(small: Small) -> list[tuple[Any, ...]]:
    count = Counter((r["class_name"], r["split"]) for r in small.manifest)
    own = [("weaves", n, *(count[n, s] for s in ("train", "val", "test"))) for n in sorted(small.names.values())]
    return [("spoken", None, 0, 1, 0), *own]


def unreadable(small: Small) -> list[tuple[Any, ...]]:
    return [("weaves", r["path"], r["error"]) for r in small.manifest if r["error"]]


def duplicates(small: Small) -> list[tuple[Any, ...]]:
    same = [r for r in small.manifest if r["class_name"] == "grey weave"]
    named = [f"{r['split']}: {r['image_id']}" for r in sorted(same, key=lambda r: r["image_id"])]
    return [("weaves", same[0]["sha256"], named)]


def few_prompts(small: Small) -> list[tuple[Any, ...]]:
    kept = Counter(r["class_id"] for r in small.prompts if r["kept"])
    written = Counter(r["class_id"] for r in small.prompts)
    rows = [("weaves", "people", name, kept[c], written[c]) for c, name in small.names.items()]
    return sorted(rows, key=lambda r: (r[3], r[2]))


def drop_reasons(small: Small) -> list[tuple[Any, ...]]:
    count = Counter(r["drop_reason"] or "kept" for r in small.prompts)
    rows = [("people", reason, n, round(100 * n / len(small.prompts), 1)) for reason, n in count.items()]
    return sorted(rows, key=lambda r: (-r[2], r[1]))


def prompts_near_image(small: Small) -> list[tuple[Any, ...]]:
    at = next(i for i, row in enumerate(small.images) if row["image_id"] == "red weave/00.png")
    cosines = unit(small.sentences) @ unit(small.vectors[at])
    rows = [(t["text"], t["llm"], c, t["prompt_id"]) for t, c in zip(small.text, cosines, strict=True)]
    return [row[:3] for row in sorted(rows, key=lambda r: (-r[2], r[3]))[:5]]


def images_near_sentence(small: Small) -> list[tuple[Any, ...]]:
    at = next(i for i, row in enumerate(small.text) if row["prompt_id"] == SENTENCE)
    cosines = unit(small.vectors) @ unit(small.sentences[at])
    ids = [row["image_id"] for row in small.images]
    best = sorted(zip(ids, cosines, strict=True), key=lambda r: (-r[1], r[0]))[:5]
    return [(image_id, small.class_of[image_id], cosine) for image_id, cosine in best]


def confused(small: Small) -> list[tuple[Any, ...]]:
    found = []
    for source in ("none", "people"):
        mean = {
            c: small.sentences[[t["class_id"] == c and t["llm"] == source for t in small.text]].mean(0)
            for c in small.names
        }
        found += [
            ("weaves", source, small.names[a], small.names[b], unit(mean[a]) @ unit(mean[b]))
            for a, b in combinations(sorted(small.names), 2)
        ]
    return sorted(found, key=lambda r: -r[4])[:20]


def lengths(small: Small) -> list[tuple[Any, ...]]:
    sides = (("images", small.all_vectors), ("text", small.sentences))
    norms = [(side, np.linalg.norm(rows, axis=1)) for side, rows in sides]
    return [(side, "weaves", len(n), round(n.min(), 3), round(n.max(), 3)) for side, n in norms]


def gap(small: Small) -> list[tuple[Any, ...]]:
    return [("weaves", np.linalg.norm(small.vectors.mean(0) - small.sentences.mean(0)))]


ANSWERS = {
    "Images a class and split": images_a_class,
    "Unreadable images": unreadable,
    "The same file in several splits": duplicates,
    "Captions of the images": lambda _: [("spoken", "1.jpg", "a red cloth"), ("spoken", "1.jpg", "cloth")],
    "Questions about the images": lambda _: [("spoken", "1.jpg", "Which colour?", ["red", "crimson"])],
    "Classes with few prompts left": few_prompts,
    "Why prompts were dropped": drop_reasons,
    "Prompts nearest to an image": prompts_near_image,
    "Images nearest to a sentence": images_near_sentence,
    "Classes most easily confused by their text": confused,
    "Lengths of the embeddings": lengths,
    "The modality gap": gap,
}


def test_every_query_of_the_page_has_an_answer_here() -> None:
    assert set(blocks(QUERIES, "sql")) == {*ANSWERS, "Near duplicates across splits"}


@pytest.mark.parametrize("heading", ANSWERS)
def test_a_query_of_the_page_answers_what_numpy_does(heading: str, small: Small) -> None:
    found, expected = small.ask(heading), ANSWERS[heading](small)
    assert found, "an empty answer shows nothing"
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        for one, other in zip(mine, right, strict=True):
            assert one == (pytest.approx(other, abs=2e-4) if isinstance(other, float) else other)


def test_near_duplicates_are_the_nearest_pairs_of_train_and_test(small: Small) -> None:
    side = {s: [i for i, row in enumerate(small.images) if row["split"] == s] for s in ("train", "test")}
    cosines = (small.vectors[side["train"]] @ small.vectors[side["test"]].T).round(4)
    names = [[small.images[i]["image_id"] for i in side[s]] for s in ("train", "test")]
    expected = {(names[0][i], names[1][j]): cosine for (i, j), cosine in np.ndenumerate(cosines) if cosine > 0.98}
    found = small.ask("Near duplicates across splits")
    assert len(found) == min(100, len(expected))
    assert [row[3] for row in found] == pytest.approx(sorted(expected.values(), reverse=True)[:100], abs=2e-4)
    for dataset, train, test, cosine in found:
        assert dataset == "weaves"
        assert cosine == pytest.approx(expected[train, test], abs=2e-4)
    assert {"grey weave"} <= {train.split("/")[0] for _, train, _, _ in found}, "one file is in both splits"


@pytest.mark.parametrize("heading", ["DuckDB", "pyarrow and NumPy", "Polars", "pandas"])
def test_other_readers_find_the_same_images_without_this_project(
    heading: str, either: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(either.cache.parent)
    (code,) = blocks(STORES, "python")[heading]
    assert "pipeline" not in code
    assert "stages" not in code
    scope: dict[str, Any] = {}
    exec(code, scope)
    expected = images_near_sentence(either)
    assert [tuple(row[:2]) for row in scope["found"]] == [row[:2] for row in expected]
    assert [row[2] for row in scope["found"]] == pytest.approx([row[2] for row in expected], abs=2e-3)


def test_plain_duckdb_counts_the_sentences_and_reads_the_footer(either: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(either.cache.parent)
    codes = blocks(STORES, "sql")
    (counting,), (footer,) = codes["DuckDB"], codes["What a store was made from"]
    kept = sum(row["kept"] for row in either.prompts)
    assert duckdb.sql(counting).fetchall() == [("weaves", "none", "template", 4), ("weaves", "people", "prompt", kept)]
    assert duckdb.sql(footer).fetchall() == [("images", "lite", WIDTH)]
    scope: dict[str, Any] = {}
    exec(blocks(STORES, "python")["What a store was made from"][0], scope)
    assert scope["found"] == [("images", "lite", WIDTH)]
    assert json.dumps(scope["origin"]["inputs"])


def test_the_commands_and_the_program_of_the_page_do_what_it_says(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.cache.parent)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("pipeline.encoders.load_encoder", lambda name, **_: small.encoder)
    lines = re.findall(r"^pipeline (.*)$", QUERIES, re.MULTILINE)
    assert len(lines) == 6
    said = []
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert done.exit_code == 0
        said.append(done.stdout)
    assert "red weave" in said[0]
    assert pq.read_schema("train.parquet").field("embedding").type.list_size == WIDTH
    assert Path("found.png").stat().st_size > 10_000
    assert len(said[3].splitlines()) == 1 + 5
    assert "people" in said[4]
    assert len(json.loads(said[5])) == 10
    scope: dict[str, Any] = {}
    exec(blocks(QUERIES, "python")["Search without SQL"][0], scope)
    assert [len(ids) for ids in scope["found"]] == [3] * 5
