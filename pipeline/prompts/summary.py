"""What was asked, kept and dropped: of a whole data set, each of its classes and questions, for people and --json."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.prompts.clean import SURPLUS
from pipeline.prompts.rounds import MOSTLY
from pipeline.prompts.score import TextScore
from stages import display_name
from stages.command import table

SHOWN = 5
"""Classes that are named in one line."""
MOST = 10
"""Classes, or questions, that a person is shown."""


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """One class: sentences asked for, answers given (topping up included), kept, why the others were dropped, and how
    well those that were kept find the class.
    """

    class_name: str
    asked: int
    answers: int
    kept: int
    dropped: dict[str, int]
    found: TextScore | None = None


@dataclass(frozen=True, kw_only=True)
class QuestionCount:
    """One question of all classes: answers given, kept, and why the others were dropped."""

    question_id: str
    question: str
    answers: int
    kept: int
    dropped: dict[str, int]

    @property
    def mostly_fails(self) -> bool:
        """More than half of the answers were dropped; that a class has enough without one is no fault of it."""
        surplus = sum(self.dropped.get(reason, 0) for reason in SURPLUS)
        return self.answers - self.kept - surplus > MOSTLY * self.answers


@dataclass(frozen=True, kw_only=True)
class PromptSummary:
    """What the prompt store of a data set holds.

    Attributes:
        asked: sentences that were wanted, of all classes.
        answers: rows of the store.
        classes: every class in the order of its id; empty for captions, which belong to images.
        questions: every question that was asked; empty for imported sentences.
        finish_reasons: why the answers ended.
        images: images with captions.
        short: classes with fewer kept sentences than were wanted.
        empty: classes without a kept sentence.
        ignored: classes of an imported file that the data set does not have.
        fault: why no store was written, and what can be done; empty where it was.
        found: how well the kept sentences find their class among all; None: no encoder was at hand.
    """

    dataset: str
    llm: str
    asked: int
    answers: int
    kept: int
    dropped: dict[str, int]
    classes: list[ClassCount] = field(default_factory=list)
    questions: list[QuestionCount] = field(default_factory=list)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    images: int = 0
    short: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    note: str = ""
    skipped: bool = False
    fault: str = ""
    found: TextScore | None = None


Rows = Sequence[Mapping[str, Any]]


def summarise(
    dataset: str,
    llm: str,
    rows: Rows,
    names: Mapping[int, str],
    *,
    questions: Mapping[str, str] | None = None,
    wanted: int | None = None,
    note: str = "",
    skipped: bool = False,
    ignored: Sequence[str] = (),
    fault: str = "",
    found: tuple[TextScore | None, Mapping[int, TextScore]] = (None, {}),
) -> PromptSummary:
    """Count the rows of a prompt store.

    Args:
        names: class_id -> class name; empty where the sentences belong to images.
        questions: question_id -> text of what was asked.
        wanted: kept sentences that a class should have; None: as many as it has rows.
        found: how well all kept sentences, and those of a class, find their class.
    """
    by_class, by_question = _grouped(rows, "class_id"), _grouped(rows, "question_id")
    classes = [
        ClassCount(
            class_name=name,
            asked=len(by_class[class_id]) if wanted is None else wanted,
            answers=len(by_class[class_id]),
            kept=_kept(by_class[class_id]),
            dropped=_reasons(by_class[class_id]),
            found=found[1].get(class_id),
        )
        for class_id, name in names.items()
    ]
    asked = [
        QuestionCount(
            question_id=name,
            question=text,
            answers=len(by_question[name]),
            kept=_kept(by_question[name]),
            dropped=_reasons(by_question[name]),
        )
        for name, text in (questions or {}).items()
    ]
    return PromptSummary(
        dataset=dataset,
        llm=llm,
        asked=sum(each.asked for each in classes) if classes else len(rows),
        answers=len(rows),
        kept=_kept(rows),
        dropped=_reasons(rows),
        classes=classes,
        questions=asked,
        finish_reasons=counted(row.get("finish_reason") for row in rows),
        images=len({row["image_id"] for row in rows} - {None}),
        short=[each.class_name for each in classes if wanted is not None and each.kept < wanted],
        empty=[each.class_name for each in classes if not each.kept],
        ignored=list(ignored),
        note=note,
        skipped=skipped,
        fault=fault,
        found=found[0],
    )


def counted(values: Iterable[Any]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(map(str, values)).most_common())


def listed(counts: Mapping[str, int], most: int = 3) -> str:
    """The most frequent ones as a person reads them: `refusal 12, too_short 3`."""
    return ", ".join(f"{what} {n}" for what, n in list(counts.items())[:most])


def reasons(rows: Rows) -> str:
    """The most frequent reasons why rows were dropped: `refusal 12, too_short 3`."""
    return listed(_reasons(rows))


def lines(summary: PromptSummary) -> Iterator[str]:
    """The summary as a person reads it: one line, a table of the classes with the fewest sentences, what is short."""
    again = ", up to date" if summary.skipped else ""
    of = f" of {summary.images} images" if summary.images else ""
    answers = f"{summary.answers} answers, " if summary.answers != summary.asked else ""
    yield (
        f"{summary.dataset}: {summary.kept} of {summary.asked} prompts{of} kept ({answers}{_shown(summary.llm)}{again})"
    )
    if summary.dropped and not summary.skipped:
        if summary.classes:
            yield from _table(summary).splitlines()
        else:
            yield f"  dropped: {listed(summary.dropped)}"
    if not summary.skipped:
        yield from _questions(summary)
    if summary.found is not None:
        yield from _found(summary, summary.found)
    if summary.short:
        by_name = {each.class_name: each for each in summary.classes}
        some = ", ".join(
            f"{_shown(name)} {by_name[name].kept} of {by_name[name].asked}" for name in summary.short[:MOST]
        )
        yield f"  short of the asked number: {len(summary.short)} of {len(summary.classes)} classes: {some}" + _more(
            summary.short
        )
    if summary.ignored:
        some = ", ".join(map(_shown, summary.ignored[:MOST]))
        count = f"{len(summary.ignored)} class{'es' * (len(summary.ignored) != 1)}"
        yield f"  not in the data set, left out: {count}: {some}" + _more(summary.ignored)
    if summary.note:
        yield f"  note: {summary.note}"


def _table(summary: PromptSummary) -> str:
    fewest = sorted(summary.classes, key=lambda each: each.kept)[:MOST]
    rows = [[_shown(each.class_name), each.asked, each.answers, each.kept, listed(each.dropped)] for each in fewest]
    count = len(summary.classes)
    total = f"all {count} classes" if count > MOST else "all"
    rows.append([total, summary.asked, summary.answers, summary.kept, listed(summary.dropped)])
    title = f"class ({MOST} with fewest left)" if count > MOST else "class"
    return table([title, "asked", "answers", "kept", "most frequent reasons to drop"], rows)


def _questions(summary: PromptSummary) -> Iterator[str]:
    """The questions that mostly fail, and those that the model declined to answer."""
    failing = [each for each in summary.questions if each.mostly_fails]
    for each in failing[:MOST]:
        yield (
            f"  mostly dropped: {each.answers - each.kept} of {each.answers} answers to {each.question_id} "
            f"{_shown(each.question, 60)!r} ({listed(each.dropped)})"
        )
    if len(failing) > MOST:
        yield f"  mostly dropped: {len(failing) - MOST} questions more (--json lists all)"
    declined = {each.question_id: each.dropped["refusal"] for each in summary.questions if "refusal" in each.dropped}
    if declined:
        yield f"  declined by the model: {sum(declined.values())} answers: {listed(declined, MOST)}"


def _found(summary: PromptSummary, found: TextScore) -> Iterator[str]:
    """How well the sentences find their class without any image, and the classes where they do it worst."""
    yield (
        f"  sentences that find their class among {len(summary.classes)}, by text alone: {found.top1:.0%} (mean rank "
        f"{found.rank:.1f}); with its name taken out: {found.unnamed_top1:.0%} (mean rank {found.unnamed_rank:.1f})"
    )
    scored = [(each.class_name, each.found) for each in summary.classes if each.found is not None]
    worst = sorted(scored, key=lambda each: (each[1].unnamed_top1, -each[1].unnamed_rank))
    worst = [each for each in worst if each[1].unnamed_top1 < 1][:SHOWN]
    if worst:
        some = ", ".join(
            f"{_shown(name)} {each.unnamed_top1:.0%} (rank {each.unnamed_rank:.0f})" for name, each in worst
        )
        yield f"  least found without the name: {some}; --ask-again-worst {len(worst)} asks about them once more"


def _grouped(rows: Rows, key: str) -> defaultdict[Any, list[Mapping[str, Any]]]:
    found: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row.get(key)].append(row)
    return found


def _kept(rows: Rows) -> int:
    return sum(row["drop_reason"] is None for row in rows)


def _reasons(rows: Rows) -> dict[str, int]:
    return counted(row["drop_reason"] for row in rows if row["drop_reason"] is not None)


def _more(items: Sequence[str]) -> str:
    return f", ... and {len(items) - MOST} more (--json lists all)" if len(items) > MOST else ""


def _shown(name: str, most: int = 40) -> str:
    """A name as it can stand in one line of a terminal."""
    name = display_name(name)
    return name if len(name) <= most else name[: most - 1] + "…"
