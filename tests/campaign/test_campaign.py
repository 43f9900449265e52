"""A few trials of the campaign in every run of the tests; the long one: `nice python -m tests.campaign PART`.

Whatever is damaged: exit code 0, 1 or 2, never a traceback, one line that names the file, nothing half-written and
nothing outside of the folder; and where the exit code is 0, the result is that of undamaged files.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import command, extras
from tests.campaign.commands import without_pictures
from tests.campaign.project import make
from tests.campaign.run import summary
from tests.campaign.trials import PARTS

TRIALS = {"settings": 30, "results": 12, "stores": 12}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:  # what the trials put in their places goes back
        patch.setattr(extras, "find_spec", extras.find_spec)
        patch.setattr(command, "stop_on_signals", command.stop_on_signals)
        without_pictures()
        folder = tmp_path_factory.mktemp("campaign") / "project"
        folder.mkdir()
        make(folder)
        yield folder


@pytest.mark.parametrize("part", TRIALS)
def test_what_is_damaged_is_refused_in_one_line_or_makes_no_difference(
    part: str, project: Path, tmp_path: Path
) -> None:
    verdicts = []
    for number in range(TRIALS[part]):
        box = tmp_path / str(number) / "box"
        box.mkdir(parents=True)
        verdicts.append({"number": number, **PARTS[part](project, box, random.Random(f"{part} 0 {number}"))})
    assert not any(verdict["faults"] for verdict in verdicts), summary(verdicts)
    assert {0, 1} <= {verdict["code"] for verdict in verdicts} or part == "settings", summary(verdicts)
