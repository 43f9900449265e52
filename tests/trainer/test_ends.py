"""Choices at an end of their range are named and counted."""

from trainer.ends import at_end, end_notes


def test_a_choice_at_either_end_is_named_and_zero_is_no_end() -> None:
    assert at_end(C=(100.0, [1.0, 10.0, 100.0]), beta=(5.0, [1.0, 5.0, 20.0])) == {"at_end": "C = 100"}
    assert at_end(C=(1.0, (100.0, 1.0, 10.0)), alpha=(0.5, (0.5, 2.0, 4.0))) == {"at_end": "C = 1, alpha = 0.5"}
    assert at_end(beta=(0.0, [0.0, 1.0])) == {}


def test_what_was_not_searched_has_no_end() -> None:
    assert at_end(ratio=(0.2, [0.2]), rate=(0.1, [0.1, 0.02])) == {}
    assert at_end() == {}
    assert at_end(rate=(0.1, [0.02, 0.1, float("inf")])) == {}


def test_a_run_counts_the_ends_of_each_method() -> None:
    fits = [("gda", at_end(alpha=(100.0, (1.0, 10.0, 100.0)))), ("gda", {}), ("logistic", {"C": 1.0})]
    (line,) = end_notes(fits, where="few-shot")
    assert line == "few-shot: choices at an end of what is searched, in fits: gda alpha = 100 (1 of 2)"
    assert end_notes(fits[1:], where="few-shot") == []
    many = [(f"m{i}", {"at_end": "a = 1"}) for i in range(9)]
    assert "and 3 more" in end_notes(many, where="x")[0]
