"""Pictures with names in every script: drawn or written as code points, short, never alike, without a warning."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from stages import fonts
from trainer.report.figures import NAMED_CLASSES, confusion, save
from trainer.report.lettering import labels, plain

SCRIPTS = [
    "中文类别",
    "日本語カタカナ",
    "한국어",
    "cat 🐈",
    "👍🏽",
    "قطة",
    "חתול",
    "हिन्दी",
    "แมว",
    "007",
    "Ωμέγα",
    "ёж",
]


@pytest.fixture
def no_further_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "others", tuple)
    monkeypatch.setattr(fonts, "family_of", fonts.family_of.__wrapped__)


def test_names_in_many_scripts_are_drawn_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [*SCRIPTS, *(f"{name}{name}" for name in SCRIPTS)]
    with caplog.at_level(logging.WARNING):
        confusion("数据", np.eye(len(names), dtype=int), names, tmp_path / "confusion.png")
        figure = Figure()
        figure.text(0, 0, plain("中 bold"), weight="bold")
        save(figure, tmp_path / "bold.png")
    assert not caplog.records
    assert labels(names) == names, "a font is there for each"


def test_a_character_without_a_font_is_written_as_its_number(
    no_further_fonts: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert labels(["中文", "cat 🐈", "a\ue000", "a\x07b"]) == [
        "<U+4E2D><U+6587>", "cat <U+1F408>", "a<U+E000>", "a<U+0007>b",
    ]  # fmt: skip
    confusion("w", np.eye(len(SCRIPTS), dtype=int), SCRIPTS, tmp_path / "confusion.png")
    assert not caplog.records


def test_long_names_lose_their_middle_and_those_that_would_read_the_same_are_numbered() -> None:
    assert labels(["x" * 60, "x" * 59 + "y", "short"]) == [f"{'x' * 17}…{'x' * 12}", f"{'x' * 17}…{'x' * 11}y", "short"]
    alike = [f"{'x' * 30}{middle}{'x' * 30}" for middle in "abc"]
    assert labels(alike) == [f"{'x' * 15}…{'x' * 10} ({number})" for number in (1, 2, 3)]
    assert labels(["e\u0301", "é"]) == ["é (1)", "é (2)"]


@settings(max_examples=50)
@given(st.lists(st.text(max_size=50), max_size=12), st.integers(12, 40))
def test_labels_are_always_distinct_and_short(names: list[str], width: int) -> None:
    shown = labels(names, width)
    assert len(set(shown)) == len(names)
    assert all(len(text.replace(r"\$", "$")) <= 2 * width for text in shown)


@pytest.mark.parametrize("name", [r"$\nothing$", "$a$ and $b$", "US$", r"\$", "a_b^c"])
def test_a_dollar_begins_no_formula(name: str, tmp_path: Path) -> None:
    confusion(name, np.eye(2, dtype=int), [name, "other"], tmp_path / "confusion.png")


def test_the_confusion_picture_grows_with_its_names_and_leaves_them_out_above_thirty(tmp_path: Path) -> None:
    from PIL import Image

    sides = []
    for count in (3, NAMED_CLASSES, NAMED_CLASSES + 1):
        names = [f"class number {number}" for number in range(count)]
        confusion("w", np.eye(count, dtype=int), names, tmp_path / "confusion.png")
        with Image.open(tmp_path / "confusion.png") as picture:
            sides.append(picture.height)
    assert sides[1] / NAMED_CLASSES > 25, "pixels of a line"
    assert sides[0] < sides[2] < sides[1]


def test_the_same_picture_has_the_same_bytes(tmp_path: Path) -> None:
    for file in ("a.png", "b.png"):
        confusion("w", np.eye(3, dtype=int), SCRIPTS[:3], tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
