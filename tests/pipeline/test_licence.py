"""The licence of a source: what the source says of itself, on one line, and nothing that it does not say."""

from pathlib import Path

import pytest

from pipeline.ingest import ingest
from pipeline.ingest.licence import licence_of
from pipeline.registry import card
from stages import ManifestStore
from stages.params import DataParams


@pytest.mark.parametrize(("name", "text", "said"), [
    ("LICENSE", "Creative Commons Legal Code\n\nCC0 1.0 Universal\n", "Creative Commons Legal Code; CC0 1.0 Universal"),
    ("licence.txt", "# MIT License\n\n(c) A\n", "MIT License; (c) A"),
    ("COPYING.md", "x" * 5000, "x" * 120),
    ("LICENSE", "", None),
    ("LICENSES.txt", "MIT", None),
])  # fmt: skip
def test_a_licence_file_names_it_in_its_first_lines(tmp_path: Path, name: str, text: str, said: str | None) -> None:
    (tmp_path / name).write_text(text)
    assert licence_of(str(tmp_path), None) == said


def test_a_package_says_it_in_its_metadata_and_a_known_set_on_its_card(tmp_path: Path) -> None:
    assert licence_of("package:numpy", None)
    assert licence_of("package:no-such-package", None) is None
    assert licence_of(str(tmp_path), card("eurosat")) == card("eurosat").licence  # type: ignore[union-attr]
    assert licence_of("hf:someone/something", None) is None


def test_the_manifest_keeps_it_and_is_not_made_again_for_it(weaves: Path, tmp_path: Path) -> None:
    (weaves / "LICENSE").write_text("MIT License")
    ingest("w", str(weaves), data=DataParams(), cache=tmp_path / "cache")
    found = ManifestStore(tmp_path / "cache", "w").provenance()
    assert found.licence == "MIT License"
    assert "licence" not in found.made_from
