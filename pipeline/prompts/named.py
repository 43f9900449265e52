"""What a language model says about classes that are only named: no data set, no store that stays."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from pipeline.encoders.base import Encoder
from pipeline.ingest import classes_hash
from pipeline.prompts.engines import Engine, EngineOptions, find_llm, load_engine
from pipeline.prompts.generate import generate
from stages import ManifestProvenance, ManifestStore, PromptStore, UserError
from stages.params import Params


def sentences_about(
    names: Sequence[str], *, dataset: str, params: Params, encoder: Encoder
) -> tuple[dict[str, list[str]], str]:
    """Ask the settings' language model what each class looks like, as `pipeline generate-prompts` does.

    Args:
        dataset: whose questions are asked.
        params: `prompts` says which model and how; `data` may hold the data set's questions and samples.
        encoder: finds near duplicates.

    Returns:
        the kept sentences of each class, and the honest line about the model.

    Raises:
        UserError: the model cannot be had, or gave no sentence of a class that can be kept.
    """
    options = EngineOptions()
    model = find_llm(params.prompts.llm, options, params.prompts.server, params.llms)
    called = dict(enumerate(names))
    with TemporaryDirectory() as folder:
        cache = Path(folder)
        manifest = ManifestStore(cache, dataset)
        origin = ManifestProvenance(
            dataset=dataset, content="", inputs={"classes": classes_hash(called)}, class_names=called
        )
        manifest.write(pa.Table.from_pylist([], schema=manifest.schema()), origin)
        with ExitStack() as stack:

            @functools.cache
            def engine() -> Engine:
                made = load_engine(model, options)
                stack.callback(made.close)
                return made

            summary = generate(
                dataset, model, data=params.of(dataset), prompts=params.prompts, cache=cache, engine=engine,
                encoder=lambda: encoder, options=options,
            )  # fmt: skip
        if summary.fault:
            raise UserError(summary.fault)
        rows = PromptStore(cache, dataset, model.name).read(["class_id", "text", "kept"]).to_pylist()
    return {
        name: [row["text"] for row in rows if row["kept"] and row["class_id"] == i] for i, name in called.items()
    }, model.note
