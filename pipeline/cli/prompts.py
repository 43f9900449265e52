"""`pipeline generate-prompts` and `pipeline import-prompts`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import CACHE, app, take_from_arrays
from pipeline.cli.cluster import AddressOption, EngineOption, settings_on
from stages import command
from stages.command import CacheOption, DatasetOption, JsonOption, ParamsOption, say
from stages.datasets import chosen
from stages.errors import UserError, nearest

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder
    from pipeline.prompts.engines import Engine, EngineOptions
    from pipeline.prompts.llms import ResolvedLLM
    from pipeline.prompts.summary import PromptSummary
    from stages.params import Params

LlmOption = Annotated[
    str | None,
    typer.Option("--llm", help="smollm2, llama3, qwen, ..., a hub id, a local folder, a GGUF file.", metavar="LLM"),
]


@app.command("generate-prompts")
def generate_prompts(
    dataset: DatasetOption = None,
    llm: LlmOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    server: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server, such as http://localhost:8000/v1.", metavar="URL")
    ] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the LLM.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Weights of the LLM: auto, bfloat16, float16, float32.")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(min=1, help="GPUs to spread the LLM over.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=64, help="Longest question and answer, tokens.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Quantization method of vLLM.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask finished data sets for the sentences that classes are short of.")
    ] = False,
    contrast: Annotated[
        int | None, typer.Option(min=0, help="Nearest classes to be told from, in a second round.", metavar="N")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Sentences a class keeps, chosen to differ.", metavar="N")
    ] = None,
    ask_again_worst: Annotated[
        int | None, typer.Option(min=0, help="Classes that their sentences find least: ask once more.", metavar="N")
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Score finished data sets too, and without near duplicates.")
    ] = False,
    show_questions: Annotated[
        bool, typer.Option("--show-questions", help="Print the questions as a file to edit, and ask nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a language model, in vLLM or on a server, what each class looks like."""
    from contextlib import ExitStack
    from functools import cache as once

    from pipeline.prompts.engines import EngineOptions, find_llm
    from pipeline.prompts.generate import drops_near, generate, questions_of, reads_text
    from pipeline.prompts.process import before_torch
    from pipeline.prompts.questions import as_file

    settings = settings_on(
        params, engine, address,
        {
            "prompts.llm": llm, "prompts.server.url": server, "prompts.contrast": contrast, "prompts.keep": keep,
            "prompts.ask_again_worst": ask_again_worst,
        },
    )  # fmt: skip
    prompts = settings.prompts
    if settings.cluster.engine == "ray" and prompts.server.url is not None:
        raise UserError(
            f"the server at {prompts.server.url} computes the answers, and has its own workers: leave --engine ray or "
            "--server away",
            exit_code=2,
        )
    options = EngineOptions(
        **_given(
            revision=revision, dtype=dtype, tensor_parallel_size=tensor_parallel_size, max_model_len=max_model_len,
            quantization=quantization,
        )
    )  # fmt: skip
    names = _with_classes(take_from_arrays(chosen(dataset, settings, cache=cache), "prompts", settings, cache), cache)
    done: list[PromptSummary] = []
    if names:
        if prompts.server.url is None:
            before_torch()
        model = find_llm(prompts.llm, options, prompts.server, settings.llms)
        if show_questions:
            for name in names:
                typer.echo(as_file(questions_of(name, model, settings.of(name), prompts)), nl=False)
            return
        needed = drops_near(prompts) or reads_text(prompts) or score
        encoder = once(lambda: _encoder(settings)) if needed else None
        with ExitStack() as stack:

            @once
            def loaded_engine() -> "Engine":
                loaded = _engine(settings, model, options)
                stack.callback(loaded.close)
                return loaded

            for name in names:
                summary = generate(
                    name, model, data=settings.of(name), prompts=prompts, cache=cache, engine=loaded_engine,
                    encoder=encoder, options=options, again=again, score=score,
                )  # fmt: skip
                _say(summary)
                done.append(summary)
    _finish(done, as_json=as_json)


