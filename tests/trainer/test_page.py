"""`results/report.html` in headless Chromium: what a reader does with it, and what strangers' text cannot do."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from stages import ManifestStore
from stages.params import EvaluationParams
from stages.stores.artifacts import PromptStore, TextStore
from stages.stores.provenance import PromptProvenance
from stages.sums import write_sums
from stages.training import TrainParams
from tests.trainer.small_stores import fast, make_stores
from trainer.report import report
from trainer.report.page import json_for_script, spoken, write_page
from trainer.report.page.charts import ELEMENTS, heatmap, short
from trainer.report.page.dataset import DataSet
from trainer.report.page.readable import readable
from trainer.report.page.sections.confusion import by_similarity, counts
from trainer.report.page.sections.prompts import within, worths
from trainer.report.page.sections.provenance import run_command
from trainer.runs.inputs import load_inputs
from trainer.runs.record import (
    CLASSES,
    PREDICTIONS,
    ClassCount,
    FitRecord,
    Prediction,
    ProtocolRecord,
    RunRecord,
    csv_text,
    finished_runs,
    save_record,
    write_lines,
)
from trainer.runs.run import run

expect.set_options(timeout=60_000)  # a busy machine is no failure
ROOT = Path(__file__).parents[2]
HOSTILE = {
    0: "<script>hacked=1</script>",
    1: "</script><script>hacked=1</script>",
    2: '"><img src=x onerror=hacked=1>',
    3: "{{7*7}} & 'plain' \u202eweave",
}
SENTENCE = "A weave that says </script><script>hacked=1</script> and <img src=x onerror=hacked=1>."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache/ and results/ of one run: hostile names, pictures, sentences kept and dropped."""
    folder = tmp_path_factory.mktemp("page")
    cache, results = folder / "cache", folder / "results"
    make_stores(cache, noise=1.6, names=HOSTILE, sources=("llm",))
    store = ManifestStore(cache, "w")
    rows = store.read()
    for number, image_id in enumerate(rows["image_id"].to_pylist()):
        file = folder / "images" / image_id
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((40, 60, 3), number, dtype=np.uint8)
        Image.fromarray(grey).save(file, format="PNG")
    store.write(rows, store.provenance().model_copy(update={"root": str(folder / "images")}))
    embedded = TextStore(cache, "w", "lite", "llm").read(["prompt_id", "class_id"]).to_pylist()
    prompts = PromptStore(cache, "w", "llm")
    written = [
        {"prompt_id": row["prompt_id"], "class_id": row["class_id"], "question_id": "q", "sample": n, "text": SENTENCE,
         "kept": True}
        for n, row in enumerate(embedded)
    ]  # fmt: skip
    dropped = {"prompt_id": "x", "class_id": 3, "question_id": "r", "sample": 0, "text": "No.", "kept": False,
               "drop_reason": "too short"}  # fmt: skip
    table = pa.Table.from_pylist([*written, dropped], schema=prompts.schema())
    prompts.write(table, PromptProvenance(dataset="w", content="", llm="llm", questions={"q": "What?"}))
    params = fast(methods=["aape-plus", "zero-shot", "cupl", "logistic"], shots=[1, 4], seeds=[1, 2])
    run(params, load_inputs(params, "w", cache=cache, device="cpu"), results=results, jobs=1)
    report(results, cache)
    return folder


class Watched:
    """A page with what it said and asked for."""

    def __init__(self, browser: Browser, file: Path, **context: object) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_context(**context).new_page()  # type: ignore[arg-type]
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url[:80]))
        self.page.goto(file.as_uri())


@pytest.fixture
def opened(chromium: Browser, made: Path) -> Iterator[Watched]:
    watched = Watched(chromium, made / "results" / "report.html", viewport={"width": 1280, "height": 900})
    yield watched
    watched.page.context.close()


