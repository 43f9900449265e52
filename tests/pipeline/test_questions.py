import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prompts.questions import article_for, as_file, fill, is_plural, load_table, questions_for, readable
from stages.errors import UserError

# Questions a data set, as CuPL asks them (its answers a class over 10); EuroSAT and textile are our own.
COUNTS = {
    "caltech101": 3, "oxford_pets": 2, "stanford_cars": 9, "flowers102": 2, "food101": 3, "fgvc_aircraft": 2,
    "sun397": 3, "dtd": 6, "eurosat": 5, "ucf101": 5, "imagenet": 5, "imagenetv2": 5, "imagenet_sketch": 5,
    "imagenet_a": 5, "imagenet_r": 5, "textile": 5, "generic": 5,
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "count"), COUNTS.items())
def test_every_data_set_has_its_number_of_questions(dataset: str, count: int) -> None:
    questions = questions_for(dataset)
    chat = questions_for(dataset, chat=True, kind="a thing")
    assert len(questions.asked) == len(chat.asked) == count
    assert chat.spare, "one is left to take the place of a question that fails"
    texts = [fill(question.text, "cup", ["bowl", "ant"]) for question in (*questions.all, *chat.all)]
    assert not any("{" in text for text in texts)
    assert all("a thing" in question.text for question in chat.all)
    assert len({question.question_id for question in chat.all}) == len(chat.all)


def test_an_unknown_data_set_is_asked_the_generic_questions() -> None:
    assert questions_for("my-own-set") == questions_for("generic")
    assert [q.text for q in questions_for("imagenet-r").all] == [q.text for q in questions_for("generic").all]
    assert questions_for("oxford-pets") == questions_for("oxford_pets")


def test_own_questions_replace_the_table() -> None:
    (question,) = questions_for("dtd", ["What is {}?"]).asked
    assert fill(question.text, "felt") == "What is felt?"


def test_all_faults_of_own_questions_are_named_together() -> None:
    with pytest.raises(UserError, match=r"questions\[1\].*questions\[2\].*twice") as caught:
        questions_for("dtd", ["no place", "{} and {}", "{}", "{}"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [
    "hour", "honest man", "heir", "MRI scanner", "SUV", "X-ray", "x-ray", "F-16A/B", "A320", "MD-11", "umbrella",
    "urchin", "unidentified object", "ibis", "8-ball", "11 o'clock", "18-wheeler", "1800 car", "1100", "812 house",
    "éclair", "ox", "LED lamp", "urn", "ugly fish", "e-bike", "usher", "NFL ball", "Abyssinian",
    "AM General Hummer SUV", "Audi R8", "Isuzu Ascender", "An-12", "A300B4", "ERJ 135", "F/A-18", "ATR-42", "SR-20",
    "L-1011", "hourglass", "english marigold", "undershirt", "upright piano", "automated teller machine",
])  # fmt: skip
def test_names_that_sound_like_a_vowel_take_an(name: str) -> None:
    assert article_for(name) == "an"


@pytest.mark.parametrize("name", [
    "unicorn", "European", "ukulele", "ewer", "euphonium", "one-way street", "UFO", "BMW", "T-shirt", "U-boat",
    "university", "utensil", "house", "707-320", "2012 Acura TL", "NASA rocket", "FIAT 500", "uranium rod", "use",
    "USB stick", "cup", "yak", "100 dollar bill", "", "🙂", "unique cup", "Tu-154",
    "2012 Audi R8", "1991 Volkswagen Golf", "HUMMER H3T", "MINI Cooper", "DHC-1", "Eurofighter Typhoon", "Yak-42",
    "unicycle", "one-piece bathing suit", "honeycomb", "CRJ-200",
])  # fmt: skip
def test_names_that_sound_like_a_consonant_take_a(name: str) -> None:
    assert article_for(name) == "a"


@pytest.mark.parametrize("name", [
    "scissors", "french fries", "tacos", "deviled eggs", "oysters", "binoculars", "Residential Buildings",
    "canterbury bells", "huevos rancheros", "swim trunks / shorts", "mashed potatoes", "United States",
])  # fmt: skip
def test_evident_plurals_are_recognised(name: str) -> None:
    assert is_plural(name)


@pytest.mark.parametrize("name", [
    "bus", "glass", "iris", "lens", "canvas", "octopus", "bass", "gas", "s", "cup", "", "F-16s",
    "great pyrenees", "triceratops", "clematis", "hibiscus", "watercress", "dress", "kite (birds)",
])  # fmt: skip
def test_singular_names_in_s_are_no_plurals(name: str) -> None:
    assert not is_plural(name)


@pytest.mark.parametrize(("question", "name", "expected"), [
    ("What does a(n) {} look like?", "sea_horse", "What does a sea horse look like?"),
    ("What does a(n) {} look like?", "scissors", "What do scissors look like?"),
    ("Describe what a(n) {} looks like.", "french_fries", "Describe what french fries look like."),
    ("Describe what a(n) {} looks like.", "Snoopy", "Describe what Snoopy looks like."),
    ("Describe what a(n) {} looks like.", "the moon", "Describe what the moon looks like."),
    ("Describe what a(n) {} looks like.", "Pasture Land", "Describe what Pasture Land looks like."),
    ("Which colours does a(n) {} have?", "Industrial Buildings", "Which colours do Industrial Buildings have?"),
    ("What does a(n) {} look like when served?", "fried_rice", "What does fried rice look like when served?"),
    ("What does a(n) {} look like?", "great pyrenees", "What does a great pyrenees look like?"),
    ("A(n) {} is seen.", "ox", "An ox is seen."),
    ("A(n) {} is seen.", "tacos", "tacos are seen."),
    ("See {}.", "ox", "See ox."),
    ("Describe a(n) {}.", "{0.name} {} %s", "Describe a {0.name} {} %s."),
    ("Describe a(n) {}.", "cup\n\tof\x00tea__", "Describe a cup of tea."),
])  # fmt: skip
def test_a_class_name_is_put_into_the_question(question: str, name: str, expected: str) -> None:
    assert fill(question, name) == expected


@given(st.text(max_size=500))
def test_any_class_name_can_be_asked_about_on_one_line(name: str) -> None:
    for question in questions_for("generic", chat=True).all:
        text = fill(question.text, name)
        assert text.isprintable()
        assert readable(name) in text


def test_a_file_of_questions_takes_the_place_of_the_shipped_ones_and_can_be_printed(tmp_path: Path) -> None:
    shipped = questions_for("caltech101", chat=True, kind="an object")
    file = tmp_path / "mine.yaml"
    file.write_text(as_file(shipped), encoding="utf-8")
    own = questions_for("caltech101", str(file), chat=True, kind="ignored: it is written out")
    for mine, theirs in ((own.asked, shipped.asked), (own.spare, shipped.spare), (own.contrast, shipped.contrast)):
        assert [each.text for each in mine] == [each.text for each in theirs]
    file.write_text("ask: 0\nquestions: ['no place', '{}?']\ncontrast: ['{} alone']\nextra: 1\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        questions_for("caltech101", str(file))
    assert all(part in str(caught.value) for part in (str(file), "ask", "extra"))
    file.write_text("questions: ['no place', '{}?']\ncontrast: ['{} alone']\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"questions\[1\].*contrast\[1\].*\{others\}"):
        questions_for("caltech101", str(file))


def test_the_file_of_questions_in_the_documents_is_one(tmp_path: Path) -> None:
    shown = re.search(r"```yaml\n(ask:.*?)```", (ROOT / "docs" / "prompts.md").read_text(), re.DOTALL)
    assert shown
    (tmp_path / "q.yaml").write_text(shown[1], encoding="utf-8")
    found = questions_for("mine", str(tmp_path / "q.yaml"))
    assert (len(found.asked), len(found.spare), len(found.contrast)) == (2, 1, 1)


QUESTION_PARTS = st.sampled_from(["{}", "a(n) {}", "{kind}", "{others}", "{", "Describe", " ", "?", "\n", "{0}", "é"])
ANYTHING = st.recursive(
    st.none() | st.integers() | st.lists(QUESTION_PARTS, max_size=5).map("".join),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["questions", "ask", "contrast"]), inner)
    ),
    max_leaves=12,
)