@app.command("import-prompts")
def import_prompts(
    dataset: DatasetOption = None,
    name: Annotated[str | None, typer.Option(help="What the source is called in place of an LLM.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="JSON {class: [sentence, ...]}, CSV class,sentence; texts of an encyclopaedia: JSON {class: text}, or "
            "a Wikipedia dump, .xml or .xml.bz2.",
            metavar="FILE",
        ),
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Sentences that a class keeps of an encyclopaedia; default 30.")
    ] = None,
    titles: Annotated[
        Path | None,
        typer.Option(help="JSON {class: title}: articles of a dump that are called otherwise.", metavar="FILE"),
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="Take the captions of the images; --name is then `captions` by default.")
    ] = False,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Take sentences from a file, or the captions of the images; default the imports that the settings list."""
    from pipeline.prompts import importing
    from pipeline.prompts.dump import is_dump

    settings = command.settings(params)
    todo: list[tuple[str, str, str | Path | None]]
    if file is not None or captions:
        name = name or ("captions" if captions else "encyclopaedia" if file is not None and is_dump(file) else None)
        if file is not None and captions:
            raise UserError("--file and --captions exclude each other", exit_code=2)
        if dataset is None or name is None:
            lacks = ["--dataset"] * (dataset is None) + ["--name"] * (name is None)
            raise UserError(f"{'--captions' if captions else '--file'} needs {' and '.join(lacks)}", exit_code=2)
        todo = [(dataset, name, file)]
    else:
        listed = [item.name for item in settings.imports]
        if name is not None and name not in listed:
            known = f" ({nearest(name, listed)})" if listed else ""
            raise UserError(
                f"--name {name}: give --file, or list it under imports: in the settings{known}", exit_code=2
            )
        todo = [
            (item.dataset, item.name, item.file)
            for item in settings.imports
            if dataset in (None, item.dataset) and name in (None, item.name)
        ]
        if not todo:
            say(f"{dataset or 'settings'}: nothing to import (nothing listed under imports:)")
    done: list[PromptSummary] = []
    faults: list[UserError] = []
    for where, source, path in todo:
        try:
            if path is None:
                summary = importing.import_captions(where, source, cache=cache)
            else:
                summary = importing.import_prompts(where, source, Path(path), cache=cache, most=most, titles=titles)
        except UserError as error:  # the other sources come in all the same
            faults.append(error)
            continue
        _say(summary)
        done.append(summary)
    _finish(done, as_json=as_json, faults=faults)


def _given(**flags: Any) -> dict[str, Any]:
    """The flags that were on the line."""
    return {name: value for name, value in flags.items() if value is not None}


def _with_classes(names: list[str], cache: Path) -> list[str]:
    """The data sets that a language model can be asked about; the others are named."""
    from stages import ManifestStore, PromptStore
    from stages.files import user_errors
    from stages.names import slug

    found = []
    for name in names:
        if ManifestStore(cache, name).provenance().class_names:
            found.append(name)
        else:
            with user_errors(cache):  # `dvc repro` looks for what this command leaves
                (cache / PromptStore.name / f"dataset={slug(name)}").mkdir(parents=True, exist_ok=True)
            say(
                f"{name}: no classes to ask about; its captions come in with "
                f"`pipeline import-prompts --dataset {name} --captions`"
            )
    return found


def _encoder(settings: "Params") -> "Encoder":
    """The text side that finds near duplicates; on the CPU, since the language model takes the GPU."""
    from pipeline.encoders import load_encoder

    return load_encoder(settings.encoder, device="cpu")


def _engine(settings: "Params", llm: "ResolvedLLM", options: "EngineOptions") -> "Engine":
    """The language model in this process, on its server, or in the workers of a cluster."""
    if settings.cluster.engine == "ray":
        from pipeline.cluster.asking import ClusterEngine

        return ClusterEngine(llm, options, settings.llms, settings.cluster)
    from pipeline.prompts.engines import load_engine

    return load_engine(llm, options)


def _finish(done: "list[PromptSummary]", *, as_json: bool, faults: Sequence[UserError] = ()) -> None:
    """What a program reads, and a fault where a store could not be written."""
    if as_json:
        command.show([asdict(summary) for summary in done], as_json=True, text=str)
    lines = [*map(str, faults), *(summary.fault for summary in done if summary.fault)]
    if lines:
        raise UserError("; ".join(lines), exit_code=max([1, *(fault.exit_code for fault in faults)]))


def _say(summary: "PromptSummary") -> None:
    from pipeline.prompts.summary import lines

    for line in lines(summary):
        say(line)
