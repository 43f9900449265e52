"""Progress in a log."""

import pytest

from stages import progress
from stages.command import progress as over
from stages.command import progress_bar


def test_quick_work_writes_no_line_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(over(range(1000), what="images euro", total=1000, unit="image")) == list(range(1000))
    with progress_bar("images euro", total=1000, unit="image") as bar:
        bar.update(1000)
    assert capsys.readouterr() == ("", "")


def test_long_work_writes_count_total_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    with progress_bar("images euro", total=300_000, unit="image") as bar:
        for _ in range(4):
            bar.update(1000)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 0 < len(lines) < 4
    assert all(line.startswith("images euro: ") and " of 300,000 (" in line for line in lines)
    assert all("image/s, " in line and line.endswith(" left)") for line in lines)
    assert not any(character in err for character in "\r\b\x1b")


def test_the_first_few_steps_give_no_time_left() -> None:
    bar = progress.Lines(desc="training euro", total=66, unit="fit", say=print)
    bar.update(1)
    assert "left" not in bar.line()
    bar.update(14)
    assert bar.line().endswith(" left)")


def test_lines_come_every_half_minute() -> None:
    assert progress.SECONDS == 30
