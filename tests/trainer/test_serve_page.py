"""`trainer serve` in headless Chromium: what a person does with the page, and what strangers' text cannot do."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from small_served import AUDIT, HOSTILE, Served, decided, make_folder, served, text_answers, write_csv
from test_explain import Colours

from trainer.serve.answers import Answers
from trainer.serve.lists import DataSet, read_dataset

expect.set_options(timeout=60_000)  # a busy machine is no failure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    make_folder(made)
    return made


@pytest.fixture(scope="module")
def answers(folder: Path) -> Answers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.encoders.load_encoder", lambda name, device: Colours())
        return text_answers(folder)


@contextmanager
def window(browser: Browser, found: Served, **context: object) -> Iterator[Page]:
    """A window on the page; at its end nothing was complained of and nobody else was asked."""
    said: list[str] = []
    with browser.new_context(**context) as made:  # type: ignore[arg-type]
        page = made.new_page()
        page.on("console", lambda message: said.append(message.text))  # but for what the server refuses
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.extend([request.url] * (f":{found.port}/" not in request.url)))
        page.goto(found.url)
        yield page
        assert [line for line in said if not line.startswith(("blob:", "data:,", "Failed to load resource"))] == []
        assert page.evaluate("typeof hacked") == "undefined"


def at(page: Page, line: str) -> None:
    expect(page.locator("#place")).to_have_text(line)


def test_a_list_is_decided_by_keyboard_alone(chromium: Browser, folder: Path, answers: Answers, tmp_path: Path) -> None:
    out = tmp_path / "d.csv"
    with served(folder, answers, out) as found, window(chromium, found) as page:
        keys = page.keyboard
        at(page, "Image 1 of 4")
        expect(page.locator("#findings")).to_contain_text(f"Wrong label: more like {HOSTILE[1]} (90 %)")
        expect(page.locator("#primary")).to_be_focused()
        expect(page.locator(".choice .share-of")).to_have_count(4)
        keys.press("2")
        at(page, "Image 2 of 4")
        expect(page.locator("#said")).to_contain_text("Image 2 of 4. Its class is")
        keys.press("o")
        at(page, "Image 3 of 4")
        keys.press("Enter")
        at(page, "Image 4 of 4")
        keys.press("ArrowLeft")
        at(page, "Image 3 of 4")
        keys.press("u")
        expect(page.locator("#stands")).to_be_hidden()
        keys.press("x")
        at(page, "Image 4 of 4")
        keys.press("ArrowDown")
        keys.press("ArrowDown")
        expect(page.locator(".choice").nth(1)).to_be_focused()
        keys.press("Enter")
        expect(page.locator("#finished")).to_contain_text(
            "All 4 are decided. Take them over with: pipeline ingest w --labels"
        )
        keys.press("Enter")  # a rhythm that goes on decides nothing twice
        expect(page.locator(".choice").nth(1)).to_have_attribute("aria-pressed", "true")
        keys.press("/")
        keys.type("weberei")
        expect(page.locator("#options [role=option]")).to_have_count(1)
        keys.press("Escape")
        expect(page.locator("#main")).to_be_focused()
        expect(page.locator("#decided")).to_have_text("4 decided")
    assert decided(out) == [
        ("train/0/0", "label", HOSTILE[1]), ("train/1/1", "confirm", ""), ("train/1/2", "exclude", ""),
        ("train/2/0", "exclude", ""), ("train/3/0", "label", HOSTILE[1]),
    ]  # fmt: skip


def test_a_dropped_image_gets_its_classes_and_sentences(
    chromium: Browser, folder: Path, answers: Answers, tmp_path: Path
) -> None:
    with served(folder, answers, tmp_path / "d.csv", None) as found, window(chromium, found) as page:
        drop = """data => {
            const given = new DataTransfer();
            given.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], "<b>new</b>.png"));
            dispatchEvent(new DragEvent("drop", { dataTransfer: given, cancelable: true }));
        }"""
        expect(page.locator("#drop")).to_be_visible()
        page.evaluate(drop, base64.b64encode((folder / "pool" / "1.png").read_bytes()).decode())
        expect(page.locator("#tried-answer .said-of")).to_have_count(4)
        expect(page.locator("#tried-answer .said-of").first.locator("li")).to_have_count(3)
        expect(page.locator("#tried-picture")).to_have_js_property("naturalWidth", 48)
        expect(page.locator("#tried-name")).to_have_text("<b>new</b>.png")
        page.set_input_files("#file", files=[{"name": "x.png", "mimeType": "image/png", "buffer": b"junk"}])
        expect(page.locator("#try-line")).to_contain_text("not an image that can be read")
        expect(page.locator("#tried")).to_be_hidden()


@pytest.fixture
def thousand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set with a thousand classes."""
    names = (*HOSTILE.values(), *(f"class number {number}" for number in range(996)))

    def read(cache: Path, name: str) -> DataSet:
        return replace(read_dataset(cache, name), classes=names)

    monkeypatch.setattr("trainer.serve.server.read_dataset", read)


