"""`trainer cost` and `trainer gap`: counts that can be checked by hand, distances by definition, no test image."""

import json
from pathlib import Path

import pytest
import torch
from small_stores import make_stores
from small_tasks import WIDTH, small_images, small_task
from test_explain import trained
from torch.nn.functional import normalize
from typer.testing import CliRunner

from stages import UserError
from stages.params import Params, TrainParams
from trainer.analysis.cost import aggregator_parameters, cost_table, costs, flops
from trainer.analysis.figures import plane
from trainer.analysis.gap import adapted, gaps, space_of
from trainer.checkpoint import load_checkpoint
from trainer.cli import analysis
from trainer.data.features import load_features
from trainer.methods import METHODS
from trainer.methods.aape import AAPE, AAPEPredictor
from trainer.text import class_weights

FAST = Params.model_validate({"train": {"epochs": 6, "aggregator_steps": 5}})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores whose test split raises when it is read."""
    make_stores(tmp_path / "cache")
    from trainer.data import features

    whole = features.read_split

    def shut(store: object, split: str, *rest: object, **named: object) -> object:
        assert split != "test", "the test split was opened"
        return whole(store, split, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "read_split", shut)
    return tmp_path / "cache"


def test_flops_are_two_a_multiply_add_of_the_matrix_products() -> None:
    task, classes = small_task(), 6
    batch = small_images(draw=20).embeddings
    zero = METHODS["zero-shot"](TrainParams()).fit(task, seed=1)
    assert flops(zero, batch, task.text) == (2 * classes * WIDTH, 0)
    hidden = 4
    settings = TrainParams.model_validate({"epochs": 3, "hidden": hidden, "lr": 0.1})
    aape = AAPE("aape", settings).fit(task, seed=1)
    # h: D K twice; B h(x): D K; V^T x: D K; x . w: C D; r G: C K K; r . V^T x: C K
    of_image = 4 * WIDTH * hidden + classes * WIDTH + classes * hidden * hidden + classes * hidden
    # the text side, once a call: A w and V^T w: C D K each; V^T V: D K K
    of_call = 2 * classes * WIDTH * hidden + WIDTH * hidden * hidden
    assert flops(aape, batch, task.text) == (2 * of_image, 2 * of_call)


def test_the_published_parameter_count_of_h_and_g_is_met_at_width_512() -> None:
    literal = AAPE.variant("aape-literal", TrainParams())
    images, text = torch.eye(512)[:4], torch.eye(512)[4:8]
    from trainer.data import ClassText, Images, Task

    prompts = ClassText(tuple("abcd"), text, text[:, None], torch.ones(4, 1, dtype=torch.bool))
    shots = Images(images, torch.arange(4))
    fitted = AAPE("aape-literal", literal.settings.model_copy(update={"epochs": 2})).fit(
        Task(prompts, shots, shots.take(torch.arange(0))), seed=1
    )
    assert fitted.info["n_parameters"] == 32_768 + 49_152


def test_every_method_has_its_costs_and_no_test_image_is_read(cache: Path) -> None:
    loaded = load_features(cache, "w", "lite", device="cpu")
    names = ["aape", "aape-no-distill", "zero-shot", "logistic"]
    rows = list(costs(loaded, FAST, method_names=names, shots=4, seed=1))
    found = {row.method: row for row in rows}
    assert list(found) == names
    assert found["zero-shot"].parameters == 0
    assert found["aape"].parameters == found["aape-no-distill"].parameters > 0
    assert found["aape"].training_parameters > 0
    assert found["aape-no-distill"].training_parameters == 0, "without L_distill no aggregator is learned"
    assert all(row.images_per_second > 0 and row.train_seconds > 0 for row in rows)
    assert "FLOPs/image" in cost_table(rows)
    assert aggregator_parameters(METHODS["logistic"](TrainParams()), 16) == 0
    with pytest.raises(UserError, match="did you mean 'aape'"):
        list(costs(loaded, FAST, method_names=["aapes"], shots=4, seed=1))


def test_the_gap_is_the_distance_between_centres_and_no_test_image_is_read(cache: Path, tmp_path: Path) -> None:
    loaded = trained(cache, tmp_path / "c")
    space = space_of(tmp_path / "c", cache=cache, split="train")
    rows = {row.text: row for row in gaps(space)}
    assert list(rows) == ["template", "prompts' mean", "p^a", "h(x)", "w_y(x)"]
    x, y = loaded.train.images.embeddings.float(), loaded.train.images.labels
    template = loaded.text["people"].template[y]
    assert rows["template"].distance == pytest.approx(float((x.mean(0) - template.mean(0)).norm()), abs=1e-4)
    found = load_checkpoint(tmp_path / "c")
    assert isinstance(found.predictor, AAPEPredictor)
    own = found.predictor.logits(x, found.text)[torch.arange(len(y)), y] * found.predictor.tau
    assert rows["w_y(x)"].cosine == pytest.approx(float(own.mean()), abs=1e-4)
    plane(space, list(rows.values()), tmp_path / "a.png")
    plane(space, list(rows.values()), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("head", ["residual", "literal", "full"])
@pytest.mark.parametrize("image", [True, False])
def test_the_adapted_class_embedding_is_the_one_that_the_head_uses(head: str, image: bool) -> None:
    task = small_task()
    settings = TrainParams.model_validate({"epochs": 6, "aggregator_steps": 2, "lr": 0.1, "head": head, "image": image})
    fitted = AAPE("aape", settings).fit(task, seed=1)
    x, y = task.train.embeddings, task.train.labels
    with torch.no_grad():
        weights = class_weights(task.text, fitted.class_text)
        made = adapted(fitted.classifier, fitted.classifier.generate(x), weights, weights, y)
    own = fitted.logits(x, task.text)[torch.arange(len(y)), y] * fitted.tau
    torch.testing.assert_close((x * normalize(made, dim=-1)).sum(-1), own, atol=1e-5, rtol=1e-4)


def test_what_a_checkpoint_cannot_show_is_left_out_and_said(cache: Path, tmp_path: Path) -> None:
    trained(cache, tmp_path / "c", FAST.train.model_copy(update={"image": False}))
    space = space_of(tmp_path / "c", cache=cache, split="val")
    assert list(space.texts) == ["template", "prompts' mean", "w_y(x)"]
    assert any("p^a is left out: no aggregator had a part" in note for note in space.notes)


def test_an_empty_validation_split_is_one_line(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 8, "test": 2})
    trained(tmp_path / "cache", tmp_path / "c")
    with pytest.raises(UserError, match="has no val images: take --split train"):
        space_of(tmp_path / "c", cache=tmp_path / "cache", split="val")


def test_the_commands_print_tables_and_json(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(cache, tmp_path / "c")
    runner = CliRunner()
    ways = {
        ("cost", "--dataset", "w", "--shots", "4", "--methods", "zero-shot,cupl"): "cupl",
        ("gap", "--checkpoint", "c", "--figure", "gap.png"): "w_y(x)",
        ("export", "--checkpoint", "c", "--to", "head"): "head/head.pt2",
    }
    for args, part in ways.items():
        done = runner.invoke(analysis.app, args)
        assert done.exit_code == 0, done.exception
        assert part in done.stdout
        assert json.loads(runner.invoke(analysis.app, [*args, "--json"]).stdout)
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="run `trainer run` first"):
        runner.invoke(analysis.app, ["gap"], catch_exceptions=False)
