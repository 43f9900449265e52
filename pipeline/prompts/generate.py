"""Ask the language model about every class and keep the answers, the dropped ones too (section 3.1 of the paper).

What is asked when says `plan`: a class that has too few sentences left after cleaning is asked again, for
`prompts.rounds` rounds in all. Answers are saved batch by batch, all steps in one numbering: a killed run goes on
where it was and ends with the same bytes.
No store is written while a class has not one kept sentence: a server that was broken for a while would leave a class
without text for good. The same command then asks about these classes alone, a round each time.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.prompts.clean import SURPLUS, Seen, clean, mark_duplicates, says_nothing, storable
from pipeline.prompts.empty import no_answer, nothing_kept
from pipeline.prompts.engines import Answer, Engine, EngineOptions, Sampling, answered
from pipeline.prompts.engines.limits import check_room, fitted
from pipeline.prompts.importing import import_prompts
from pipeline.prompts.llms import ResolvedLLM
from pipeline.prompts.near import NearDuplicates
from pipeline.prompts.plan import Plan
from pipeline.prompts.questions import OTHERS, PHYSICAL, Questions, fill, questions_for
from pipeline.prompts.rounds import ClassRequest, batches, lacking
from pipeline.prompts.score import Finder
from pipeline.prompts.subset import trim
from pipeline.prompts.summary import SHOWN, PromptSummary, summarise
from pipeline.registry.cards import card
from stages import ManifestProvenance, ManifestStore, PromptProvenance, PromptStore, UserError, display_name
from stages.command import say
from stages.params import DataParams, PromptParams
from stages.stopping import keeping
from stages.stores.parts import Parts, is_current

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

__all__ = ["generate", "import_prompts"]

DEFAULT = EngineOptions()
ENOUGH = 100
"""Empty answers from the first one on that show that the model says nothing at all."""
REFUSED = b"refused"
"""Key in the footer of a saved batch: the settings that its server did not take, as a JSON list."""
Row = dict[str, Any]


def generate(
    dataset: str,
    llm: ResolvedLLM,
    *,
    data: DataParams,
    prompts: PromptParams,
    cache: Path,
    engine: Callable[[], Engine],
    encoder: "Callable[[], Encoder] | None" = None,
    options: EngineOptions = DEFAULT,
    again: bool = False,
    score: bool = False,
) -> PromptSummary:
    """Ask `llm` every question about every class, `data.samples` times, and write the prompt store.

    Where a class has nothing in the end, no store is written and the summary's `fault` says so, unless
    `prompts.allow_empty`.

    Args:
        llm: what `find_llm` found.
        engine: gives the loaded model; called only when there is something to ask.
        encoder: gives what finds near duplicates; None keeps them.
        options: as `engine` was told them, for the provenance.
        again: ask for what a finished store is short of, and add it.
        score: say how well the sentences find their class of a finished store too.

    Raises:
        UserError: no manifest yet, a data set without classes, answers that cannot fit into the model's context, a
            model that cannot be loaded here, or one whose answers are all empty.
    """
    manifest = ManifestStore(cache, dataset).provenance()
    names = manifest.class_names
    if not names:
        raise UserError(
            f"{dataset}: there are no classes to ask about; its captions come in with "
            f"`pipeline import-prompts --dataset {dataset} --captions`"
        )
    questions = questions_of(dataset, llm, data, prompts)
    served = prompts.server.url is not None
    options = options if served else fitted(options, llm)
    check_room(
        (fill(template.text, name) for name in names.values() for template in questions.all), prompts.max_tokens,
        llm=llm, length=llm.context if served else options.max_model_len,
    )  # fmt: skip
    near = None
    finder = Finder(names, encoder()) if encoder is not None else None
    if encoder is not None and prompts.near_duplicate is not None and drops_near(prompts):
        near = NearDuplicates(encoder(), prompts.near_duplicate)
    store = PromptStore(cache, dataset, llm.name)
    plan = Plan(
        dataset=dataset, names=names, questions=questions, samples=data.samples, rounds=prompts.rounds,
        keep=prompts.keep, nearest=_nearest(finder, prompts, names, questions),
    )  # fmt: skip
    texts = {template.question_id: template.text for template in plan.templates}
    chats = is_chat(llm, prompts) if data.questions is None else None
    phrasing = "auto" if chats is None else "chat" if chats else "completion"
    origin, described = (
        _origin(plan, manifest, llm, each, near=near, finder=finder, engine="server" if served else asdict(options))
        for each in (
            prompts.model_copy(update={"phrasing": phrasing, "ask_again_worst": worst})
            for worst in (prompts.ask_again_worst, 0)
        )
    )
    wanted = plan.wanted

    def summary(rows: Sequence[Row], **more: Any) -> PromptSummary:
        asked = {row["question_id"] for row in rows} | {template.question_id for template in questions.asked}
        known = {name: text for name, text in texts.items() if name in asked}
        is_asked_for = finder is not None and not more.get("fault") and (score or not more.get("skipped"))
        found = finder.score(rows) if finder is not None and is_asked_for else (None, {})
        return summarise(
            dataset, llm.name, rows, names, questions=known, wanted=wanted, note=llm.note, found=found, **more
        )

    rows: list[Row] = []
    refused: set[str] = set()
    classes, made_from = names, origin
    worst = prompts.ask_again_worst
    finished = is_current(store, origin)
    if finished or is_current(store, described):
        rows = store.read().to_pylist()
        worst = 0 if finished else worst
        classes = lacking(rows, names, wanted if again else 0 if prompts.allow_empty else 1)
        if not classes and not worst:
            return summary(rows, skipped=True)
        for row in rows:
            row["drop_reason"] = None if row["drop_reason"] in SURPLUS else row["drop_reason"]
        before = store.provenance()
        refused = set(before.refused)
        made_from = origin.model_copy(update={"inputs": {**origin.inputs, "prompts": before.content}})
    written = bool(rows)
    parts = Parts(store, made_from, part_rows=prompts.batch)
    asking = _Asking(dataset, llm.name, prompts, parts, engine, chats=chats)
    cleaning = _Cleaning(names, prompts, near, rows)
    with store.locked("pipeline generate-prompts"), keeping(lambda: f"{parts.rows} answers about {dataset} are kept"):
        # A command that is given again asks once more about classes that have nothing, and about no other.
        for step, requests in plan.steps(rows, classes, lambda: asking.has_asked or prompts.allow_empty):
            new = asking.answers(step, requests)
            cleaning.clean(new, requests)
            rows += new
        if finder is not None:
            _choose(rows, plan, finder, worst, asking, cleaning)
        empty = lacking(rows, names, 1)
        if empty and not prompts.allow_empty:
            fault = nothing_kept(
                dataset, llm.name, rows, empty, of=len(names), max_tokens=prompts.max_tokens, written=written
            )
            return summary(rows, fault=fault)
        for row in rows:
            row["kept"] = row["drop_reason"] is None
        table = store.in_order(pa.Table.from_pylist(rows, schema=store.schema()))
        told = {"refused": sorted(refused | asking.refused), "nearest": plan.nearest or {}}
        parts.finish([table], provenance=origin.model_copy(update=told))
    return summary(rows)


def _origin(
    plan: Plan,
    manifest: ManifestProvenance,
    llm: ResolvedLLM,
    prompts: PromptParams,
    *,
    near: NearDuplicates | None,
    finder: Finder | None,
    engine: Any,
) -> PromptProvenance:
    """All that decides the rows of a store."""
    return PromptProvenance(
        dataset=plan.dataset, content="", inputs={"classes": manifest.inputs["classes"]}, llm=llm.name,
        llm_fingerprint=llm.fingerprint, note=llm.note,
        questions={template.question_id: template.text for template in plan.templates},
        settings={
            "samples": plan.samples,
            "ask": len(plan.questions.asked),
            "system": llm.system,
            # batch too: an answer depends a little on the others of its batch
            **prompts.model_dump(exclude={"llm", "server", "near_duplicate", "allow_empty"}),
            "near_duplicate": near and near.settings,
            "text": finder.settings if finder is not None and reads_text(prompts) else None,
            "engine": engine,
        },
    )  # fmt: skip


def _choose(rows: list[Row], plan: Plan, finder: Finder, count: int, asking: "_Asking", cleaning: "_Cleaning") -> None:
    """Ask once more about the classes that their sentences find least, and leave every class what it should have.

    Args:
        rows: all answers, cleaned; they grow, and those that a class can do without get the reason `surplus`.
        count: classes to ask about.
    """

    def in_order() -> None:  # the same whether the answers were given now or lay in a store
        rows.sort(key=lambda row: (row["class_id"], row["prompt_id"]))

    in_order()
    class_ids = finder.worst(rows, count) if count else []
    before = finder.score(rows)[1] if class_ids else {}
    if requests := plan.once_more(rows, class_ids):
        new = asking.answers("worst classes", requests)
        cleaning.clean(new, requests)
        rows += new
        in_order()
    trim(rows, plan.wanted, finder)
    if class_ids:
        now = finder.score(rows)[1]
        shown = [
            f"{display_name(plan.names[each])} {before[each].unnamed_top1:.0%} to {now[each].unnamed_top1:.0%} "
            f"(rank {before[each].unnamed_rank:.0f} to {now[each].unnamed_rank:.0f})"
            for each in class_ids[:SHOWN]
        ]
        more = f", ... and {len(class_ids) - SHOWN} more" if len(class_ids) > SHOWN else ""
        say(f"{plan.dataset}: sentences that find their class without its name: {', '.join(shown)}{more}")


def drops_near(prompts: PromptParams) -> bool:
    """Whether near duplicates are looked for: no cosine is larger than 1."""
    return prompts.near_duplicate is not None and prompts.near_duplicate < 1


def reads_text(prompts: PromptParams) -> bool:
    """Whether what is asked or kept depends on how an encoder reads class names and sentences, duplicates aside."""
    return bool(prompts.contrast or prompts.keep or prompts.ask_again_worst)


def _nearest(
    finder: Finder | None, prompts: PromptParams, names: Mapping[int, str], questions: Questions
) -> dict[int, list[str]] | None:
    """What each class is asked to be told from; None: nothing is asked."""
    if finder is None and reads_text(prompts):
        raise UserError("prompts.contrast, keep and ask_again_worst need an encoder", exit_code=2)
    if not prompts.contrast or finder is None or len(names) < 2 or not questions.contrast:
        return None
    return finder.nearest(prompts.contrast)


def is_chat(llm: ResolvedLLM, prompts: PromptParams) -> bool:
    """Whether the model is asked in the phrasing for models that follow instructions; what is not known to continue
    texts, or to be better at CuPL's questions, is taken to follow them.
    """
    return (
        llm.chats is not False and not llm.prefers_plain if prompts.phrasing == "auto" else prompts.phrasing == "chat"
    )


def questions_of(dataset: str, llm: ResolvedLLM, data: DataParams, prompts: PromptParams) -> Questions:
    """What the settings, or the card of a known data set, have the model asked.

    Raises:
        UserError: (exit code 2) the user's questions are none.
    """
    known = card(dataset)
    kind = data.kind if data.kind is not None else (known and known.kind) or PHYSICAL
    return questions_for(dataset, data.questions, chat=is_chat(llm, prompts), kind=kind)


class _Asking:
    """Has rounds of requests answered, batch by batch; what is saved already is read and not asked.

    Attributes:
        part: number of batches so far.
        has_asked: whether the engine was asked at all.
        refused: settings that the server did not take.
    """

    def __init__(
        self,
        dataset: str,
        llm: str,
        prompts: PromptParams,
        parts: Parts,
        engine: Callable[[], Engine],
        *,
        chats: bool | None,
    ) -> None:
        self.part = 0
        self.has_asked = False
        self.refused: set[str] = set()
        self._dataset, self._llm, self._prompts, self._parts, self._engine = dataset, llm, prompts, parts, engine
        self._has_heard, self._chats = prompts.allow_empty, chats
        self._unsaved: list[tuple[int, pa.Table]] = []

    def answers(self, step: str, requests: Sequence[ClassRequest]) -> list[Row]:
        """The answers of one step: rows of a prompt store, not cleaned yet.

        Raises:
            UserError: every answer so far is empty, or the engine cannot answer.
        """
        count, about = sum(request.n for request in requests), len({request.class_id for request in requests})
        say(f"{self._dataset}: {step}, {count} answers of {self._llm} about {about} classes")
        rows: list[Row] = []
        cut = list(batches(requests, self._prompts.batch))
        asked = self._ask([batch for part, batch in enumerate(cut, self.part) if not self._parts.has(part)])
        for _ in cut:
            saved = self._parts.has(self.part)
            table = self._parts.read(self.part) if saved else next(asked)
            new = table.to_pylist()
            rows += new
            self._has_heard = self._has_heard or saved or not all(says_nothing(row["answer"]) for row in new)
            if not saved:
                self._unsaved.append((self.part, table))
                self._save(enough=ENOUGH)
                say(f"{self._dataset}: {len(rows)} of {count} answers")
            self.refused |= set(json.loads((table.schema.metadata or {}).get(REFUSED, b"[]")))
            self.part += 1
        self._save(enough=1)
        return rows

    def _save(self, *, enough: int) -> None:
        """Keep what was answered, unless nothing has been said from the first answer on: that is to be asked again."""
        if self._has_heard:
            for part, table in self._unsaved:
                self._parts.save(part, table)
            self._unsaved.clear()
        elif sum(len(table) for _, table in self._unsaved) >= enough:
            rows = [row for _, table in self._unsaved for row in table.to_pylist()]
            raise UserError(no_answer(self._dataset, self._llm, rows, max_tokens=self._prompts.max_tokens))

    def _ask(self, batches: Sequence[Sequence[ClassRequest]]) -> Iterator[pa.Table]:
        """The rows of each batch; nothing is asked, and no model loaded, before the first ones are wanted."""
        prompts, engine = self._prompts, self._engine()
        sampling = Sampling(temperature=prompts.temperature, top_p=prompts.top_p, max_tokens=prompts.max_tokens)
        asked = ([request.as_request(prompts.seed) for request in batch] for batch in batches)
        for batch, answers in zip(batches, answered(engine, asked, sampling), strict=True):
            yield self._table(batch, answers, engine)

    def _table(self, batch: Sequence[ClassRequest], found: Sequence[Sequence[Answer]], engine: Engine) -> pa.Table:
        self.has_asked = True
        if self._chats and not engine.chats:
            raise UserError(
                f"LLM {self._llm} has no chat template: it continues texts and follows no instructions; give --set "
                "prompts.phrasing=completion, or questions of your own"
            )
        rows = []
        for request, answers in zip(batch, found, strict=True):
            if len(answers) != request.n:
                raise UserError(
                    f"LLM {self._llm} gave {len(answers)} answers where {request.n} were asked for "
                    f"({request.class_name!r})"
                )
            question_id = request.template.question_id
            rows += [
                {
                    "prompt_id": f"{request.class_id:05d}-{question_id}-{sample:03d}", "class_id": request.class_id,
                    "question_id": question_id, "sample": sample, "answer": storable(answer.text),
                    "n_tokens": answer.n_tokens, "finish_reason": answer.finish_reason, "llm_name": self._llm,
                }
                for sample, answer in enumerate(answers, request.first)
            ]  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=PromptStore.schema())
        return table.replace_schema_metadata({REFUSED: json.dumps(sorted(engine.refused))} if engine.refused else None)


class _Cleaning:
    """Fills in `text` and `drop_reason` of new rows; what was kept before stays kept, and is repeated by no new one."""

    def __init__(
        self,
        names: Mapping[int, str],
        prompts: PromptParams,
        near: NearDuplicates | None,
        kept_before: list[Row],
    ) -> None:
        self._names, self._prompts, self._near = names, prompts, near
        self._seen: Seen = set()
        mark_duplicates(kept_before, self._seen)
        if near is not None:
            near.remember(kept_before)

    def clean(self, rows: list[Row], requests: Sequence[ClassRequest]) -> None:
        """Clean the answers to some requests, in place."""
        least, most = self._prompts.min_words, self._prompts.max_words
        asked = {(request.class_id, request.template.question_id): request for request in requests}
        for row in rows:
            request = asked[row["class_id"], row["question_id"]]
            others = request.others if OTHERS in request.template.text else ()
            result = clean(
                row["answer"], class_name=self._names[row["class_id"]], question=request.question, others=others,
                finish_reason=row["finish_reason"], min_words=least, max_words=most,
            )  # fmt: skip
            row.update(text=result.text, drop_reason=result.drop_reason)
        mark_duplicates(rows, self._seen)
        if self._near is not None:
            self._near.mark(rows)
