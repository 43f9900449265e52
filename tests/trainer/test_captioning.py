"""Captioning and VQA from stores to tables, with a language model of a few thousand weights."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_captions import WIDTH, make_caption_stores, some_pairs
from small_language import small_language_model

from stages.errors import UserError
from stages.language import LanguageParams
from stages.params import Params
from trainer.data.pairs import Pairs
from trainer.language.model import find_language_model
from trainer.language.prefix import Prefix, fit_prefix, start
from trainer.language.questions import draw_examples, read_questions
from trainer.language.serve import choose_speaker, speaker
from trainer.runs.inputs import load_inputs
from trainer.runs.record import RunRecord
from trainer.runs.run import run

COLOURS = ("red", "blue", "green", "grey")


def asked(number: int, *answers: str, choices: tuple[str, ...] = ()) -> dict[str, object]:
    return {
        "question_id": f"q{number}", "question": "What colour is it?", "answers": list(answers),
        "choices": list(choices),
    }  # fmt: skip


QUESTIONS = {
    **{f"train/{i:02d}.jpg": [asked(i, *[COLOURS[i % 4]] * 10)] for i in range(4)},
    "test/00.jpg": [asked(20, *["red"] * 6, *["blue"] * 4, choices=("red", "blue", "a green one"))],
    "test/01.jpg": [asked(21, *["2"] * 10), asked(22)],
    "test/02.jpg": [asked(23, "yes")],
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_language_model(tmp_path_factory.mktemp("llm") / "small")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_caption_stores(folder, questions=QUESTIONS)
    return folder


def settings(llm: Path, **evaluation: object) -> Params:
    """A run of a second or two."""
    language = {"llm": str(llm), "epochs": 1, "prefix_tokens": 2, "caption_tokens": 8, "answer_tokens": 4}
    captions = {"hidden": 16, "batch": 8, "epochs": 2, "lr_grid": [0.003]}
    train = {"captions": captions, "aggregator_steps": 2, "language": language}
    wanted = {"protocols": ["captioning", "vqa"], "seeds": [1], "shots": 2, **evaluation}
    return Params.model_validate({"train": train, "evaluation": wanted})


def ran(params: Params, cache: Path, results: Path) -> RunRecord:
    return run(params, load_inputs(params, "photos", cache=cache, device="cpu"), results=results, jobs=1)


def rows_in(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


@pytest.fixture(scope="module")
def finished(llm: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    results = tmp_path_factory.mktemp("results")
    return ran(settings(llm), cache, results), results / "runs" / "photos"


def test_one_run_gives_the_rows_of_captioning_and_of_vqa(finished: tuple[RunRecord, Path]) -> None:
    record, folder = finished
    rows = {(fit.protocol, fit.method): fit.metrics for fit in record.fits}
    rows_of = {name: [method for protocol, method in rows if protocol == name] for name in ("captioning", "vqa")}
    assert rows_of["captioning"] == ["prefix", "prefix-aape", "prefix-twice"]
    assert rows_of["vqa"] == [*rows_of["captioning"], "no-image"]
    for (protocol, _), metrics in rows.items():
        named = {"cider_d", "bleu_4", "rouge_l"} if protocol == "captioning" else {"vqa_accuracy", "choice_accuracy"}
        assert named <= metrics.keys()
        assert all(value is not None for value in metrics.values())
    assert len(rows_in(folder / "captions.csv")) == 1 + 3 * 10
    assert len(rows_in(folder / "answers.csv")) == 1 + 4 * 3, "the question that nobody answered is left out"
    assert "1 test questions have no answer and are not judged" in " ".join(record.notes)
    assert "fewer than 4 answers" in " ".join(record.notes)


def test_aape_and_its_control_have_the_same_number_of_parameters(finished: tuple[RunRecord, Path]) -> None:
    count = {fit.method: fit.info["n_parameters"] for fit in finished[0].fits if fit.protocol == "captioning"}
    assert count["prefix-aape"] == count["prefix-twice"] > count["prefix"]


def test_the_same_seed_gives_the_same_bytes_whatever_people_said_of_the_test_images(
    finished: tuple[RunRecord, Path], llm: Path, tmp_path: Path
) -> None:
    make_caption_stores(tmp_path / "cache", questions=QUESTIONS, change={"test/00.jpg": ["something else", "b", "c"]})
    ran(settings(llm), tmp_path / "cache", tmp_path / "results")
    again = tmp_path / "results" / "runs" / "photos"
    kept = [file.relative_to(again) for file in again.rglob("checkpoint.safetensors")]
    assert len(kept) == 7
    for name in (*kept, Path("answers.csv"), Path("curves.csv")):
        assert (again / name).read_bytes() == (finished[1] / name).read_bytes(), name
    said = [rows_in(folder / "captions.csv") for folder in (again, finished[1])]
    assert [a == b for a, b in zip(*said, strict=True)].count(False) == 3, "another reference for each of three methods"


def test_an_interrupted_run_goes_on_where_it_was_and_both_protocols_share_their_fits(
    finished: tuple[RunRecord, Path], llm: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(*args: Any, **named: Any) -> Prefix:
        if len(made) == 2:
            raise UserError("the power is gone")
        made.append(named["second"])
        return fit_prefix(*args, **named)

    monkeypatch.setattr("trainer.language.methods.fit_prefix", counted)
    with pytest.raises(UserError, match="the power is gone"):
        ran(settings(llm), cache, tmp_path)
    made[:] = ["begun again"]
    ran(settings(llm), cache, tmp_path)
    assert made == ["begun again", "image"], "two of three were kept, and vqa learns nothing of its own"
    for name in ("run.json", "captions.csv", "answers.csv"):
        assert (tmp_path / "runs" / "photos" / name).read_bytes() == (finished[1] / name).read_bytes(), name


def test_a_checkpoint_of_another_language_model_is_refused(finished: tuple[RunRecord, Path], tmp_path: Path) -> None:
    results = finished[1].parents[1]
    folder, why = choose_speaker(results, None, None)
    assert "nats a token" in why
    other = small_language_model(tmp_path / "other", seed=2)
    with pytest.raises(UserError, match=r"fitted for the language model .*, and .*other is .*: take the same one"):
        speaker(folder, llm=str(other), device="cpu", files=())


def test_a_method_that_no_run_kept_is_named_with_those_that_there_are(finished: tuple[RunRecord, Path]) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of 'prefix-ape'.*did you mean 'prefix-aape'"):
        choose_speaker(finished[1].parents[1], "photos", "prefix-ape")
    with pytest.raises(UserError, match=r"no checkpoint that speaks: run `trainer run .*--protocol captioning`"):
        choose_speaker(finished[1], None, None)


def coloured(count: int, seed: int) -> Pairs:
    """Images of four kinds, each with the word of its kind as its caption."""
    pairs = some_pairs([2] * count, seed=seed)
    kinds = torch.arange(count) % 4
    images = torch.eye(4, WIDTH)[kinds] * 0.98 + 0.02 * pairs.images.all()
    texts = tuple(COLOURS[k] for k in kinds.tolist() for _ in range(2))
    made = type(pairs.images)(torch.nn.functional.normalize(images, dim=-1))  # type: ignore[call-arg]
    return replace(pairs, images=made, texts=texts)


def test_a_learned_map_makes_captions_likelier_and_tells_images_apart(llm: Path) -> None:
    asked = LanguageParams(llm=str(llm), epochs=30, prefix_tokens=2, precision="float32", lr=0.3)
    found = find_language_model(str(llm), precision="float32")
    fitted = fit_prefix(coloured(24, 1), coloured(8, 2), asked, found, second="none", aape=None, seed=1)
    losses = [entry["val_loss"] for entry in fitted.history if "val_loss" in entry]
    assert losses[-1] < 0.65 * losses[0]
    prefixes = fitted.prefix(coloured(8, 3).images.all())
    same, other = (prefixes[0] - prefixes[4]).norm(), (prefixes[0] - prefixes[1]).norm()
    assert float(same) < 0.5 * float(other)
    with pytest.raises(UserError, match="the images are 3 wide and the prefix was fitted on 16"):
        fitted.prefix(torch.ones(1, 3))


def test_examples_are_drawn_by_seed_and_question(cache: Path, llm: Path) -> None:
    params = settings(llm)
    features = load_inputs(params, "photos", cache=cache, device="cpu").captions
    assert features is not None
    train, test = read_questions(features, "train"), read_questions(features, "test")
    assert (len(train), len(test), test.unanswered) == (4, 3, 1)
    one, other = test.asked[0], test.asked[1]
    assert draw_examples(train, one, 4, seed=1) == draw_examples(train, one, 4, seed=1)
    drawn = {tuple(draw_examples(train, each, 4, seed=seed)) for each in (one, other) for seed in range(4)}
    assert len(drawn) > 2
    assert torch.equal(test.x[1], features.test().images.all()[1].float())


@pytest.mark.parametrize(
    ("change", "evaluation", "line"),
    [
        ({}, {"shots": 5, "protocols": ["vqa"]}, "5 examples in context .* 4 training questions .* lower --shots to 4"),
        ({"caption_tokens": 400}, {}, r"a caption of language.caption_tokens=400: \d+ tokens, and .* takes 256"),
        ({"llm": "no-such"}, {}, "unknown LLM 'no-such'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    change: dict[str, object], evaluation: dict[str, object], line: str, llm: Path, cache: Path, tmp_path: Path
) -> None:
    params = settings(llm, **evaluation)
    language = params.train.language.model_copy(update=change)
    params = params.model_copy(update={"train": params.train.model_copy(update={"language": language})})
    with pytest.raises(UserError, match=line):
        ran(params, cache, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_where_retrieval_is_cross_validated_captions_are_judged_on_the_test_split_alone(
    llm: Path, cache: Path, tmp_path: Path
) -> None:
    wanted = {"protocols": ["captioning", "retrieval"], "methods": ["prefix", "zero-shot"], "folds": {"photos": 2}}
    record = ran(settings(llm, **wanted), cache, tmp_path)
    judged = {row[3] for row in rows_in(tmp_path / "runs" / "photos" / "captions.csv")[1:]}
    assert len(judged) == 10
    assert all(image_id.startswith("test/") for image_id in judged)
    assert "10 images are judged: far too few" in " ".join(record.notes)


def test_zero_shots_are_for_vqa_alone(llm: Path, cache: Path, tmp_path: Path) -> None:
    record = ran(settings(llm, shots=0, protocols=["vqa"], methods=["no-image"]), cache, tmp_path)
    assert record.protocols["vqa"].title == "vqa, 0 examples in context"
    with pytest.raises(UserError, match="--shots 0: few-shot learns from at least 1 image a class"):
        ran(settings(llm, shots=0, protocols=["few-shot", "vqa"]), cache, tmp_path)


def test_without_a_test_question_nothing_is_said_of_how_much_they_tell(llm: Path, tmp_path: Path) -> None:
    asked_of_training = {name: found for name, found in QUESTIONS.items() if name.startswith("train/")}
    make_caption_stores(tmp_path, questions=asked_of_training)
    record = ran(settings(llm, shots=0, protocols=["vqa"], methods=["no-image"]), tmp_path, tmp_path / "results")
    notes = " ".join(record.notes)
    assert "not measured without test images: vqa_accuracy" in notes
    assert "questions are judged" not in notes


def test_odd_captions_are_counted_and_the_run_goes_on(llm: Path, tmp_path: Path) -> None:
    odd = {"train/00.jpg": ["..."], "train/01.jpg": ["Кот спит на столе"], "test/00.jpg": ["one alone"]}
    make_caption_stores(tmp_path / "cache", change=odd, questions=QUESTIONS)
    record = ran(settings(llm, protocols=["captioning"], methods=["prefix"]), tmp_path / "cache", tmp_path / "results")
    notes = " ".join(record.notes)
    assert "photos: 1 captions hold no word; they are learned as empty ones" in notes
    assert "1 of 10 judged images have one caption only" in notes
    assert "no Latin letter" in notes


def test_a_set_without_training_captions_is_captioned_by_what_was_learned_elsewhere(
    llm: Path, cache: Path, tmp_path: Path
) -> None:
    make_caption_stores(tmp_path, dataset="photos", per_split={"test": 4}, questions=QUESTIONS)
    make_caption_stores(tmp_path, dataset="others")
    record = ran(settings(llm, protocols=["captioning"], learnt_on=["others"]), tmp_path, tmp_path / "results")
    assert [fit.method for fit in record.fits] == ["prefix@others", "prefix-aape@others", "prefix-twice@others"]
    assert "no training captions: everything was learned elsewhere" in " ".join(record.notes)


def test_a_set_of_questions_alone_is_answered_by_what_was_learned_elsewhere(llm: Path, tmp_path: Path) -> None:
    make_caption_stores(tmp_path, dataset="photos", captions=0, questions=QUESTIONS)
    make_caption_stores(tmp_path, dataset="others")
    record = ran(settings(llm, learnt_on=["others"], shots=1), tmp_path, tmp_path / "results")
    methods = [fit.method for fit in record.fits if fit.protocol == "vqa"]
    assert methods == ["prefix@others", "prefix-aape@others", "prefix-twice@others", "no-image"]
    with pytest.raises(UserError, match="photos: no captions, which captioning would need"):
        ran(settings(llm, protocols=["captioning"]), tmp_path, tmp_path / "results")
    with pytest.raises(UserError, match="others: no questions, which vqa would need"):
        load_inputs(settings(llm, protocols=["vqa"]), "others", cache=tmp_path)


def test_h_of_elsewhere_is_a_row_of_its_own(llm: Path, cache: Path, tmp_path: Path) -> None:
    make_caption_stores(tmp_path, questions=QUESTIONS)
    make_caption_stores(tmp_path, dataset="others")
    asked = settings(llm, protocols=["captioning"], methods=["prefix-aape"], learnt_on=["others"])
    record = ran(asked, tmp_path, tmp_path / "results")
    assert [fit.method for fit in record.fits] == ["prefix-aape", "prefix-aape@others", "prefix-aape-tuned@others"]
    kept = json.loads((tmp_path / "results/runs/photos/checkpoints/captioning/prefix-aape/checkpoint.json").read_text())
    assert kept["provenance"]["protocol"] == "captioning"


def test_the_map_starts_at_words_or_at_random(llm: Path) -> None:
    from trainer.language.model import load_language_model
    from trainer.language.prefix import START_WORDS, PrefixMap, caption_tokens

    language = load_language_model(find_language_model(str(llm), precision="float32"), torch.device("cpu"))
    examples = caption_tokens(language, coloured(12, 1), LanguageParams(prefix_tokens=3))
    made = [
        PrefixMap(
            width=WIDTH, entries=language.width, tokens=3, second=True, spread=language.spread,
            rng=torch.Generator().manual_seed(1),
        )
        for _ in range(2)
    ]  # fmt: skip
    for each, ridge in zip(made, (True, False), strict=True):
        start(each, language, examples, "image", None, ridge=ridge)
    words = language.embed(torch.tensor(language.tokens(START_WORDS)[-3:])).flatten()
    assert torch.allclose(made[0].bias, words)
    assert not torch.allclose(made[1].bias, words)
