"""What the two console commands share: one-line errors, exit codes, plain tables, progress for terminals and logs."""

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stages.errors import UserError, nearest
from stages.extras import missing_extra
from stages.offers import GIVEN, as_typed
from stages.stopping import Stopped, leave_at_once, stop_on_signals

if TYPE_CHECKING:
    from tqdm import tqdm

    from stages.params import Params

DEFAULT_PARAMS = Path("params.yaml")
Function = TypeVar("Function", bound=Callable[..., Any])
Place = Callable[[str, Path, bool], Path]

ParamsOption = Annotated[
    Path | None, typer.Option("--params", help="Settings file; default params.yaml where there is one.", metavar="FILE")
]
CacheOption = Annotated[Path, typer.Option("--cache", help="Folder of the stores.", metavar="DIR")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of the results.", metavar="DIR")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="One data set; default all that the settings list.", metavar="NAME")
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="lite, open_clip:ARCH/PRETRAINED or open_clip:ARCH/FILE.", metavar="ENCODER"),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, such as train.lambda=3; repeatable.", metavar="SECTION.KEY=VALUE"),
]
_CHANGES: ContextVar[tuple[str, ...]] = ContextVar("changes", default=())
"""What --set says on the line of the command that runs."""


class App(typer.Typer):
    """A command line whose every command takes --params and --set; `settings` answers for both.

    Args:
        place: gives what a folder that is named `s3://...` stands for here: argument, folder, whether the command only
            reads the cache (`stages.stores.remote.local`).
        reads: whether its commands only read the cache; a command can say otherwise for itself.
    """

    def __init__(self, *, help: str, place: Place | None = None, reads: bool = False) -> None:
        self.place, self.reads = place, reads
        super().__init__(
            add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=help
        )

    def command(
        self, name: str | None = None, *, reads: bool | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """As in Typer; the function itself stays as it is."""
        declare = super().command(name, **options)

        def decorate(function: Function) -> Function:
            declare(_with_settings(function, place=self.place, reads=self.reads if reads is None else reads))
            return function

        return decorate


def _with_settings(function: Callable[..., Any], *, place: Place | None, reads: bool) -> Callable[..., Any]:
    """The function with --set, and with --params where it has none of its own."""
    own = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter("set_", keyword, default=None, annotation=SetOption)]
    if "params" not in own.parameters:
        added.append(inspect.Parameter("params", keyword, default=None, annotation=ParamsOption))

    @functools.wraps(function)
    def run(*args: Any, set_: list[str] | None = None, **kwargs: Any) -> Any:
        token = _CHANGES.set((*_CHANGES.get(), *(set_ or ())))
        asked = GIVEN.set(_asked(own, kwargs))
        try:
            file = kwargs["params"]
            if set_ or (file is not None and "params" not in own.parameters):
                settings(file)  # a wrong one is refused by every command, before anything is done
            for name, value in kwargs.items():
                if place is not None and isinstance(value, Path) and str(value).startswith("s3:/"):
                    kwargs = {**kwargs, name: place(name, value, reads and not kwargs.get("fix"))}
            return function(*args, **{k: v for k, v in kwargs.items() if k in own.parameters})
        except UserError as error:
            error.args = (as_typed(str(error)),)  # it is printed when this command is left
            raise
        finally:
            _CHANGES.reset(token)
            GIVEN.reset(asked)

    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**function.__annotations__, **{each.name: each.annotation for each in added}}
    return run


def _asked(own: inspect.Signature, given: Mapping[str, Any]) -> dict[str, str]:
    """The folders, settings file and encoder that the line names, where they are not what is taken without it."""
    asked = {}
    for option, names in {"cache": ("features", "cache"), "results": ("results",), "encoder": ("encoder",)}.items():
        for name in names:
            value = given.get(name)
            if isinstance(value, str | Path) and value != own.parameters[name].default:
                asked[option] = re.sub("^s3:/(?=[^/])", "s3://", str(value))  # a path has one of the slashes alone
    return asked | ({"params": str(given["params"])} if given.get("params") else {})


def settings(path: Path | None, flags: Mapping[str, Any] | None = None) -> "Params":
    """The settings file the user named, params.yaml where it exists, the defaults otherwise; with --set and flags.

    Args:
        flags: setting -> value of a flag of the command; None where it was not given.

    Raises:
        UserError: faults of the file, of --set and of the flags, all in one message, or a setting that is given twice.
    """
    from stages.params import load_params

    changes = given()
    asked = {setting: value for setting, value in (flags or {}).items() if value is not None}
    for setting in asked:
        if setting in changes:
            raise UserError(f"{setting} is given twice: by --set and by a flag of its own", exit_code=2)
    file = path if path is not None else DEFAULT_PARAMS if DEFAULT_PARAMS.exists() else None
    return load_params(file, changes | asked, flags={setting: _option(setting) for setting in asked})


