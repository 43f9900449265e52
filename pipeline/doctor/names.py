"""Whether something else goes by one of this project's names: they are common, and Python takes the first it finds.

At least two published distributions install a top-level `trainer`. One that lies in the folder of this project's own
files has replaced some of them; one that comes earlier on the path hides them; so does a folder of one's own scripts.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import stages
from pipeline.doctor.check import Check

NAMES = ("aape", "pipeline", "stages", "trainer")
OWN = "give this project an environment of its own: python -m venv env; env/bin/pip install aape"


def check_names(path: Sequence[str] | None = None, *, working: Path | None = None) -> list[Check]:
    """Other owners of this project's names, one line each, with the mend.

    Args:
        path: where Python looks for modules, in this order; None: `sys.path`.
        working: folder that scripts and notebooks are started in; None: the current one.
    """
    home = Path(stages.__file__).resolve().parents[1]
    places = [Path(entry or os.curdir).resolve() for entry in (sys.path if path is None else path)]
    ours = places.index(home) if home in places else len(places)
    found = [*_distributions(home, places, ours), *_modules(home, places[:ours], (working or Path.cwd()).resolve())]
    return found or [Check("names", "ok", f"nothing else is called {', '.join(NAMES[:-1])} or {NAMES[-1]}")]


def _distributions(home: Path, places: Sequence[Path], ours: int) -> Iterator[Check]:
    """Other distributions that install a top-level package of one of the names."""
    for owner in metadata.distributions(path=[str(place) for place in dict.fromkeys(places)]):
        title = owner.metadata["Name"] or ""
        if re.sub(r"[-_.]+", "-", title).lower() == "aape":
            continue
        tops = {file.parts[0].removesuffix(".py") for file in owner.files or () if file.suffix == ".py"}
        place = Path(str(owner.locate_file(""))).resolve()
        for name in sorted(tops & set(NAMES)):
            text = f"{title} {owner.version} installs a top-level {name!r} as well"
            if place == home:
                mend = f"pip uninstall {title}; pip install --force-reinstall --no-deps aape; or {OWN}"
                yield Check("names", "fault", f"{text}, and some of this project's files are its files now", mend)
            elif place in places[:ours]:
                yield Check("names", "fault", f"{text}, in {place}, and hides this project's", OWN)
            else:
                yield Check("names", "note", f"{text}, in {place}; it cannot be imported beside this project's", OWN)


def _modules(home: Path, before: Sequence[Path], working: Path) -> Iterator[Check]:
    """Modules of one of the names that Python finds before this project's, and that no distribution brought."""
    for place in dict.fromkeys([*before, working]):
        if place == home:
            continue
        for name in NAMES:
            module = next((m for m in (place / name / "__init__.py", place / f"{name}.py") if m.is_file()), None)
            if module is None or _installed(place, name):
                continue
            what = module.parent if module.name == "__init__.py" else module
            if place in before:
                yield Check(
                    "names", "fault", f"{what} hides this project's {name!r}", "rename it, or take it off the path"
                )
            else:
                text = f"{what} hides this project's {name!r} from scripts and notebooks that are started in {place}"
                yield Check("names", "note", text, "rename it, or start them in another folder")


def _installed(place: Path, name: str) -> bool:
    """Whether a distribution in this folder brought the module, which then is told of as one."""
    files = (file for owner in metadata.distributions(path=[str(place)]) for file in owner.files or ())
    return any(file.parts[0] in (name, f"{name}.py") for file in files)
