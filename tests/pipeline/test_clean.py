import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.prompts.clean import DROP_REASONS, clean, mark_duplicates, names_subject, one_line, storable

QUESTION = "What does a cup look like?"


def cleaned(answer: str, *, name: str = "cup", finish: str = "stop") -> tuple[str, str | None]:
    result = clean(answer, class_name=name, question=QUESTION, finish_reason=finish)
    return result.text, result.drop_reason


@pytest.mark.parametrize(("answer", "expected"), [
    ("A cup is round. It has a handle.", "A cup is round."),
    ("  A cup\tis  round.\x00\x1b", "A cup is round."),
    ("A cup holds e.g. tea or 3.5 oz. of milk. Next.", "A cup holds e.g. tea or 3.5 oz. of milk."),
    ("A cup by J. R. Smith of St. Ives is blue. It ends.", "A cup by J. R. Smith of St. Ives is blue."),
    ("A cup made in the U.S. Army is green. It ends.", "A cup made in the U.S. Army is green."),
    ("A cup made in the U.S.", "A cup made in the U.S."),
    ("Certainly! Here is a description of a cup:\n\nA cup is round.", "A cup is round."),
    ("Sure, a cup is round.", "a cup is round."),
    ("1. **Cup**: a `round` vessel.\n2. Another.", "Cup: a round vessel."),
    ("- A cup is round\n- It is blue", "A cup is round"),
    ("## A cup is round!", "A cup is round!"),
    ('"A cup is round." It says.', "A cup is round."),
    ('A "cup" is "round".', 'A "cup" is "round".'),
    ("“A cup is round.”", "A cup is round."),
    ("Caption: A white cup on a table", "A white cup on a table"),
    ("See the [cup](http://x.y/z) on a table.", "See the cup on a table."),
    ("A cup!!! It is loud.", None),
    ("A cup is round… It holds tea.", "A cup is round…"),
    ("A cup_holder is a_b * c.", "A cup_holder is a_b c."),
    ("A cup is\u2028round.", None),
    ("A cup\u200b is \ud800round.", "A cup is round."),
    ('"Meshed" cups look like a net.', '"Meshed" cups look like a net.'),
    ("'A cup's handle is thin'.", "A cup's handle is thin."),
    ("The cup's 'handle' is thin.", "The cup's 'handle' is thin."),
    ('"Certainly! A cup is round."', "A cup is round."),
    ("''A cup is round.''", "A cup is round."),
    ('=) ":"A cup is round.', "A cup is round."),
    ("- Sure! - **A cup** is round", "A cup is round"),
    ("<p>A <b>cup</b> is <i class='x'>round</i>.<br/>It holds tea.</p>", "A cup is round."),
    ("<think>The user wants a cup. Fine.</think>\n\nA cup is round.", "A cup is round."),
    ("A cup is < 5 cm and > 2 cm wide.", "A cup is < 5 cm and > 2 cm wide."),
    ("A cup (杯子) is round.", "A cup is round."),
    ("A café's cup holds 3.5 oz., or 100 ml.", "A café's cup holds 3.5 oz., or 100 ml."),
    ("A big, big cup stands on a long, long table.", "A big, big cup stands on a long, long table."),
    ("La La Land cups are den mothers' favourites.", "La La Land cups are den mothers' favourites."),
])  # fmt: skip
def test_the_first_sentence_is_kept_without_marks(answer: str, expected: str | None) -> None:
    text, reason = cleaned(answer)
    assert (text if reason is None else None) == expected


