"""Asking, cleaning, topping up: with engines that answer what no real language model can be made to answer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.ingest import classes_hash
from pipeline.prompts.clean import name_stems, stem_of
from pipeline.prompts.engines import Answer, Request, Sampling
from pipeline.prompts.generate import generate, questions_of
from pipeline.prompts.llms import ResolvedLLM
from pipeline.prompts.near import NearDuplicates, near_duplicates
from pipeline.prompts.questions import QuestionTemplate, questions_for
from pipeline.prompts.rounds import ClassRequest, batches, first_round, next_round
from pipeline.prompts.score import without_name
from pipeline.prompts.subset import diverse
from pipeline.prompts.summary import PromptSummary, lines, summarise
from stages import ManifestProvenance, ManifestStore, PromptProvenance, PromptStore, UserError
from stages.params import DataParams, PromptParams

LLM = "some/model"
FOUND = ResolvedLLM(name=LLM, model=LLM, fingerprint="0", context=4096)
NAMES = {0: "cup", 1: "red plate", 2: "spoon"}
DATA = DataParams(questions=["What does a(n) {} look like?", "Describe a(n) {}."], samples=4)
WORDS = ["round", "blue", "flat", "deep", "old", "new", "large", "small", "bright", "dark", "plain", "fine"]
Answerer = Callable[[str, int, int], str]


def manifest(cache: Path, names: Mapping[int, str] = NAMES, dataset: str = "d") -> None:
    rows = [
        {"image_id": f"{i}.png", "path": f"{i}.png", "class_id": i, "class_name": name, "split": "train"}
        for i, name in names.items()
    ]
    inputs = {"classes": classes_hash(dict(names))}
    origin = ManifestProvenance(dataset=dataset, content="", inputs=inputs, class_names=dict(names))
    store = ManifestStore(cache, dataset)
    store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)


def varied(question: str, seed: int, sample: int) -> str:
    """Another sentence for every seed and sample; about one in three does not name the subject."""
    rng = np.random.default_rng([seed, sample])
    subject = next((name for name in NAMES.values() if name in question), "thing") if rng.random() < 0.7 else "it"
    return f"The {subject} is {' and '.join(rng.choice(WORDS, 4))}. And more."


class Double:
    """An engine that answers by a function, and counts what it was asked; it may die before a call."""

    name, fingerprint, note, chats, refused = LLM, "0", "", True, ()

    def __init__(self, answer: Answerer = varied, *, dies_before: int | None = None) -> None:
        self.answer, self.dies_before = answer, dies_before
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        if len(self.calls) == self.dies_before:
            raise KeyboardInterrupt
        self.calls.append(list(requests))
        return [
            [Answer(text=self.answer(r.question, r.seed, k), n_tokens=9, finish_reason="stop") for k in range(r.n)]
            for r in requests
        ]

    def close(self) -> None:
        pass


class Letters:
    """A text side that hears nothing but the first of some words."""

    name, fingerprint, width = "letters", "abc", 64

    def encode_sentences(self, texts: Sequence[str]) -> Tensor:
        found = torch.zeros(len(texts), self.width)
        for row, text in enumerate(texts):
            found[row, next((i for i, word in enumerate(WORDS) if word in text), -1)] = 1
        return found

    encode_text = encode_sentences


def ask(
    cache: Path, engine: Double, *, encoder: Any = None, data: DataParams = DATA, again: bool = False, **prompts: Any
) -> PromptSummary:
    return generate(
        "d", FOUND, data=data, prompts=PromptParams(**{"batch": 10, **prompts}), cache=cache, engine=lambda: engine,
        encoder=encoder and (lambda: encoder), again=again,
    )  # fmt: skip


def rows(cache: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = PromptStore(cache, "d", LLM).read().to_pylist()
    return found


def never() -> Any:
    raise AssertionError("the model was loaded and there is nothing to ask")


def test_the_samples_of_a_question_are_one_request_with_a_seed_of_its_own(tmp_path: Path) -> None:
    manifest(tmp_path)
    engine = Double(lambda question, seed, k: f"The cup, red plate and spoon number {seed} {k}.")
    ask(tmp_path, engine)
    requests = [request for call in engine.calls for request in call]
    assert [request.n for request in requests] == [4] * 6
    assert len({request.seed for request in requests}) == 6
    assert requests[0].question == "What does a cup look like?"
    assert [len(call) for call in engine.calls] == [2, 2, 2], "ten answers a batch"
    found = rows(tmp_path)
    assert [row["sample"] for row in found] == [0, 1, 2, 3] * 6
    assert len({row["prompt_id"] for row in found}) == len(found)
    assert found[0]["text"].endswith(f"number {requests[0].seed} 0.")


@pytest.mark.parametrize("encoder", [None, Letters()])
@pytest.mark.parametrize("dies_before", range(7))
def test_killed_asking_resumes_with_the_same_bytes_and_asks_nothing_twice(
    tmp_path: Path, dies_before: int, encoder: Any
) -> None:
    whole, first, rest = Double(), Double(dies_before=dies_before), Double()
    for cache in (tmp_path / "one", tmp_path / "two"):
        manifest(cache)
    ask(tmp_path / "one", whole, encoder=encoder, rounds=3)
    assert len(whole.calls) > 3, "there is more than one round"
    if dies_before < len(whole.calls):
        with pytest.raises(KeyboardInterrupt):
            ask(tmp_path / "two", first, encoder=encoder, rounds=3)
    summary = ask(tmp_path / "two", rest, encoder=encoder, rounds=3)
    assert first.calls + rest.calls == whole.calls
    files = [PromptStore(tmp_path / where, "d", LLM).file.read_bytes() for where in ("one", "two")]
    assert files[0] == files[1]
    assert not summary.skipped
    assert not any((tmp_path / "two" / ".work").rglob("*.parquet"))


def test_a_class_short_of_sentences_is_asked_exactly_for_what_is_missing(tmp_path: Path) -> None:
    manifest(tmp_path)

    def forgets_plates_at_first(question: str, seed: int, sample: int) -> str:
        subject = "thing" if "plate" in question and len(engine.calls) < 4 else "cup, plate or spoon"
        return f"A {subject} with mark {seed} {sample}."

    engine = Double(forgets_plates_at_first)
    summary = ask(tmp_path, engine)
    asked_again = [request for call in engine.calls[3:] for request in call]
    assert [(request.question, request.n) for request in asked_again] == [
        ("What does a red plate look like?", 4),
        ("Describe a red plate.", 4),
    ]
    plates = [row for row in rows(tmp_path) if row["class_id"] == 1]
    assert [row["sample"] for row in plates] == [*range(8)] * 2, "sample numbers go on"
    assert [row["drop_reason"] for row in plates] == (["no_subject"] * 4 + [None] * 4) * 2
    assert (summary.asked, summary.answers, summary.kept, summary.short) == (24, 32, 24, [])


def test_a_class_that_stays_short_is_reported_and_enough_is_not_asked_again(tmp_path: Path) -> None:
    manifest(tmp_path)
    once = "A spoon has a bowl."
    engine = Double(lambda question, seed, k: once if "spoon" in question else f"A cup, a plate {seed} {k}.")
    summary = ask(tmp_path, engine, rounds=3)
    assert summary.short == ["spoon"]
    assert [each.answers for each in summary.classes] == [8, 8, 22]
    assert summary.classes[2].dropped == {"duplicate": 21}
    assert "short of the asked number: 1 of 3 classes: spoon 1 of 8" in "\n".join(lines(summary))
    assert ask(tmp_path, engine, rounds=3).skipped
    assert [each.answers for each in ask(tmp_path, engine, rounds=1).classes] == [8, 8, 8]


def test_what_the_first_round_kept_stays_kept(tmp_path: Path) -> None:
    manifest(tmp_path / "one")
    manifest(tmp_path / "three")
    ask(tmp_path / "one", Double(), encoder=Letters(), rounds=1)
    ask(tmp_path / "three", Double(), encoder=Letters(), rounds=3)
    once = {row["prompt_id"]: row for row in rows(tmp_path / "one")}
    later = {row["prompt_id"]: row for row in rows(tmp_path / "three")}
    assert len(later) > len(once)
    assert all(later[key] == row for key, row in once.items())
    assert {row["drop_reason"] for row in later.values()} >= {None, "no_subject", "near_duplicate"}


def test_an_unchanged_store_is_not_asked_for_again_and_a_new_threshold_is(tmp_path: Path) -> None:
    manifest(tmp_path)
    ask(tmp_path, Double(), encoder=Letters())
    before = PromptStore(tmp_path, "d", LLM).file.read_bytes()
    for threshold, encoder, skipped in ((0.98, Letters(), True), (0.9, Letters(), False), (0.9, None, False)):
        assert ask(tmp_path, Double(), encoder=encoder, near_duplicate=threshold).skipped == skipped
        settings = PromptStore(tmp_path, "d", LLM).provenance().settings["near_duplicate"]
        assert settings == (encoder and {"cosine": threshold, "encoder": "letters", "fingerprint": "abc"})
    ask(tmp_path, Double(), encoder=Letters())
    assert PromptStore(tmp_path, "d", LLM).file.read_bytes() == before


@pytest.mark.parametrize(("answer", "reason"), [
    ("", "empty"),
    ("\x00\x1b[2J\u202e", "too_short"),
    ("\udcff\ud800 cup plate spoon", "too_short"),
    ("<p></p>", "empty"),
    ("'; DROP TABLE prompts; -- a cup, a plate, a spoon", None),
    ("<b>A cup</b>, a <i>plate</i> or a <a href='x'>spoon</a><br>is round", None),
    ("A cup, a plate or a spoon is round.", None),
    ("A cup � plate spoon � is round.", None),
])  # fmt: skip
def test_an_llm_that_answers_the_same_rubbish_every_time_gives_a_sound_store(
    tmp_path: Path, answer: str, reason: str | None
) -> None:
    manifest(tmp_path)
    summary = ask(tmp_path, Double(lambda *_: answer), allow_empty=True)
    store = PromptStore(tmp_path, "d", LLM)
    assert store.verify() == []
    assert rows(tmp_path)[0]["drop_reason"] == reason
    assert {row["drop_reason"] for row in rows(tmp_path)[1:8]} == {reason or "duplicate"}
    assert summary.kept == (0 if reason else 3)
    assert summary.short == list(NAMES.values())
    assert summary.empty == (list(NAMES.values()) if reason else [])
    assert all(row["text"].isprintable() for row in rows(tmp_path))


def test_an_engine_that_loses_answers_is_refused_and_earlier_batches_stay(tmp_path: Path) -> None:
    class Forgetful(Double):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
            found = super().generate(requests, sampling)
            return [each[:-1] for each in found] if len(self.calls) == 2 else found

    manifest(tmp_path)
    with pytest.raises(UserError, match="gave 3 answers where 4 were asked for"):
        ask(tmp_path, Forgetful(), rounds=1)
    assert not PromptStore(tmp_path, "d", LLM).exists()
    engine = Double()
    ask(tmp_path, engine, rounds=1)
    assert len(engine.calls) == 2


def test_a_data_set_without_classes_is_pointed_to_its_captions(tmp_path: Path, command: Command) -> None:
    manifest(tmp_path / "cache", {})
    with pytest.raises(UserError, match="import-prompts --dataset d --captions"):
        generate("d", FOUND, data=DATA, prompts=PromptParams(), cache=tmp_path / "cache", engine=never)
    done = command("pipeline", "generate-prompts", "--dataset", "d", "--json", cwd=tmp_path)
    assert done.stderr.strip() == (
        "d: no classes to ask about; its captions come in with `pipeline import-prompts --dataset d --captions`"
    )
    assert done.stdout.strip() == "[]"


def test_a_model_that_says_nothing_is_told_and_asked_again_and_leaves_no_trace(tmp_path: Path) -> None:
    manifest(tmp_path / "one")
    manifest(tmp_path / "two")
    ask(tmp_path / "one", Double())
    silent = Double(lambda *_: "<think>\nThe user asks ...")
    for _ in range(2):
        with pytest.raises(UserError, match=r"d: all 24 answers of some/model are empty \(finish_reason: stop 24\)"):
            ask(tmp_path / "two", silent)
    assert len(silent.calls) == 6, "it stops within the first round, and asks again the next time"
    assert not PromptStore(tmp_path / "two", "d", LLM).exists()
    ask(tmp_path / "two", Double())
    files = [PromptStore(tmp_path / where, "d", LLM).file.read_bytes() for where in ("one", "two")]
    assert files[0] == files[1]


def test_what_cut_the_answers_off_is_named_with_its_mend(tmp_path: Path) -> None:
    class Thinker(Double):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
            return [[Answer(text="", n_tokens=50, finish_reason="length")] * r.n for r in requests]

    manifest(tmp_path)
    with pytest.raises(
        UserError, match=r"length 24\); the model thought until its 50 tokens .* --set prompts\.max_tokens=N"
    ):
        ask(tmp_path, Thinker())


def test_a_class_without_a_sentence_makes_no_store_and_is_asked_alone_the_next_time(tmp_path: Path) -> None:
    manifest(tmp_path)
    engine = Double(lambda question, seed, k: "" if "spoon" in question else f"A cup, a plate {seed} {k}.")
    summary = ask(tmp_path, engine)
    assert "no sentence of some/model was kept for 1 of 3 classes: 'spoon' (16 answers: empty 16; fin" in summary.fault
    assert "prompts.allow_empty=true" in summary.fault
    assert summary.empty == ["spoon"]
    store = PromptStore(tmp_path, "d", LLM)
    assert not store.exists()
    asked = len(engine.calls)
    assert ask(tmp_path, engine).fault
    again = [request for call in engine.calls[asked:] for request in call]
    assert {request.question for request in again} == {"What does a spoon look like?", "Describe a spoon."}
    assert sum(request.n for request in again) == 8, "one round a command"
    mended = Double(lambda question, seed, k: f"A spoon {seed} {k}.")
    summary = ask(tmp_path, mended)
    assert (summary.fault, summary.empty, summary.short) == ("", [], [])
    assert [each.answers for each in summary.classes] == [8, 8, 32]
    assert store.verify() == []
    assert ask(tmp_path, mended).skipped


def test_an_empty_class_can_be_accepted_without_asking_and_asked_about_later(tmp_path: Path) -> None:
    manifest(tmp_path)
    ask(tmp_path, Double(lambda question, seed, k: "" if "spoon" in question else f"A cup, a plate {seed} {k}."))
    summary = generate(
        "d", FOUND, data=DATA, prompts=PromptParams(batch=10, allow_empty=True), cache=tmp_path, engine=never
    )
    assert (summary.fault, summary.empty) == ("", ["spoon"])
    store = PromptStore(tmp_path, "d", LLM)
    before = store.file.read_bytes()
    assert ask(tmp_path, Double(), allow_empty=True).skipped
    assert "the store stays as it is" in ask(tmp_path, Double(lambda *_: "It.")).fault
    assert store.file.read_bytes() == before
    mended = Double(lambda question, seed, k: f"A spoon {seed} {k}.")
    assert ask(tmp_path, mended).empty == []
    assert {request.question for call in mended.calls for request in call} == {
        "What does a spoon look like?", "Describe a spoon.",
    }  # fmt: skip
    assert store.verify() == []


def test_asking_again_adds_what_a_finished_store_is_short_of(tmp_path: Path) -> None:
    manifest(tmp_path)
    repeats = Double(
        lambda question, seed, k: f"A cup, a plate and a spoon {seed % 2 if 'spoon' in question else seed}."
    )
    first = ask(tmp_path, repeats, rounds=1)
    kept = {row["prompt_id"]: row for row in rows(tmp_path)}
    engine = Double(lambda question, seed, k: f"A cup, a plate and a spoon number {seed} {k}.")
    summary = ask(tmp_path, engine, rounds=1, again=True)
    assert sum(request.n for call in engine.calls for request in call) == 24 - first.kept
    assert (summary.kept, summary.short) == (24, [])
    assert {row["prompt_id"]: row for row in rows(tmp_path)}.items() >= kept.items()
    assert ask(tmp_path, engine, rounds=1, again=True).skipped


def test_settings_that_a_server_refused_stand_in_the_provenance_after_a_kill_too(tmp_path: Path) -> None:
    manifest(tmp_path)
    first, rest = Double(dies_before=1), Double()
    first.refused = ("seed",)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, first, rounds=1)
    ask(tmp_path, rest, rounds=1)
    assert PromptStore(tmp_path, "d", LLM).provenance().refused == ["seed"]
    assert ask(tmp_path, Double(), rounds=1).skipped


def test_a_question_that_mostly_fails_and_refusals_are_named(tmp_path: Path) -> None:
    manifest(tmp_path)

    def declines(question: str, seed: int, k: int) -> str:
        if question.startswith("Describe") and k:
            return "As an AI, I cannot access the internet."
        return f"A cup, a plate and a spoon number {seed} {k}."

    summary = ask(tmp_path, Double(declines), rounds=1)
    assert [(each.answers, each.kept, each.dropped) for each in summary.questions] == [
        (12, 12, {}), (12, 3, {"refusal": 9}),
    ]  # fmt: skip
    text = list(lines(summary))
    assert "  mostly dropped: 9 of 12 answers to own-2 'Describe a(n) {}.' (refusal 9)" in text
    assert "  declined by the model: 9 answers: own-2 9" in text


def pets(tmp_path: Path, engine: Double, **prompts: Any) -> PromptSummary:
    """The shipped questions for a chat model, of a known data set: two are asked, the next ones are spare."""
    return generate(
        "oxford_pets", FOUND, data=DataParams(samples=4), prompts=PromptParams(**{"batch": 10, "rounds": 1, **prompts}),
        cache=tmp_path, engine=lambda: engine,
    )  # fmt: skip


def test_a_question_that_mostly_fails_makes_room_for_the_next_one_and_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(tmp_path, dataset="oxford_pets")
    spare = [each.text for each in questions_for("oxford_pets", chat=True, kind="a type of pet").spare]

    def declines(question: str, seed: int, k: int) -> str:
        if question.startswith(("Describe what", "Write a one-sentence")):
            return "I'm sorry, but I can't assist with that."
        return f"A cup, a plate and a spoon number {seed} {k}."

    summary = pets(tmp_path, Double(declines))
    told = capsys.readouterr().err
    assert (
        "12 of 12 answers to oxford_pets-chat-2 'Describe what a(n) {} (a type of pet) looks like in a photogr" in told
    )
    assert "were dropped (refusal 12): oxford_pets-chat-3 'Write a" in told, "which fails as well"
    assert f"(refusal 12): oxford_pets-chat-4 {spare[1]!r} takes its place" in told
    counted = {each.question_id: (each.answers, each.kept) for each in summary.questions}
    assert counted == {f"oxford_pets-chat-{n}": (12, 12 * (n in (1, 4))) for n in (1, 2, 3, 4)}
    assert (summary.short, summary.fault) == ([], "")
    engine = Double(declines)
    assert pets(tmp_path, engine).skipped
    assert not engine.calls


def test_replacing_a_question_goes_on_after_a_kill_with_the_same_bytes(tmp_path: Path) -> None:
    def declines(question: str, seed: int, k: int) -> str:
        return "I cannot." if question.startswith("Describe what") else varied(question, seed, k)

    for where in ("one", "two"):
        manifest(tmp_path / where, dataset="oxford_pets")
    whole = Double(declines)
    pets(tmp_path / "one", whole, rounds=3)
    for dies_before in range(1, len(whole.calls), 3):
        with pytest.raises(KeyboardInterrupt):
            pets(tmp_path / "two", Double(declines, dies_before=min(dies_before, 3)), rounds=3)
    pets(tmp_path / "two", Double(declines), rounds=3)
    files = [PromptStore(tmp_path / where, "oxford_pets", LLM).file.read_bytes() for where in ("one", "two")]
    assert files[0] == files[1]


def test_a_model_that_only_continues_texts_is_asked_in_their_phrasing_or_told(tmp_path: Path) -> None:
    manifest(tmp_path, dataset="oxford_pets")
    base = replace(FOUND, chats=False)
    asked = questions_of("oxford_pets", base, DataParams(), PromptParams())
    assert asked.asked == questions_for("oxford_pets").asked
    assert questions_of("oxford_pets", replace(FOUND, prefers_plain=True), DataParams(), PromptParams()) == asked
    assert questions_of("oxford_pets", FOUND, DataParams(), PromptParams(phrasing="completion")) == asked
    served = Double()
    served.chats = False  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"no chat template: .* --set prompts\.phrasing=completion"):
        pets(tmp_path, served)
    assert pets(tmp_path, served, phrasing="completion").answers


def test_the_questions_are_printed_as_a_file_without_asking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.cli import app

    manifest(tmp_path / "cache", dataset="oxford_pets")
    for name, template in (("base", {}), ("chat", {"chat_template": "x"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"max_position_embeddings": 512}', encoding="utf-8")
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(template), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    printed = {}
    for name in ("base", "chat"):
        arguments = ["generate-prompts", "--dataset", "oxford_pets", "--llm", str(tmp_path / name), "--show-questions"]
        app(arguments, standalone_mode=False)
        printed[name] = yaml.safe_load(capsys.readouterr().out)
    assert printed["base"]["questions"] == [each.text for each in questions_for("oxford_pets").asked]
    assert printed["chat"]["ask"] == 2
    assert "a(n) {} (a type of pet)" in printed["chat"]["questions"][0]
    assert all("{others}" in question for question in printed["chat"]["contrast"])


@pytest.mark.parametrize(("dataset", "kind", "said"), [
    ("oxford-pets", None, " (a type of pet)."), ("oxford-pets", "a dog or a cat", " (a dog or a cat)."),
    ("mine", None, " (a physical thing)."), ("mine", "", "a(n) {}. "),
])  # fmt: skip
def test_a_question_says_what_the_classes_are(dataset: str, kind: str | None, said: str) -> None:
    asked = questions_of(dataset, FOUND, DataParams(kind=kind), PromptParams()).asked
    assert said in asked[0].text


class Meanings:
    """Reads the words of `VOCABULARY`, and nothing else; cups and bowls are alike."""

    name, fingerprint = "meanings", "1"
    VOCABULARY = ("cup", "plate", "spoon", "handle", "flat", "deep", "round")
    ALIKE: ClassVar = {"handle": 0, "flat": 1, "deep": 2}

    def encode_sentences(self, texts: Sequence[str]) -> Tensor:
        found = torch.full((len(texts), len(self.VOCABULARY)), 1e-3)
        for row, text in enumerate(texts):
            for i, word in enumerate(self.VOCABULARY):
                if word in text:
                    found[row, i] += 1
                    found[row, self.ALIKE.get(word, i)] += 1
        found[:, 1] += found[:, 0] / 2  # a cup is nearer to a plate than to a spoon
        return torch.nn.functional.normalize(found, dim=1)

    encode_text = encode_sentences


def describes(question: str, seed: int, k: int) -> str:
    """Cups and plates are described, spoons only named; no sentence twice."""
    subject = "cup" if question.startswith(("What does a cup", "Describe a cup", "Tell a cup")) else None
    subject = subject or ("plate" if "a red plate look" in question or "Describe a red plate" in question else "spoon")
    says = {"cup": "has a handle", "plate": "is flat", "spoon": "is nice"}[subject]
    return f"A {subject} {says}, number {seed} {k}."


def test_a_second_round_asks_what_tells_a_class_from_its_nearest_ones(tmp_path: Path) -> None:
    manifest(tmp_path)

    def answer(question: str, seed: int, k: int) -> str:
        subject = min((question.index(name), name) for name in NAMES.values() if name in question)[1]
        return f"A {subject} is {seed} and {k}."

    engine = Double(answer)
    file = tmp_path / "questions.yaml"
    file.write_text("questions: ['Describe a(n) {}.']\ncontrast: ['Tell a(n) {} from {others}.']\n", encoding="utf-8")
    data = DataParams(questions=str(file), samples=4)
    summary = ask(tmp_path, engine, encoder=Meanings(), data=data, near_duplicate=None, contrast=1)
    asked = [request.question for call in engine.calls for request in call]
    assert asked[3:] == [
        "Tell a cup from a red plate.",
        "Tell a red plate from a cup.",
        "Tell a spoon from a red plate.",
    ]
    assert summary.asked == summary.kept == 24
    found = PromptStore(tmp_path, "d", LLM).provenance()
    assert isinstance(found, PromptProvenance)
    assert found.nearest == {0: ["red plate"], 1: ["cup"], 2: ["red plate"]}
    assert found.questions == {"own-1": "Describe a(n) {}.", "own-contrast-1": "Tell a(n) {} from {others}."}
    again = {"encoder": Meanings(), "data": data, "near_duplicate": None}
    assert ask(tmp_path, engine, contrast=1, **again).skipped
    assert not ask(tmp_path, engine, contrast=2, **again).skipped, "another number of classes is another store"
    with pytest.raises(UserError, match=r"contrast, keep and ask_again_worst need an encoder"):
        ask(tmp_path, engine, data=data, contrast=1)


def test_sentences_are_scored_without_images_and_the_worst_classes_named(tmp_path: Path) -> None:
    manifest(tmp_path)
    summary = ask(tmp_path, Double(describes), encoder=Meanings(), near_duplicate=None)
    assert summary.found is not None
    assert (summary.found.sentences, summary.found.top1, summary.found.rank) == (24, 1.0, 1.0)
    by_name = {each.class_name: each.found for each in summary.classes}
    assert [each and each.unnamed_top1 for each in by_name.values()] == [1.0, 1.0, 0.0]
    text = "\n".join(lines(summary))
    assert "by text alone: 100% (mean rank 1.0); with its name taken out: 67%" in text
    assert "least found without the name: spoon 0% (rank 3); --ask-again-worst 1 asks" in text
    skipped = ask(tmp_path, Double(), encoder=Meanings(), near_duplicate=None)
    assert (skipped.skipped, skipped.found) == (True, None)
    assert ask(tmp_path, Double(), near_duplicate=None).found is None, "without an encoder there is no score"


@pytest.mark.parametrize("dies_before", [None, 0, 1, 3, 4])
@pytest.mark.parametrize("first", [True, False])
def test_the_worst_classes_are_asked_once_more_whether_at_once_or_later_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dies_before: int | None, first: bool
) -> None:
    def later_better(question: str, seed: int, k: int) -> str:
        text = describes(question, seed, k)
        return text.replace("is nice", "is deep" if (seed + k) % 3 else "is nice")

    for where in ("one", "two"):
        manifest(tmp_path / where)
    settings: dict[str, Any] = {"encoder": Meanings(), "near_duplicate": None, "rounds": 1}
    ask(tmp_path / "one", Double(later_better), ask_again_worst=1, **settings)
    if first:
        ask(tmp_path / "two", Double(later_better), **settings)
    engine = Double(later_better, dies_before=dies_before)
    if dies_before is not None and dies_before < (1 if first else 4):
        with pytest.raises(KeyboardInterrupt):
            ask(tmp_path / "two", engine, ask_again_worst=1, **settings)
        engine = Double(later_better)
    summary = ask(tmp_path / "two", engine, ask_again_worst=1, **settings)
    files = [PromptStore(tmp_path / where, "d", LLM).file.read_bytes() for where in ("one", "two")]
    assert files[0] == files[1]
    spoon = summary.classes[2]
    assert (spoon.answers, spoon.kept, spoon.dropped) == (16, 8, {"surplus": 8})
    assert spoon.found is not None
    assert spoon.found.unnamed_top1 == 0.875, "more of those that describe it are kept: 5 of 8 before"
    assert "sentences that find their class without its name: spoon" in capsys.readouterr().err
    never_asked = Double(dies_before=0)
    assert ask(tmp_path / "two", never_asked, ask_again_worst=1, **settings).skipped


def test_a_class_keeps_some_of_many_sentences_and_the_others_stay_in_the_store(tmp_path: Path) -> None:
    manifest(tmp_path)
    summary = ask(tmp_path, Double(describes), encoder=Meanings(), near_duplicate=None, keep=3)
    assert [each.kept for each in summary.classes] == [3, 3, 3]
    assert (summary.dropped, summary.short) == ({"surplus": 15}, [])
    assert not any(each.mostly_fails for each in summary.questions), "a sound sentence is no failure of its question"
    assert len(rows(tmp_path)) == 24
    engine = Double(describes)
    settings: dict[str, Any] = {"encoder": Meanings(), "near_duplicate": None, "keep": 3}
    assert ask(tmp_path, engine, again=True, **settings).skipped
    assert ask(tmp_path, Double(describes), **{**settings, "keep": 4}).kept == 12


def naive_determinants(vectors: np.ndarray, quality: np.ndarray, keep: int) -> list[int]:
    scaled = (vectors * quality[:, None]).astype(np.float64)
    chosen: list[int] = []
    while len(chosen) < keep:
        rest = [i for i in range(len(vectors)) if i not in chosen]
        volumes = [np.linalg.det(scaled[[*chosen, i]] @ scaled[[*chosen, i]].T) for i in rest]
        chosen.append(rest[int(np.argmax(volumes))])
    return chosen


@given(st.integers(1, 9), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_the_fast_choice_of_a_diverse_subset_is_that_of_the_determinants(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = rng.uniform(0.2, 1, n)
    keep = int(rng.integers(1, n + 1))
    assert diverse(vectors, quality, keep) == naive_determinants(vectors, quality, keep)


@given(st.integers(1, 8), st.integers(1, 12))
def test_equal_sentences_still_give_as_many_as_asked(n: int, keep: int) -> None:
    chosen = diverse(np.ones((n, 1), np.float32), np.linspace(1, 0.5, n), keep)
    assert sorted(chosen) == list(range(min(n, keep)))


@given(st.text(max_size=100), st.text(max_size=30))
def test_a_name_taken_out_is_gone_and_the_rest_is_there(text: str, name: str) -> None:
    left = without_name(text, name)
    assert not (name_stems(name) - {"thing"}) & {stem_of(word) for word in re.findall(r"[^\W_]+", left)}


def test_a_name_is_taken_out_whatever_its_ending() -> None:
    assert without_name("Sea horses and a Cup; seahorse.", "sea_horse") == "thing thing and a Cup; seahorse."


def naive(vectors: np.ndarray, kept: np.ndarray, cosine: float) -> list[bool]:
    stays, found = list(kept), []
    for vector in vectors:
        found.append(any(float(vector @ other) > cosine for other in stays))
        stays += [] if found[-1] else [vector]
    return found


@given(st.integers(0, 12), st.integers(0, 5), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_near_duplicates_agree_with_the_naive_rule(n: int, k: int, cosine: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n + k, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert near_duplicates(vectors[k:], vectors[:k], cosine).tolist() == naive(vectors[k:], vectors[:k], cosine)


def test_near_duplicates_are_looked_for_within_a_class_and_against_earlier_rounds() -> None:
    class Numbers:
        name, fingerprint = "numbers", "0"

        def encode_text(self, texts: Sequence[str]) -> Tensor:
            raise AssertionError("a finer reader of sentences goes first")

        def encode_sentences(self, texts: Sequence[str]) -> Tensor:
            return torch.stack([torch.tensor([np.cos(float(t)), np.sin(float(t))]) for t in texts])

    def new(*items: tuple[int, float, str | None]) -> list[dict[str, Any]]:
        return [{"class_id": c, "text": str(angle), "drop_reason": reason} for c, angle, reason in items]

    near = NearDuplicates(Numbers(), 0.98)  # type: ignore[arg-type]
    first = new((0, 0.0, None), (0, 0.15, None), (0, 0.3, None), (0, 0.31, "empty"), (1, 0.0, None))
    near.mark(first)
    assert [row["drop_reason"] for row in first] == [None, "near_duplicate", None, "empty", None]
    second = new((1, 0.3, None), (0, 0.31, None), (2, 0.0, None))
    near.mark(second)
    assert [row["drop_reason"] for row in second] == [None, "near_duplicate", None]
    near.mark([])


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_batches_keep_the_order_and_hold_no_more_than_asked(counts: list[int], most: int) -> None:
    template = QuestionTemplate(question_id="q", text="{}?")
    requests = [ClassRequest(class_id=i, class_name="c", template=template, first=0, n=n) for i, n in enumerate(counts)]
    found = list(batches(requests, most))
    assert [each for batch in found for each in batch] == requests
    assert all(sum(each.n for each in batch) <= most or len(batch) == 1 for batch in found)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), max_size=40), st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_a_further_round_asks_for_the_deficit_and_no_sample_twice(
    answers: list[tuple[int, int, bool]], wanted: int
) -> None:
    questions = [QuestionTemplate(question_id=f"q{i}", text="{}?") for i in range(2)]
    given_rows = [
        {"class_id": c, "question_id": f"q{q}", "drop_reason": None if kept else "empty"} for c, q, kept in answers
    ]
    found = next_round(given_rows, NAMES, questions, wanted)
    for class_id in NAMES:
        kept = sum(c == class_id and keep for c, _, keep in answers)
        assert sum(each.n for each in found if each.class_id == class_id) == max(0, wanted - kept)
    for each in found:
        assert each.first == sum(c == each.class_id and f"q{q}" == each.template.question_id for c, q, _ in answers)
    seeds = [each.as_request(1).seed for each in [*first_round(NAMES, questions, 3), *found] if each.first or each.n]
    assert len(set(seeds)) >= len({(each.class_id, each.template.question_id, each.first) for each in found})


def test_the_summary_shows_the_classes_with_the_fewest_and_no_control_characters() -> None:
    names = {i: f"class {i}" for i in range(12)} | {3: "evil\x1b[31m\nclass" + "x" * 500}
    given_rows = [
        {"class_id": i, "image_id": None, "kept": k >= (i == 3), "drop_reason": None if k >= (i == 3) else "empty"}
        for i in names
        for k in range(3)
    ]
    summary = summarise("d", LLM, given_rows, names, wanted=3, note="a note", ignored=["x\x07y"] * 12)
    text = list(lines(summary))
    assert text[0] == "d: 35 of 36 prompts kept (some/model)"
    assert "all 12 classes" in text[3 + 10]
    assert text[3].startswith("evil [31m class")
    assert len(text) == 3 + 11 + 3
    assert all(line.isprintable() for line in text)
    assert "and 2 more" in text[-2]
    assert text[-1] == "  note: a note"