def _option(setting: str) -> str:
    """The option that gives a setting: it has its name, that of an address its section's (--server)."""
    *_, section, name = ("", *setting.split("."))
    return f"--{(section if name == 'url' else name).replace('_', '-')}"


def given() -> dict[str, Any]:
    """Setting -> value, of all that --set says on the line.

    Raises:
        UserError: (exit code 2) no `=`, no YAML, or a setting that stands twice.
    """
    from stages.params import read_yaml_text

    changes: dict[str, Any] = {}
    for text in _CHANGES.get():
        setting, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r}: expected SECTION.KEY=VALUE, such as train.lambda=3", exit_code=2)
        if setting in changes:
            raise UserError(f"--set {text!r}: {setting} is set twice", exit_code=2)
        changes[setting] = read_yaml_text(value, where=f"--set {setting}")
    return changes


def words(text: str | None) -> list[str] | None:
    """Words with commas between them; None of None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str | None) -> list[int | str] | None:
    """Whole numbers with commas between them; what is none stays text, which the settings then refuse by its place."""
    found = words(text)
    return None if found is None else [int(word) if re.fullmatch(r"-?[0-9]{1,30}", word) else word for word in found]


def picked(given: Sequence[str] | None, known: Sequence[str], *, what: str) -> list[str]:
    """The given ones of the known, each once, all where none is given.

    Raises:
        UserError: one is unknown; lists the known ones.
    """
    for name in given or ():
        if name not in known:
            raise UserError(f"{what} {name!r}; {nearest(name, list(known))}", exit_code=2)
    return list(dict.fromkeys(given or known))


def main(app: typer.Typer) -> None:
    """Run a command line; a UserError becomes one line on standard error and its exit code.

    Ctrl-C and SIGTERM become one line too, and exit codes 130 and 143. `--debug`, anywhere on the line, lets the
    traceback through.
    """
    # Threads that wait for work spin for some microseconds, then sleep. Left alone they spin for long, which on a busy
    # machine is many times slower; those that sleep at once take a quarter off the speed of a small encoder.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    stop_on_signals()
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        _complain(" ".join(str(error).split()))
        sys.exit(error.exit_code)
    except Stopped as stop:
        say(stop.line)
        leave_at_once(stop)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        line = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        _complain(line or f"{type(error).__name__}: {' '.join(str(error).split())[:500]} (--debug shows where)")
        sys.exit(1)


def visible(text: str) -> str:
    """The text with every control, direction and other unprintable character written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _complain(line: str) -> None:
    print(f"error: {visible(line)}", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """One plain line for the user, on standard error, so that standard output stays a result."""
    print("\n".join(map(visible, as_typed(line).split("\n"))), file=sys.stderr, flush=True)


def show(result: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result: JSON for programs, text for people."""
    put(json.dumps(result, indent=1, ensure_ascii=False, default=str) if as_json else text())


def put(text: str) -> None:
    """Print a part of a result. A reader that has left, as `head` does, takes nothing from the work that is to come."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?( ± [0-9.]+)?")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain text table; columns of numbers to the right, every cell as it is, no colour, no truncation."""
    from tabulate import tabulate

    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [
        any(map(_NUMBER.fullmatch, column)) and all(cell in ("", "-") or _NUMBER.fullmatch(cell) for cell in column)
        for column in zip(*cells, strict=True)
    ]
    sides = ["right" if each else "left" for each in numeric]
    return tabulate(cells, headers=list(headers), tablefmt="simple", disable_numparse=True, colalign=sides or None)


Item = TypeVar("Item")


def progress(items: Iterable[Item], *, what: str, total: int | None = None, unit: str = "it") -> Iterable[Item]:
    """Wrap an iterable with a progress bar (rate, time left); with a line every half minute where no terminal looks on.

    Quick work writes no line.
    """
    from stages.progress import bar

    wrapped: Iterable[Item] = bar(items, what=what, total=total, unit=unit, say=say)
    return wrapped


def progress_bar(what: str, *, total: int, unit: str = "it") -> "tqdm[Any]":
    """The same, to update by hand."""
    from stages.progress import bar

    return bar(what=what, total=total, unit=unit, say=say)