@pytest.mark.parametrize(("answer", "reason"), [
    ("", "empty"),
    (" \n\t** -- ##", "empty"),
    ("A cup has a white脸 and a handle.", "other_language"),
    ("A cup has a чашка round handle.", "other_language"),
    ("Una cup es un vaso con asa.", "other_language"),
    ("Eine cup ist ein Becher mit Henkel.", "other_language"),
    ("See the cup at https://x.y/z for a picture", "code"),
    ("A cup lies at cup.example.com/a in full", "code"),
    ("A cup is like cup.fill(tea) => full cup", "code"),
    ('A cup looks like {"cup": true} in text.', "code"),
    ("Cup #tea #cups #morning of the day", "code"),
    ("A bright cup>Welcome to the world of tea.", "code"),
    ("A cup cup cup cup stands there.", "repeats_itself"),
    ("A cup and a cup and a cup and a cup and a cup.", "repeats_itself"),
    ("A cup in CSS is a navigation link to another page.", "no_thing"),
    ("Cup is a database system for analysing data.", "no_thing"),
    ("…", "empty"),
    ("I'm sorry, but I can't see the cup.", "refusal"),
    ("I'm happy to describe a cup in a photograph.", "refusal"),
    ("It is not possible to accurately describe a cup.", "refusal"),
    ("The image you are referring to is a cup.", "refusal"),
    ("As an AI language model, I have no cup.", "refusal"),
    ("Unfortunately, I cannot describe a cup.", "refusal"),
    ("There is no one answer to this question, as cups differ.", "refusal"),
    ("I don't see what you mean by a cup.", "refusal"),
    ("<think>A cup is what the user wants", "empty"),
    ("What does a cup look like?", "repeats_question"),
    ("What does a cup look like? It is round.", "repeats_question"),
    ("Have you ever seen a cup?", "asks"),
    ("A cup.", "too_short"),
    ("A cup " + "very " * 100 + "large.", "too_long"),
    ("A plate is flat and round.", "no_subject"),
    ("A cup is like e.g.", "unfinished"),
])  # fmt: skip
def test_a_bad_answer_is_dropped_with_its_reason(answer: str, reason: str) -> None:
    assert cleaned(answer)[1] == reason


def test_a_sentence_cut_off_by_the_token_limit_is_dropped() -> None:
    assert cleaned("A cup is a round vessel with", finish="length")[1] == "unfinished"
    assert cleaned("A cup is a round vessel with", finish="stop")[1] is None
    assert cleaned("A cup is a round vessel. It has", finish="length")[1] is None
    assert cleaned("A cup on a table\nIt has", finish="length") == ("A cup on a table", None)


@pytest.mark.parametrize(("text", "name"), [
    ("Two seahorses swim.", "sea_horse"),
    ("White water lilies.", "water_lilly"),
    ("A LILY.", "water lilly"),
    ("A rhinoceros runs.", "rhino"),
    ("The cougar's coat is tan.", "cougar_body"),
    ("Knives are sharp.", "knife"),
    ("An eclair.", "éclair"),
    ("Boeing 737s.", "737-800"),
    ("An A320.", "A320"),
    ("anything", "🙂"),
    ("anything", ""),
    ("这是一只红色的猫。", "猫"),
    ("Cell phones ring.", "cellphone"),
    ("A ceiling fan.", "Ceiling_Fan"),
    ("A pleat is a fold.", "pleated"),
    ("Scales overlap.", "scaly"),
    ("A dot on cloth.", "dotted"),
    ("He swims.", "swimming"),
])  # fmt: skip
def test_a_subject_is_found_in_its_forms(text: str, name: str) -> None:
    assert names_subject(text, name)


@pytest.mark.parametrize(("text", "name"), [
    ("An elephant walks.", "ant"),
    ("A bassoon plays.", "bass"),
    ("A dog barks.", "cat"),
    ("It is of the kind.", "bishop of llandaff"),
    ("A pan is hot.", "pansy"),
    ("", "cup"),
])  # fmt: skip
def test_a_missing_subject_is_noticed(text: str, name: str) -> None:
    assert not names_subject(text, name)


def test_later_duplicates_within_a_class_are_dropped() -> None:
    rows: list[dict[str, Any]] = [
        {"class_id": class_id, "image_id": None, "text": text, "drop_reason": reason}
        for class_id, text, reason in [
            (0, "A cup is round.", "refusal"),
            (0, "A cup is round.", None),
            (0, "a Cup  is round", None),
            (1, "A cup is round.", None),
            (0, "A cup is blue.", None),
        ]
    ]
    mark_duplicates(rows)
    assert [row["drop_reason"] for row in rows] == ["refusal", None, "duplicate", None, None]