def column(table: Locator, at: int) -> list[str]:
    return table.locator("tbody tr:visible").evaluate_all(  # type: ignore[no-any-return]
        "(rows, at) => rows.map((row) => row.cells[at].textContent.trim())", at
    )


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(opened: Watched, made: Path) -> None:
    page = opened.page
    page.wait_for_load_state("load")
    file = made / "results" / "report.html"
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [file.as_uri()[:80]]
    titles = page.locator("h2").all_text_contents()
    for title in ("Verdict", "Methods", "Accuracy by shots", "Confusion", "Classes", "Worst errors", "The data",
                  "Sentences", "Provenance"):  # fmt: skip
        assert title in titles
    assert "http" not in file.read_text().replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_names_and_sentences_of_strangers_are_text(opened: Watched) -> None:
    page = opened.page
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("script").count() == 2, "the page's own, and the sentences as JSON"
    assert page.locator("img[onerror], [src=x]").count() == 0
    named = page.locator(".classes tbody th").all_text_contents()
    assert sorted(named) == sorted([*list(HOSTILE.values())[:3], r"{{7*7}} & 'plain' \u202eweave"])
    assert page.locator(".sentence .text").first.text_content() == SENTENCE
    marks = page.locator(".confusion svg text").all_text_contents()
    assert any(text.startswith("<script>") for text in marks)
    assert opened.said == []


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(opened: Watched) -> None:
    page = opened.page
    table = page.locator("#d1-methods table").first
    head = table.locator("thead th").nth(1)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    means = [float(text.split(" ")[0]) for text in column(table, 1)]
    assert means == sorted(means, reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(table, 1)[0].startswith(f"{min(means):.1f}")
    table.locator("thead th").nth(0).get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(table, 0) == sorted(column(table, 0))


def test_a_wrong_image_opens_by_keyboard_and_shows_what_spoke_for_both_classes(opened: Watched) -> None:
    page = opened.page
    card = page.locator(".card").first
    assert card.locator("img").get_attribute("src").startswith("data:image/jpeg;base64,")  # type: ignore[union-attr]
    expect(card.locator("img")).to_have_js_property("naturalWidth", 60)
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    assert card.get_attribute("open") is not None
    assert card.get_by_text("What the classifier computed").is_visible()
    said = card.locator("table").nth(1).locator("tbody th").all_text_contents()
    assert {text.rsplit(" ", 1)[1] for text in said} == {"(answer)", "(label)"}


def test_sentences_are_found_by_word_class_and_state(opened: Watched) -> None:
    page = opened.page
    browser = page.locator(".browser")
    assert browser.get_by_role("status").text_content() == "21 of 21 sentences"
    browser.get_by_label("State").select_option("dropped")
    assert browser.get_by_role("status").text_content() == "1 of 21 sentences"
    assert "dropped: too short" in (browser.locator(".sentence").text_content() or "")
    browser.get_by_label("State").select_option("")
    browser.get_by_label("Class").select_option("1")
    browser.get_by_label("Search").fill("WEAVE says")
    assert browser.get_by_role("status").text_content() == "5 of 21 sentences"
    browser.get_by_label("Order").select_option("best")
    worth = browser.locator(".worth b:nth-of-type(2)").all_text_contents()
    margins = [float(text.replace("−", "-")) for text in worth]
    assert len(margins) == 5
    assert margins == sorted(margins, reverse=True)


def test_everything_is_reached_from_the_keyboard_and_named_for_a_screen_reader(opened: Watched) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("svg:not([role=img][aria-label])").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    unnamed = "all => all.filter((one) => !one.labels.length).length"
    assert page.locator("input, select").evaluate_all(unnamed) == 0
    page.wait_for_function(STOPS)
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_no_width_scrolls_sideways(opened: Watched) -> None:
    page = opened.page
    for width in (360, 390, 540, 545, 768, 959, 961, 1000, 1100, 1185, 1200, 1216, 1220, 1280, 1440, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_wide_and_narrow_without_scrolling_sideways(
    chromium: Browser, made: Path, tmp_path: Path, scheme: str
) -> None:
    file = made / "results" / "report.html"
    for width in (1280, 360):
        watched = Watched(chromium, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.said == []
        picture = tmp_path / f"{scheme}-{width}.png"
        page.screenshot(path=picture)
        with Image.open(picture) as shown:
            assert (sum(shown.convert("RGB").getpixel((2, 700))) > 600) == (scheme == "light")  # type: ignore[arg-type]
        contrasts = page.evaluate(CONTRASTS, INKS)
        assert min(contrasts.values()) >= 4.5, contrasts
        page.context.close()


INKS = ["--ink", "--soft", "--link", *(f"--{name}-ink" for name in ("ours", "plus", "control", "reference"))]
STOPS = """() => [...document.querySelectorAll(".scroll")].filter((one) => one.checkVisibility())
  .every((one) => (one.scrollWidth > one.clientWidth + 1) === (one.tabIndex === 0))"""
"""What scrolls sideways is a stop of the keyboard, and nothing else is."""
CONTRASTS = """(INKS) => {
  const light = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const style = getComputedStyle(document.documentElement), found = {};
  for (const ground of ["--paper", "--raised"]) for (const ink of INKS) {
    const both = [ground, ink].map((name) => light(style.getPropertyValue(name))).sort((a, b) => b - a);
    found[`${ink} on ${ground}`] = (both[0] + 0.05) / (both[1] + 0.05);
  }
  return found;
}"""
"""Text colours on both grounds; 4.5 is AA."""


def test_the_same_results_give_the_same_bytes(made: Path) -> None:
    file = made / "results" / "report.html"
    before = file.read_bytes()
    write_page(finished_runs(made / "results"), made / "results", made / "cache")
    assert file.read_bytes() == before


def test_what_needs_a_store_that_is_gone_is_left_out_and_said(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    file = write_page(finished_runs(tmp_path / "results"), tmp_path / "results", tmp_path / "nowhere")
    text = file.read_text()
    assert "Left out of this page" in text
    assert "No pictures: " in text
    assert "No explanations: " in text
    assert "<b>The data, Sentences</b>: " in text
    assert "Confusion matrix of 4 classes" in text
    assert "data:image/jpeg" not in text


def test_a_damaged_file_costs_its_section_alone(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    (tmp_path / "results" / "runs" / "w" / "reliability.csv").write_text("method,bin\na,1\n")
    sweep = tmp_path / "results" / "sweeps" / "broken"
    sweep.mkdir(parents=True)
    (sweep / "table.csv").write_text("strange\n")
    text = write_page(finished_runs(tmp_path / "results"), tmp_path / "results", made / "cache").read_text()
    assert "<b>Confidence</b>: " in text
    assert "broken is left out: " in text


def test_captions_answers_and_what_was_found_are_shown_beside_their_pictures(
    chromium: Browser, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    run_folder = tmp_path / "results" / "runs" / "w"
    head = ("protocol", "method", "seed")
    sheets = {
        "retrieval.csv": [
            ("direction", "image_id", "caption", "rank", "found"),
            ("i2t", "test/0/0", "its own", "7", "another's"),
            ("t2i", "test/0/1", "a query", "9", "test/2/0"),
        ],
        "captions.csv": [("image_id", "caption", "reference"), ("test/0/2", "<b>written</b>\0", "by a \x1bperson")],
        "answers.csv": [
            ("image_id", "question", "answer", "usual_answer", "accuracy"),
            ("test/0/3", "What is it?", "a weave", "cloth", "0.0"),
        ],
    }
    for name, (columns, *rows) in sheets.items():
        lines = [(*head, *columns), *(("p", method, "1", *row) for method in ("zero", "aape") for row in rows)]
        (run_folder / name).write_text(csv_text(lines[0], lines[1:]))
    write_sums(run_folder)
    file = write_page(finished_runs(tmp_path / "results"), tmp_path / "results", made / "cache")
    watched = Watched(chromium, file)
    page = watched.page
    found = page.locator("#d1-retrieval .card")
    assert found.count() == 2, "of one method alone"
    found.nth(1).locator("summary").click()
    expect(found.nth(1).locator("figure img")).to_have_js_property("naturalWidth", 60)
    assert "Found first: test/2/0" in (found.nth(1).text_content() or "")
    assert "<b>written</b>" in (page.locator("#d1-captions").text_content() or "")
    assert r"</b>\x00" in (page.locator("#d1-captions").text_content() or ""), "one odd character costs no section"
    assert "answer: a weave" in (page.locator("#d1-answers").text_content() or "")
    assert "By aape" in (page.locator("#d1-answers .lead").text_content() or "")
    assert watched.said == []
    page.context.close()


def big_run(results: Path, classes: int, *, images: int = 2) -> RunRecord:
    """A run of many classes as its files; half of the images are wrong."""
    names = [f"class {number}" for number in range(classes)]
    about = ProtocolRecord(name="few-shot", shots=4, title="few-shot, 4 shots", headline=("accuracy",))
    fits = [
        FitRecord(protocol="few-shot", method="zero-shot", source="none", seed=seed, info={}, metrics={"accuracy": 0.5})
        for seed in (1, 2)
    ]
    record = RunRecord(
        dataset="big", encoder="lite", notes=(), sources=(), classes=classes, protocols={"few-shot": about},
        evaluation=EvaluationParams(), train=TrainParams(), fits=tuple(fits), test_images=images * classes,
    )  # fmt: skip
    run_folder = results / "runs" / "big"
    save_record(record, run_folder)
    kept = run_folder / "checkpoints" / "zero-shot"
    lines = [
        Prediction(f"{name}/{i}", name, names[(at + i) % classes], 0.9, name, 0.1)
        for at, name in enumerate(names)
        for i in range(images)
    ]
    write_lines(kept / PREDICTIONS, Prediction, lines)
    write_lines(kept / CLASSES, ClassCount, [ClassCount(name, images, 1, 1 / images) for name in names])
    return record


def test_a_thousand_classes_stay_readable_and_small(chromium: Browser, made: Path, tmp_path: Path) -> None:
    record = big_run(tmp_path, 1000)
    source = made / "results" / "runs" / "w" / "checkpoints" / "zero-shot"
    for file in source.glob("checkpoint.*"):
        shutil.copy(file, tmp_path / "runs" / "big" / "checkpoints" / "zero-shot")
    file = write_page({"big": record}, tmp_path, tmp_path / "cache")
    assert file.stat().st_size < 1_500_000
    watched = Watched(chromium, file)
    page = watched.page
    assert "The matrix is left out: with 1000 classes" in (page.locator("#d1-confusion").text_content() or "")
    rows = page.locator("#d1-classes tbody tr:visible")
    assert rows.count() == 20
    page.locator("#d1-classes [data-filter]").fill("class 777")
    assert rows.count() == 2, "itself, and the one that is taken for it"
    page.locator("#d1-classes [data-filter]").fill("")
    page.get_by_role("button", name="Show all 1000").click()
    assert rows.count() == 1000
    assert watched.said == []
    page.context.close()


def test_the_command_of_the_page_makes_the_same_results_again(made: Path, typed: Command, tmp_path: Path) -> None:
    of = DataSet(finished_runs(made / "results")["w"], made / "results", made / "cache")
    program, *words = shlex.split(run_command(of))
    assert str(made / "results") in words
    again = [str(tmp_path) if word == str(made / "results") else word for word in words]
    typed(program, *again, "--no-report", "--jobs", "1", cwd=tmp_path)
    before, after = (folder / "runs" / "w" / "run.json" for folder in (made / "results", tmp_path))
    assert after.read_bytes() == before.read_bytes()


def test_what_cannot_be_seen_is_written_out_and_what_shapes_letters_stays() -> None:
    assert readable("\u202eweave\x00\ud800") == "\\u202eweave\\x00\\ud800"
    kept = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469 a\xa0b"
    assert readable(kept) == kept


def test_a_line_of_ours_is_escaped_and_its_commands_are_set_as_code() -> None:
    assert spoken("run `a <b>` & `c`") == "run <code>a &lt;b&gt;</code> &amp; <code>c</code>"
    assert spoken("the class `<b>") == "the class `&lt;b&gt;"


def test_classes_that_are_confused_stand_side_by_side() -> None:
    pairs = [(0, 3)] * 4 + [(3, 0)] * 4 + [(1, 4)] * 3 + [(i, i) for i in range(6) for _ in range(5)]
    order = by_similarity(counts(pairs, 6), None)
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(1) - order.index(4)) == 1


def test_the_worth_of_a_sentence_is_its_cosine_to_its_class_and_the_margin_to_the_next() -> None:
    centres = np.eye(3, dtype=np.float32)[:, :3]
    sentences = np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8]], dtype=np.float32)
    assert worths(sentences, np.array([0, 1]), centres) == [(0.8, 0.2, 1), (0.6, -0.2, 2)]


def test_of_too_many_sentences_every_class_keeps_its_first_ones() -> None:
    rows = [[label, 0, "x" * 10, "", None, None, None] for label in (0, 1) for _ in range(10)]
    shown, left = within(rows, 80)
    assert ([row[0] for row in shown], left) == ([0] * 4 + [1] * 4, 12)
    assert within(rows, 200) == (rows, 0)


@given(st.lists(st.text(max_size=8), min_size=3, max_size=3))
def test_json_for_a_script_cannot_end_it_and_keeps_every_text(texts: list[str]) -> None:
    text = str(json_for_script({"rows": [*texts, "</script>&\u2028\ud800"]}))
    assert not set(text) & set("<>&\u2028\ud800")
    assert json.loads(text)["rows"][:3] == [readable(each) for each in texts]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=2, max_size=4))
def test_any_names_make_a_chart_that_holds_nothing_but_shapes_and_text(names: list[str]) -> None:
    drawn = heatmap(names, [(i, i, 1, 1) for i in range(len(names))], about="".join(names), numbers=True)
    root = ElementTree.fromstring(drawn)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= ELEMENTS
    assert root.get("aria-label") == readable("".join(names))


def test_names_in_a_chart_are_shortened_between_characters_never_changed_and_told_apart() -> None:
    odd, faces = 'url(#x) id="y" 1.23456', "\U0001f600" * 60
    root = ElementTree.fromstring(heatmap([odd, faces, faces], [(1, 0, 1, 1)], about="", numbers=True))
    texts = [element.text for element in root.iter() if element.text]
    assert odd in texts
    assert texts.count(shown := short(faces, 30)) == 2, "on both axes"
    assert len(shown) == 30
    assert len([text for text in texts if text.endswith("(2)")]) == 2
    tips = [element.get("data-tip") for element in root.iter() if element.get("data-tip")]
    assert set(tips) == {f"{faces} taken for {odd}: 1 of 1"}
