"""What the results were made from, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from stages import ImageStore, ManifestStore, UserError
from stages.params import DataParams, EvaluationParams, PromptParams
from stages.stores.artifacts import NO_LLM, PromptStore, Store, TextStore, partition_values
from stages.stores.provenance import (
    FEATURES,
    SECOND,
    VIEWS_FROM,
    EmbeddingProvenance,
    ImageProvenance,
    ManifestProvenance,
    PromptProvenance,
    Provenance,
)
from stages.training import TrainParams
from trainer.report.page.blocks import Block, Code, Facts, Fold, Section, Text
from trainer.report.page.dataset import DataSet


def section(of: DataSet) -> Section | None:
    """The stores, the settings and the commands."""
    blocks: list[Block] = []
    commands: list[str] = []
    try:
        for store in [*stores(of), *further(of)]:
            origin = store.provenance()
            blocks.append(Fold(_title(store, of), [Facts(list(_facts(origin)))]))
            commands += list(_commands(of, origin))
    except UserError as error:
        blocks.append(Text([f"The stores cannot be read any more: {error}"]))
        commands = []
    commands.append(run_command(of))
    record = of.record
    settings = {
        "evaluation": record.evaluation.model_dump(mode="json", by_alias=True),
        "train": record.train.model_dump(mode="json", by_alias=True),
    }
    shown = yaml.safe_dump({"encoder": record.encoder, **settings}, sort_keys=False, allow_unicode=True, width=100)
    head: list[Block] = [
        Facts(
            [("data set", of.name), ("encoder", record.encoder), ("classes", str(record.classes)),
             ("prompt sources", ", ".join(record.sources) or "none"),
             *((name, value) for name, value in (
                 ("source", record.origin.source), ("licence", record.origin.licence),
                 *((f"prompts {source}", made) for source, made in record.origin.prompts.items()),
                 ("version of the run", record.origin.code_version),
             ) if value)]
        ),
        Code("\n".join(commands), "The commands that make these results again"),
    ]  # fmt: skip
    lead = (
        "The commands carry every setting that differs from its default, but names of classes and questions, which "
        "stand in the params.yaml of the run."
    )
    blocks = [*head, *blocks, Fold("Settings of the run (params.yaml)", [Code(shown, "Settings")])]
    return Section("provenance", "Provenance", blocks, lead)


def stores(of: DataSet) -> list[Store]:
    """The stores of the data set and the run's encoder, in the order in which they are made."""
    encoder = of.record.encoder
    written = [
        PromptStore(of.cache, of.name, llm) for llm in partition_values(of.cache, PromptStore, "llm", dataset=of.name)
    ]
    text = [
        TextStore(of.cache, of.name, encoder, llm)
        for llm in partition_values(of.cache, TextStore, "llm", dataset=of.name, encoder=encoder)
    ]
    found: list[Store] = [ManifestStore(of.cache, of.name), *written, *text, ImageStore(of.cache, of.name, encoder)]
    return found


def further(of: DataSet) -> list[Store]:
    """The second encoder's images, and the stores of other data sets that the run learned from or was judged on."""
    asked, names = of.record.evaluation, {about.name for about in of.record.protocols.values()}
    second = asked.student_encoder
    found: list[Store] = [ImageStore(of.cache, of.name, second)] if second not in (None, of.record.encoder) else []
    others = [
        *(asked.together if names & {"multitask", "meta"} else []),
        *(asked.targets if "cross-dataset" in names else []),
        *(asked.shifts.get(of.name, []) if "domain-generalization" in names else []),
    ]
    for other in dict.fromkeys(name for name in others if name != of.name):
        record = of.record.model_copy(update={"dataset": other})
        found += stores(DataSet(record, of.results, of.cache))
    return found


def _title(store: Store, of: DataSet) -> str:
    named = [value for key, value in store.partitions.items() if key != "dataset" or value != of.name]
    return " ".join([f"Store {store.name}", *named])


