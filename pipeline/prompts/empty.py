"""What a user reads where a language model gave nothing that could be kept: about what, why, and what can be done."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.prompts.clean import says_nothing
from pipeline.prompts.summary import MOST, counted, listed
from stages import display_name

Rows = Sequence[Mapping[str, Any]]


def no_answer(dataset: str, llm: str, rows: Rows, *, max_tokens: int) -> str:
    """All answers so far are empty: it is no use to go on asking.

    Args:
        rows: the answers, not cleaned yet (`answer`, `finish_reason`).
        max_tokens: what an answer may have.
    """
    ends = listed(counted(row["finish_reason"] for row in rows))
    return (
        f"{dataset}: all {len(rows)} answers of {llm} are empty (finish_reason: {ends}); {_mend(rows, max_tokens)}; "
        "nothing is written, the same command asks again"
    )


def nothing_kept(
    dataset: str, llm: str, rows: Rows, classes: Mapping[int, str], *, of: int, max_tokens: int, written: bool
) -> str:
    """Some classes have not one kept sentence after all rounds.

    Args:
        rows: all answers, cleaned.
        classes: those without a kept sentence.
        of: classes in all.
        written: there is a store of these settings already.
    """
    theirs = [row for row in rows if row["class_id"] in classes]
    some = ", ".join(repr(display_name(name)[:40]) for name in list(classes.values())[:MOST])
    more = f", ... and {len(classes) - MOST} more" if len(classes) > MOST else ""
    ends = listed(counted(row["finish_reason"] for row in theirs))
    return (
        f"{dataset}: no sentence of {llm} was kept for {len(classes)} of {of} classes: {some}{more} ({len(theirs)} "
        f"answers: {listed(counted(row['drop_reason'] for row in theirs))}; finish_reason: {ends}); "
        f"{_mend(theirs, max_tokens)}; {'the store stays as it is' if written else 'no store is written'}, the answers "
        "so far are kept: the same command asks about these classes alone, --set "
        "prompts.allow_empty=true takes them as they are (their template stands in)"
    )


def _mend(rows: Rows, max_tokens: int) -> str:
    """What most of the answers call for."""
    cut = sum(row["finish_reason"] == "length" for row in rows)
    filtered = sum(row["finish_reason"] == "content_filter" for row in rows)
    silent = sum(says_nothing(row["answer"]) for row in rows)
    if 2 * cut > len(rows):
        first = "thought" if 2 * silent > len(rows) else "wrote"
        return f"the model {first} until its {max_tokens} tokens were over: give more with --set prompts.max_tokens=N"
    if 2 * filtered > len(rows):
        return "the server's filter took them"
    if 2 * silent > len(rows):
        return "look at the server, or take another model"
    return "put the questions another way (questions under data: in the settings), or take another model"