@given(ANYTHING)
@settings(max_examples=60)
def test_any_file_of_questions_is_read_or_refused_in_one_line(content: Any) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "q.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            found = questions_for("mine", str(file), kind="a thing")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
        assert found.asked
        for template in found.all:
            assert "cup" in fill(template.text, "cup", ["bowl"])


@given(st.lists(st.text(max_size=40), max_size=4), st.text(max_size=40))
def test_names_of_other_classes_are_data_too(others: list[str], name: str) -> None:
    question = questions_for("generic", chat=True, kind="a thing").contrast[0]
    text = fill(question.text, name, others)
    assert text.isprintable()
    assert all(readable(other) in text for other in [name, *others])


def test_other_classes_are_named_with_their_articles() -> None:
    assert fill("Tell a(n) {} from {others}.", "ox", ["emu", "scissors", "cup"]) == (
        "Tell an ox from an emu, scissors or a cup."
    )


def test_all_faults_of_a_questions_file_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "questions.yaml"
    file.write_text(
        "extra: 1\nno_article: 3\nchat: {}\ncontrast: {generic: ['{}?']}\n"
        "datasets:\n  generic: ['What is {}?']\n  dtd: ['no place', 4]\n  sun397: nowhere\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError) as caught:
        load_table(file)
    for part in (
        str(file),
        "'extra'",
        "no_article",
        "datasets.dtd[1]",
        "datasets.dtd[2]",
        "datasets.sun397",
        "chat: ",
        "{others}",
    ):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", ["", "[]", "datasets: {}", "a: [", "datasets: {generic: []}"])
def test_a_broken_questions_file_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "questions.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_table(file)
    assert "\n" not in str(caught.value)


def test_questions_and_cleaning_need_no_torch() -> None:
    modules = ("questions", "clean", "llms", "engines")
    code = "import sys\n" + "\n".join(f"import pipeline.prompts.{module}" for module in modules)
    code += "\nassert not {'torch', 'vllm', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