def _facts(origin: Provenance) -> Iterator[tuple[str, str]]:
    for name, value in origin.model_dump(mode="json").items():
        if name in ("store", "dataset", "class_names", "left_out") or value in (None, "", [], {}):
            continue
        yield name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _commands(of: DataSet, origin: Provenance) -> Iterator[str]:
    name, cache = origin.dataset, [] if str(of.cache) == "cache" else ["--cache", str(of.cache)]
    data = f'data."{name}"' if "." in name else f"data.{name}"
    if isinstance(origin, ManifestProvenance):
        words = [name, "--source", origin.source or origin.features or "SOURCE"]
        if origin.from_arrays:
            words += ["--encoder-name", origin.encoder or of.record.encoder]
        elif origin.templates and origin.templates != DataParams().templates:
            words += ["--set", f"{data}.templates={json.dumps(origin.templates, ensure_ascii=False)}"]
        split = origin.settings.get("split")
        if isinstance(split, dict) and split != DataParams().split.model_dump():
            words += ["--set", f"{data}.split={json.dumps(split)}"]
        yield _line("pipeline ingest", *words, *cache)
    elif isinstance(origin, ImageProvenance) and SECOND in origin.settings:
        words = ["--dataset", name, "--from", str(origin.settings[SECOND]), "--encoder", str(origin.encoder)]
        yield _line("pipeline embed-images", *words, *cache)
    elif FEATURES in origin.inputs:
        return  # came in with the manifest
    elif isinstance(origin, PromptProvenance):
        own = origin.llm or NO_LLM
        if origin.questions is not None:
            words = ["--dataset", name, "--llm", own]
            for key, usual in PromptParams().model_dump(exclude={"llm", "near_duplicate", "server"}).items():
                if origin.settings.get(key, usual) != usual:
                    words += ["--set", f"prompts.{key}={json.dumps(origin.settings[key])}"]
            if origin.settings.get("samples", DataParams().samples) != DataParams().samples:
                words += ["--set", f"{data}.samples={origin.settings['samples']}"]
            yield _line("pipeline generate-prompts", *words, *cache)
        elif origin.file is not None:
            yield _line("pipeline import-prompts", "--dataset", name, "--name", own, "--file", origin.file, *cache)
        else:
            yield _line("pipeline import-prompts", "--dataset", name, "--name", own, "--captions", *cache)
    elif isinstance(origin, ImageProvenance):
        views = ["--views", str(origin.views)] if origin.views else []
        views += ["--views-from", "FOLDER-OF-VIEWS"] * (VIEWS_FROM in origin.settings)
        encoder = origin.encoder or of.record.encoder
        yield _line("pipeline embed-images", "--dataset", name, "--encoder", encoder, *views, *cache)
    elif isinstance(origin, EmbeddingProvenance) and origin.llm in (None, NO_LLM):
        yield _line("pipeline embed-text", "--dataset", name, "--encoder", origin.encoder or of.record.encoder, *cache)


FLAGS = {"protocols": "--protocols", "methods": "--methods", "shots": "--shots", "seeds": "--seeds",
         "sources": "--sources"}  # fmt: skip
"""Settings of `evaluation` that have a flag."""


def run_command(of: DataSet) -> str:
    """`trainer run` with everything that differs from the defaults."""
    record = of.record
    words = ["--dataset", of.name, "--encoder", record.encoder]
    asked = _changed(record.evaluation, EvaluationParams())
    own_seeds = asked.pop("seeds_of", {}).get(of.name)
    if own_seeds:
        asked["seeds"] = own_seeds
    for key, value in asked.items():
        if key in FLAGS and value is not None:
            words += [FLAGS[key], ",".join(map(str, value if isinstance(value, list) else [value]))]
        else:
            words += ["--set", f"evaluation.{key}={json.dumps(value, ensure_ascii=False)}"]
    for key, value in _changed(record.train, TrainParams()).items():
        words += ["--set", f"train.{key}={json.dumps(value, ensure_ascii=False)}"]
    cache = [] if str(of.cache) == "cache" else ["--features", str(of.cache)]
    results = [] if str(of.results) == "results" else ["--results", str(of.results)]
    return _line("trainer run", *words, *cache, *results)


def _changed(found: BaseModel, usual: BaseModel) -> dict[str, Any]:
    own, default = (each.model_dump(mode="json", by_alias=True) for each in (found, usual))
    return {key: value for key, value in own.items() if value != default.get(key)}


def _line(command: str, *words: str) -> str:
    return " ".join([command, *map(shlex.quote, words)])