@pytest.mark.usefixtures("thousand")
def test_one_of_a_thousand_classes_is_typed_on_a_dark_phone(
    chromium: Browser, folder: Path, answers: Answers, tmp_path: Path
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
    out = tmp_path / "d.csv"
    with served(folder, answers, out, "suggest.csv") as found, window(chromium, found, **phone) as page:
        expect(page.locator("#primary")).to_contain_text("Take: ")
        expect(page.locator(".choice")).to_have_count(4)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(20, 23, 27)"
        page.keyboard.press("c")  # no class has a key of its own
        expect(page.get_by_role("combobox")).to_be_focused()
        page.keyboard.type("lass 99")
        expect(page.locator("#options [aria-selected=true]")).to_have_text("class number 99")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        at(page, "Image 2 of 8")
        page.get_by_role("combobox").fill("number 500")
        page.locator("#options li").first.tap()
        at(page, "Image 3 of 8")
        expect(page.locator("#decided")).to_have_text("2 decided")
        page.locator("#all summary").tap()
        expect(page.locator(".row")).to_have_count(8)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [label for *_, label in decided(out)] == ["class number 990", "class number 500"]


def test_two_windows_see_each_other_and_the_second_is_told(
    chromium: Browser, folder: Path, answers: Answers, tmp_path: Path
) -> None:
    out = tmp_path / "d.csv"
    with served(folder, answers, out) as found, window(chromium, found) as first, window(chromium, found) as second:
        at(first, "Image 1 of 4")
        at(second, "Image 1 of 4")
        first.keyboard.press("x")
        expect(second.locator("#stands")).to_have_text("Decided: left out")
        second.route("**/api/changes*", lambda route: route.abort())  # it does not look any more
        first.keyboard.press("x")
        expect(first.locator("#decided")).to_have_text("2 decided")
        second.keyboard.press("ArrowRight")
        second.keyboard.press("3")
        expect(second.locator("#notice")).to_contain_text(
            "Not saved: another window decided train/1/1 meanwhile (left out)"
        )
        at(second, "Image 3 of 4")
        second.locator("#notice-show").click()
        at(second, "Image 2 of 4")
        assert [action for _, action, _ in decided(out)] == ["exclude", "exclude"]


def test_decisions_wait_while_the_server_is_silent_and_none_is_lost(
    chromium: Browser, folder: Path, answers: Answers, tmp_path: Path
) -> None:
    write_csv(folder / "many.csv", AUDIT, [{"image_id": f"train/{k % 4}/{k // 4}", "kind": "dark"} for k in range(24)])
    out = tmp_path / "d.csv"
    with served(folder, answers, out, "many.csv") as found, chromium.new_context() as made:
        page = made.new_page()
        page.goto(found.url)
        at(page, "Image 1 of 24")
        page.route("**/api/decisions", lambda route: route.abort())
        for _ in range(20):
            page.keyboard.press("x")
        at(page, "Image 21 of 24")
        expect(page.locator("#trouble")).to_contain_text("20 decisions are not saved yet: the server does not answer")
        assert not out.exists()
        page.unroute("**/api/decisions")
        page.locator("#again").click()
        expect(page.locator("#trouble")).to_be_hidden()
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Enter")
        at(page, "Image 22 of 24")
        expect(page.locator("#decided")).to_have_text("21 decided")
        for _ in range(3):
            page.keyboard.press("u")
        expect(page.locator("#decided")).to_have_text("18 decided")
        assert len(decided(out)) == 18
        page.reload()
        at(page, "Image 19 of 24")
        page.keyboard.press("u")  # a new window: the last one in the file
        expect(page.locator("#decided")).to_have_text("17 decided")
        page.evaluate("location.hash = 'another'")
        page.evaluate("sessionStorage.clear()")
        page.keyboard.press("x")
        expect(page.locator("#trouble")).to_contain_text("1 decision is not saved yet: not this session")