@given(st.text(), st.text())
@example("\ud800\udc00 \ud800", "")
def test_any_text_becomes_storable(text: str, more: str) -> None:
    assert storable(text).encode().decode() == storable(storable(text))
    assert storable(more.encode("utf-8", "replace").decode()) == more.encode("utf-8", "replace").decode()
    line = one_line(text)
    assert line == one_line(line)
    assert not any(unicodedata.category(char)[0] == "C" for char in line)


hostile = st.text(
    alphabet=st.one_of(st.sampled_from(" \n.!?:*_#-`\"'“”[]()<>1a.\\eé猫🙂\u2028\u200d\ud800\x00"), st.characters()),
    max_size=300,
)


@given(hostile, hostile, hostile, st.sampled_from(["stop", "length", ""]), st.integers(0, 9))
@example("a" * 20000 + "." * 20000, "a", "a", "length", 1)
@example("**" * 20000, "", "", "stop", 0)
@example("[" * 20000, "x_" * 250, "", "stop", 0)
@example("1. " * 20000, "猫", "", "stop", 0)
@example("sure! " * 20000, "{}", "{}", "stop", 0)
@example('"' * 20000, "cup", "{}", "stop", 0)
@example('"-' * 10000 + "a cup", "cup", "{}", "stop", 0)
def test_any_answer_is_cleaned_without_an_error(answer: str, name: str, question: str, finish: str, least: int) -> None:
    result = clean(answer, class_name=name, question=question, finish_reason=finish, min_words=least, max_words=50)
    result.text.encode("utf-8")
    assert not any(unicodedata.category(char)[0] == "C" for char in result.text)
    again = clean(result.text, class_name=name, question=question, finish_reason="stop", min_words=least, max_words=50)
    assert again.text == result.text
    assert result.drop_reason in (None, *DROP_REASONS)
    assert "\n" not in result.text
    assert result.text == result.text.strip()
    if result.drop_reason is None:
        assert any(char.isalnum() for char in result.text)
        assert least <= len(result.text.split()) <= 50


@pytest.mark.parametrize(("answer", "reason"), [
    ("A sea horse has a curled tail, unlike lobsters.", "names_others"),
    ("A sea horse has a curled tail and a long snout.", None),
    ("A sea horse has the head of a horse.", None),
])  # fmt: skip
def test_what_tells_a_class_apart_names_no_other_class(answer: str, reason: str | None) -> None:
    others = ["Lobster", "horse", "flamingo_head"]
    found = clean(answer, class_name="sea_horse", question="?", finish_reason="stop", others=others)
    assert found.drop_reason == reason


def test_a_class_that_is_called_like_something_on_a_screen_may_be_spoken_of() -> None:
    text = "A web site shows a menu and pictures."
    assert cleaned(text, name="web_site") == (text, None)
    assert cleaned("A web site shows a cup and pictures.")[1] == "no_thing"


@pytest.mark.parametrize(("question", "name", "answer"), [
    ("茶碗はどんな形ですか?", "茶碗", "茶碗はまるいカップで 白い 色 です。"),
    ("Как выглядит чашка?", "чашка", "Чашка круглая, белая и с ручкой."),
    ("Wie sieht eine Tasse aus?", "Tasse", "Eine Tasse ist rund und hat einen Henkel."),
])  # fmt: skip
def test_an_answer_in_the_language_of_the_question_is_kept(question: str, name: str, answer: str) -> None:
    assert clean(answer, class_name=name, question=question, finish_reason="stop").drop_reason is None


@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=80))
def test_any_answer_to_any_question_is_kept_on_one_line_or_has_a_reason(answer: str, name: str, question: str) -> None:
    result = clean(answer, class_name=name, question=question, finish_reason="stop")
    assert result.drop_reason is None or result.drop_reason in DROP_REASONS
    assert "\n" not in result.text
    again = clean(result.text, class_name=name, question=question, finish_reason="stop")
    if result.drop_reason is None:
        assert again == result, "a clean sentence stays as it is"
