"""Ask the language model about every class and keep the answers, the dropped ones too (section 3.1 of the paper).

A class that has too few sentences left after cleaning is asked again, for `prompts.rounds` rounds in all. Answers are
saved batch by batch, all rounds in one numbering: a killed run goes on where it was and ends with the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.prompts.clean import clean, mark_duplicates, storable
from pipeline.prompts.engines import Engine, EngineOptions, Request, Sampling, find_llm
from pipeline.prompts.importing import import_prompts
from pipeline.prompts.near import NearDuplicates
from pipeline.prompts.questions import Question, fill, questions_for
from pipeline.prompts.rounds import Ask, batches, first_round, next_round
from pipeline.prompts.summary import Summary, summarise
from stages import ManifestStore, PromptProvenance, PromptStore, UserError
from stages.command import say
from stages.params import DataParams, PromptParams
from stages.parts import Parts, is_current
from stages.stopping import keeping

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

__all__ = ["generate", "import_prompts"]

DEFAULT = EngineOptions()
Row = dict[str, Any]


def generate(
    dataset: str,
    llm: str,
    *,
    data: DataParams,
    prompts: PromptParams,
    cache: Path,
    engine: Callable[[], Engine],
    encoder: "Encoder | None" = None,
    options: EngineOptions = DEFAULT,
    aliases: Mapping[str, str] | None = None,
) -> Summary:
    """Ask `llm` every question about every class, `data.samples` times, and write the prompt store.

    Args:
        engine: gives the loaded model; called only when there is something to ask.
        encoder: finds near duplicates; None keeps them.
        options, aliases: as `engine` was told them, for the provenance.

    Raises:
        UserError: no manifest yet, a data set without classes, an unknown LLM, or one that cannot be loaded here.
    """
    manifest = ManifestStore(cache, dataset).provenance()
    names = manifest.class_names
    if not names:
        raise UserError(
            f"{dataset}: there are no classes to ask about; its captions come in with "
            f"`pipeline import-prompts --dataset {dataset} --captions`"
        )
    questions = questions_for(dataset, data.questions)
    found = find_llm(llm, options, prompts.server, aliases)
    store = PromptStore(cache, dataset, llm)
    origin = PromptProvenance(
        dataset=dataset,
        content="",
        inputs={"classes": manifest.inputs["classes"]},
        llm=llm,
        llm_fingerprint=found.fingerprint,
        note=found.note,
        questions={q.question_id: q.text for q in questions},
        settings={
            "samples": data.samples,
            "system": found.system,
            # batch too: an answer depends a little on the others of its batch
            **prompts.model_dump(exclude={"llm", "server", "near_duplicate"}),
            "near_duplicate": _near_settings(encoder, prompts),
            "engine": "server" if prompts.server.url else asdict(options),
        },
    )
    wanted = data.samples * len(questions)
    if is_current(store, origin):
        rows = store.read().to_pylist()
        return summarise(dataset, llm, rows, names, wanted=wanted, note=found.note, skipped=True)

    done = Parts(store, origin, part_rows=prompts.batch)
    near = NearDuplicates(encoder, prompts.near_duplicate) if encoder and prompts.near_duplicate is not None else None
    with store.locked("pipeline generate-prompts"), keeping(lambda: f"{done.rows} answers about {dataset} are kept"):
        rows, asks, part = [], first_round(names, questions, data.samples), 0
        for number in range(1, prompts.rounds + 1):
            answers, classes = sum(ask.n for ask in asks), len({ask.class_id for ask in asks})
            say(f"{dataset}: round {number}, {answers} answers of {llm} about {classes} classes")
            new: list[Row] = []
            for batch in batches(asks, prompts.batch):
                if not done.has(part):
                    done.save(
                        part, pa.Table.from_pylist(_answers(engine(), batch, prompts, llm), schema=store.schema())
                    )
                    say(f"{dataset}: {len(new) + sum(ask.n for ask in batch)} of {answers} answers")
                new += pq.read_table(done.part(part), partitioning=None).to_pylist()
                part += 1
            _clean(new, rows, names, questions, prompts, near)
            rows += new
            asks = next_round(rows, names, questions, wanted)
            if not asks:
                break
        for row in rows:
            row["kept"] = row["drop_reason"] is None
        table = store.in_order(pa.Table.from_pylist(rows, schema=store.schema()))
        # A hub model that has just been downloaded is known by its commit from now on.
        known = find_llm(llm, options, prompts.server, aliases).fingerprint
        done.finish([table], provenance=origin.model_copy(update={"llm_fingerprint": known}))
    return summarise(dataset, llm, rows, names, wanted=wanted, note=found.note)


def _near_settings(encoder: "Encoder | None", prompts: PromptParams) -> Row | None:
    if encoder is None or prompts.near_duplicate is None:
        return None
    return {"cosine": prompts.near_duplicate, "encoder": encoder.name, "fingerprint": encoder.fingerprint}


def _answers(engine: Engine, batch: Sequence[Ask], prompts: PromptParams, llm: str) -> list[Row]:
    """Have one batch answered: rows of a prompt store, not cleaned yet."""
    sampling = Sampling(temperature=prompts.temperature, top_p=prompts.top_p, max_tokens=prompts.max_tokens)
    requests = [
        Request(question=fill(ask.question.text, ask.class_name), seed=ask.seed(prompts.seed), n=ask.n) for ask in batch
    ]
    rows = []
    for ask, answers in zip(batch, engine.generate(requests, sampling), strict=True):
        if len(answers) != ask.n:
            raise UserError(f"LLM {llm} gave {len(answers)} answers where {ask.n} were asked for ({ask.class_name!r})")
        question_id = ask.question.question_id
        rows += [
            {
                "prompt_id": f"{ask.class_id:05d}-{question_id}-{sample:03d}", "class_id": ask.class_id,
                "question_id": question_id, "sample": sample, "answer": storable(answer.text),
                "n_tokens": answer.n_tokens, "finish_reason": answer.finish_reason, "llm_name": llm,
            }
            for sample, answer in enumerate(answers, ask.first)
        ]  # fmt: skip
    return rows


def _clean(
    new: list[Row],
    earlier: list[Row],
    names: Mapping[int, str],
    questions: Sequence[Question],
    prompts: PromptParams,
    near: NearDuplicates | None,
) -> None:
    """Fill in `text` and `drop_reason` of new rows; what earlier rounds kept stays kept."""
    texts = {question.question_id: question.text for question in questions}
    for row in new:
        name = names[row["class_id"]]
        result = clean(
            row["answer"], class_name=name, question=fill(texts[row["question_id"]], name),
            finish_reason=row["finish_reason"], min_words=prompts.min_words, max_words=prompts.max_words,
        )  # fmt: skip
        row.update(text=result.text, drop_reason=result.drop_reason)
    mark_duplicates([*earlier, *new])
    if near is not None:
        near.mark(new)
