"""The command line application and what several of its commands share."""

from pathlib import Path
from typing import Annotated

import typer

from stages.command import App

app = App(
    help="Stage two: cached features to a trained prompt aggregator and generator, baselines, tables and predictions.",
)

CACHE, RESULTS = Path("cache"), Path("results")
FeaturesOption = Annotated[
    Path, typer.Option("--features", "--cache", help="Folder of the stores that pipeline wrote.", metavar="DIR")
]
MethodsOption = Annotated[str | None, typer.Option("--methods", help="Method names with commas, or all.")]
ShotsOption = Annotated[
    str | None, typer.Option("--shots", help="Training images a class; several numbers with commas.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Fits side by side; default one a core, one on a GPU.")
]
