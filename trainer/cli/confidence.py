"""`trainer confidence`."""

from typing import Annotated

import typer

from stages import command
from stages.command import DatasetOption, EncoderOption, JsonOption, ParamsOption, ResultsOption, numbers, say, words
from stages.datasets import chosen
from stages.errors import UserError
from trainer.cli.app import CACHE, RESULTS, DeviceOption, FeaturesOption, MethodsOption, app


@app.command()
def confidence(
    dataset: DatasetOption = None,
    elsewhere: Annotated[
        str | None, typer.Option(help="Data sets with commas whose images are of none of the classes.")
    ] = None,
    methods: MethodsOption = None,
    shots: Annotated[str | None, typer.Option(help="Training images a class, or all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds with commas.")] = None,
    error_rates: Annotated[str, typer.Option(help="Error rates of the sets, with commas.")] = "0.05,0.1,0.2",
    features: FeaturesOption = CACHE,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """How far probabilities, sets and "none of these" can be trusted: each method, several seeds, on the test split."""
    from dataclasses import asdict

    from stages.numbers import most
    from trainer.protocols.base import same_weights
    from trainer.runs.able import able_methods
    from trainer.runs.inputs import load_training
    from trainer.studies.confidence import apart, as_text, trusted, write

    rates = [_rate(word) for word in words(error_rates) or []]
    settings = command.settings(
        params,
        {
            "encoder": encoder,
            "evaluation.methods": words(methods),
            "evaluation.shots": numbers(shots),
            "evaluation.seeds": numbers(seeds),
        },
    )
    asked = settings.evaluation
    number = max(asked.shot_numbers, key=most)
    rows, distances = [], []
    for name in chosen(dataset, settings, cache=features):
        loaded = load_training(settings, name, cache=features, device=device)
        others = [load_training(settings, other, cache=features, device=device) for other in words(elsewhere) or ()]
        same_weights(loaded, others)
        able, notes = able_methods(loaded, asked.methods, settings=settings.train)
        for note in (*loaded.notes, *notes):
            say(f"note: {note}")
        of = asked.seeds_for(name)
        rows += trusted(loaded, able, shots=number, seeds=of, rates=rates)
        strangers = [other for other in others if other.dataset != name]
        distances += apart(loaded, strangers, shots=number, seeds=of)
    write(rows, distances, results / "confidence")
    found = {"probabilities": [asdict(row) for row in rows], "distance": [asdict(row) for row in distances]}
    command.show(found, as_json=as_json, text=lambda: as_text(rows, distances))
    say(f"wrote {results}/confidence/probabilities.csv and distance.csv")


def _rate(word: str) -> float:
    """An error rate.

    Raises:
        UserError: (exit code 2) no number above 0 and below 1.
    """
    try:
        rate = float(word)
    except ValueError:
        rate = -1.0
    if not 0 < rate < 1:
        raise UserError(f"--error-rates {word!r}: expected shares above 0 and below 1, such as 0.1", exit_code=2)
    return rate
