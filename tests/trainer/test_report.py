"""What `trainer report` writes for people: few numbers for `dvc metrics show`, the classes confused most."""

import json
from pathlib import Path

import pytest

from stages.params import EvaluationParams
from stages.training import TrainParams
from trainer.report import MOST_CLASSES, _draw, _scale, confusion_of
from trainer.report.headline import headline, write_headline
from trainer.report.page import charts
from trainer.report.tables import MOST_PAIRS, markdown_pairs, text_tables
from trainer.runs.record import FitRecord, Prediction, ProtocolRecord, RunRecord, summarize


def record(dataset: str, methods: list[str], *, new: bool = True) -> RunRecord:
    """Few-shot with 1 and 4 shots and, if asked, base-to-new; accuracies 1/3 with 1 shot, 2/3 with more."""
    about = {
        "few-shot-1": ProtocolRecord(name="few-shot", shots=1, title="", headline=("accuracy",)),
        "few-shot-4": ProtocolRecord(name="few-shot", shots=4, title="", headline=("accuracy",)),
        "base-to-new": ProtocolRecord(name="base-to-new", shots=4, title="", headline=("base", "new", "h")),
    }
    fits = [
        FitRecord(protocol=key, method=method, source="none", seed=seed, info={},
                  metrics={metric: (1 if each.shots == 1 else 2) / 3 for metric in each.headline if metric != "h"}
                  | ({"h": None if method == "logistic" else 0.5} if "h" in each.headline else {}))
        for key, each in about.items() if new or each.name == "few-shot"
        for method in methods for seed in (1, 2)
    ]  # fmt: skip
    return RunRecord(
        dataset=dataset, encoder="lite", notes=(), sources=("llm",), classes=4, protocols=about,
        evaluation=EvaluationParams(), train=TrainParams(), fits=tuple(fits), test_images=48,
    )  # fmt: skip


def judged(actual: str, predicted: str) -> Prediction:
    return Prediction("image", actual, predicted, 0.9, "other", 0.1)


def test_the_headline_is_a_line_a_method_with_accuracy_and_h_in_percent() -> None:
    found = headline({"w": record("w", ["aape", "logistic"]), "v": record("v", ["aape"], new=False)})
    assert found == {
        "aape": {"w": {"accuracy": 66.7, "h": 50.0}, "v": {"accuracy": 66.7}},
        "logistic": {"w": {"accuracy": 66.7}},
    }


def test_headline_files_of_methods_that_are_gone_are_removed(tmp_path: Path) -> None:
    write_headline({"w": record("w", ["aape", "cupl@people"])}, tmp_path)
    write_headline({"w": record("w", ["cupl@people"])}, tmp_path)
    assert [file.name for file in (tmp_path / "headline").iterdir()] == ["cupl@people.json"]
    assert json.loads((tmp_path / "headline" / "cupl@people.json").read_text())["w"]["h"] == 50.0


def test_tables_of_one_seed_announce_no_interval() -> None:
    several = record("w", ["aape"])
    one = several.model_copy(update={"fits": tuple(fit for fit in several.fits if fit.seed == 1)})
    assert "encoder lite (percent, mean ± 95 % interval)" in text_tables(several)
    assert "1 seed, encoder lite (percent)" in text_tables(one)
    assert "±" not in text_tables(one)
    said = [_scale(map(summarize, each)) for each in ([several], [one], [one, several])]
    assert said[0] == "Percent, mean ± 95 % interval over the seeds."
    assert said[1] == "Percent, of one seed: no intervals over seeds."
    assert said[2].endswith(" (none where there is one seed).")


def test_the_classes_confused_most_are_listed_with_counts_and_names_as_they_are() -> None:
    lines = [judged("a|b", "*c*")] * 3 + [judged("*c*", "a|b"), judged("*c*", "*c*")]
    rows = [row.split(" | ") for row in markdown_pairs(lines).splitlines() if " of " in row]
    assert [[cell.strip("| ") for cell in row] for row in rows] == [
        [r"a\|b", r"\*c\*", "3 of 3"], [r"\*c\*", r"a\|b", "1 of 2"],
    ]  # fmt: skip
    assert markdown_pairs([judged("x", "x")]) == ""
    assert markdown_pairs([judged(str(n), "other") for n in range(100)]).count("1 of 1") == MOST_PAIRS


def test_a_picture_of_the_confusion_is_drawn_of_as_many_classes_as_it_can_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [judged("a", "a"), judged("a", "b"), judged("a", "b"), judged("b", "a")]
    assert confusion_of(lines, ["a", "b"]).tolist() == [[1, 2], [1, 0]]
    many = [judged(str(n), str(n // 2)) for n in range(MOST_CLASSES + 1)]
    for name, found in (("few", lines), ("many", many)):
        _draw(record(name, ["aape"]), [], found, tmp_path)
    assert [file.name for file in (tmp_path / "figures").glob("confusion-*")] == ["confusion-few.png"]
    assert "many: no picture of the confusion of 1001 classes" in capsys.readouterr().err


def test_every_form_of_aape_plus_has_its_colour_and_its_control_another() -> None:
    forms = {charts.colour(name) for name in ("aape-plus", "aape-plus@llm", "aape-plus-views", "aape-plus-unlabelled")}
    assert forms == {charts.PLUS}
    others = {name: charts.colour(name) for name in ("aape", "aape-plus-no-text", "aape-no-distill", "logistic")}
    assert len({*forms, *others.values()}) == 4
    assert others["aape-plus-no-text"] == others["aape-no-distill"]
