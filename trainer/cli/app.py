"""The command line application and what several of its commands share."""

from pathlib import Path
from typing import Annotated

import typer

from stages.command import App, say
from stages.errors import UserError


def _place(name: str, path: Path, reads: bool) -> Path:
    from stages.stores.remote import local

    return local(name, path, reads)


app = App(
    place=_place,
    help="Stage two: cached features to a trained prompt aggregator and generator, baselines, tables and predictions.",
    reads=True,
)

CACHE, RESULTS = Path("cache"), Path("results")
FeaturesOption = Annotated[
    Path,
    typer.Option(
        "--features", "--cache", help="Folder of the stores that pipeline wrote, or s3://BUCKET/FOLDER.", metavar="DIR"
    ),
]
MethodsOption = Annotated[str | None, typer.Option("--methods", help="Method names with commas, or all.")]
ShotsOption = Annotated[
    str | None, typer.Option("--shots", help="Training images a class, or all; several numbers with commas.")
]
UpToOption = Annotated[
    bool | None, typer.Option("--up-to/--no-up-to", help="A class with fewer images than --shots gives what it has.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Fits side by side; default one a core, one on a GPU.")
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="Folder of a checkpoint, in place of a run's.", metavar="DIR")
]
CheckpointOfOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Checkpoint of this data set; default the only one trained.", metavar="NAME"),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", help="Checkpoint of this method; default the one best on validation images.", metavar="NAME"
    ),
]


def serving(
    checkpoint: Path | None, results: Path, dataset: str | None, method: str | None, *, usual: str | None = None
) -> Path:
    """The checkpoint's folder that a command works with; says which one where the user left it open.

    Args:
        usual: method to take where none is named and the run kept it.

    Raises:
        UserError: see `trainer.checkpoints.choose_checkpoint`; or both a folder and a method are given.
    """
    from trainer.checkpoints import choose_checkpoint

    if checkpoint is None:
        chosen = choose_checkpoint(results, dataset, method, usual=usual)
        say(f"checkpoint: {chosen.why}")
        return chosen.folder
    if method is not None:
        raise UserError(f"--checkpoint {checkpoint} is one classifier already: leave out --method", exit_code=2)
    return checkpoint
