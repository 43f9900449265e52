"""VQA accuracy against the official rules, worked out by hand."""

import pytest

from trainer.language.vqa import answer_type, normalised, question_type, vqa_accuracy


def naive(answer: str, answers: list[str]) -> float:
    """Leave-one-out, subset by subset, on answers that need no normalising."""
    subsets = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    return sum(min(each.count(answer) / 3, 1) for each in subsets) / len(subsets)


@pytest.mark.parametrize("agreeing", range(11))
def test_accuracy_is_the_mean_over_the_subsets_that_lack_one_answer(agreeing: int) -> None:
    answers = ["candle"] * agreeing + ["fire"] * (10 - agreeing)
    assert vqa_accuracy("candle", answers) == pytest.approx(naive("candle", answers))
    published = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0}
    assert vqa_accuracy("candle", answers) == pytest.approx(published[min(agreeing, 4)])


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("The Red Bus.", "red bus"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("1,000 people", "1000 people"),
        ("3.5 ft.", "3.5 ft"),
        ("black/white", "black white"),
        ("yes, it is!", "yes it is"),
        ("t-shirt", "t shirt"),
        ("a", ""),
        ("wont", "won't"),
        ("were", "were"),
    ],
)
def test_answers_are_normalised_as_officially(raw: str, plain: str) -> None:
    assert normalised(raw) == plain


def test_where_all_agree_nothing_is_normalised_as_in_the_official_evaluation() -> None:
    assert vqa_accuracy("Two", ["two"] * 10) == 0.0
    assert vqa_accuracy("two", ["two"] * 10) == 1.0
    assert vqa_accuracy("Two.", ["two"] * 9 + ["2"]) == 1.0


@pytest.mark.parametrize(
    ("question", "answers", "types"),
    [
        ("Is the man tall?", ["yes"] * 6 + ["no"] * 4, ("is the man", "yes/no")),
        ("How many dogs are there?", ["two", "2", "2", "3"], ("how many", "number")),
        ("What color is the bus?", ["red", "dark red"], ("what color is the", "other")),
        ("Whatever?", ["so"], ("none of the above", "other")),
        ("", ["so"], ("none of the above", "other")),
    ],
)
def test_types_of_questions_and_answers_are_those_of_vqa2(
    question: str, answers: list[str], types: tuple[str, str]
) -> None:
    assert (question_type(question), answer_type(answers)) == types


def test_an_answer_alone_has_no_one_to_agree_with() -> None:
    assert vqa_accuracy("cat", ["cat"]) == 0.0
