"""`pipeline doctor` on other owners of this project's names: published packages and a folder of one's own scripts."""

from pathlib import Path

import stages
from pipeline.doctor.names import check_names

HOME = str(Path(stages.__file__).resolve().parents[1])


def package(place: Path, name: str, *, title: str = "") -> Path:
    """A package, and with a title the distribution that installed it."""
    (place / name).mkdir(parents=True)
    (place / name / "__init__.py").write_text("")
    if title:
        about = place / f"{title.replace('-', '_')}-0.4.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {title}\nVersion: 0.4\n")
        (about / "RECORD").write_text(f"{name}/__init__.py,,\n{about.name}/METADATA,,\n")
    return place


def lines(*path: Path | str, working: Path) -> list[str]:
    return [str(check) for check in check_names([str(place) for place in path], working=working)]


def test_another_distribution_is_named_with_the_folder_and_the_mend(tmp_path: Path) -> None:
    site = package(tmp_path / "site", "trainer", title="coqui-tts-trainer")
    [line] = lines(site, HOME, working=tmp_path)
    assert line.startswith(
        f"fault  names: coqui-tts-trainer 0.4 installs a top-level 'trainer' as well, in {site}, and hides"
    )
    assert "give this project an environment of its own" in line
    [line] = lines(HOME, site, working=tmp_path)
    assert line.startswith("note   names: coqui-tts-trainer 0.4")


def test_a_distribution_among_this_projects_own_files_has_replaced_some(tmp_path: Path) -> None:
    package(tmp_path, "trainer", title="trainer")
    package(tmp_path, "stages")
    own, there = stages.__file__, str(tmp_path / "stages" / "__init__.py")
    stages.__file__ = there
    try:
        [line] = lines(tmp_path, working=tmp_path)
    finally:
        stages.__file__ = own
    assert line.startswith(
        "fault  names: trainer 0.4 installs a top-level 'trainer' as well, and some of this project's"
    )
    assert "pip uninstall trainer; pip install --force-reinstall --no-deps aape" in line


def test_folders_that_hide_a_package_are_named_and_others_are_not(tmp_path: Path) -> None:
    scripts = package(tmp_path / "scripts", "pipeline")
    (tmp_path / "scripts" / "stages.py").write_text("")
    (tmp_path / "scripts" / "trainer").mkdir()  # a folder without __init__.py hides nothing
    found = lines(HOME, working=scripts)
    assert [line.partition(" hides")[0] for line in found] == [
        f"note   names: {scripts / 'pipeline'}", f"note   names: {scripts / 'stages.py'}"
    ]  # fmt: skip
    assert all(line.startswith("fault") for line in lines(scripts, HOME, working=tmp_path))
    assert lines(HOME, scripts, working=tmp_path) == [
        "ok     names: nothing else is called aape, pipeline, stages or trainer"
    ]
