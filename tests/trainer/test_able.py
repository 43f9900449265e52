"""A data set that lacks text or prompts: what reads images alone runs, what lacks something is left out and said so."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from small_stores import fast, make_stores

from stages import UserError
from stages.training import TrainParams
from trainer.checkpoint import load_checkpoint
from trainer.data.features import load_features
from trainer.export import head_of
from trainer.methods import GROUPS, METHODS, methods
from trainer.protocols import settled
from trainer.runs.inputs import Inputs
from trainer.runs.planned import measurable, planned
from trainer.runs.run import run

IMAGES_ALONE = [name for name in GROUPS["all"] if methods([name], settings=TrainParams())[0].needs == "images"]


def without(cache: Path, *stores: str) -> Path:
    for store in stores:
        shutil.rmtree(cache / store)
    return cache


def methods_of(cache: Path, **evaluation: object) -> tuple[list[str], tuple[str, ...]]:
    record = run(fast(**evaluation), Inputs(load_features(cache, "w", "lite")))
    return list(dict.fromkeys(fit.method for fit in record.fits)), record.notes


def test_without_any_text_a_group_runs_what_reads_images_alone_and_one_line_names_the_rest(tmp_path: Path) -> None:
    make_stores(tmp_path)
    asked = ["few-shot", "base-to-new", "cross-dataset"]
    ran, notes = methods_of(without(tmp_path, "text"), methods=["all"], protocols=asked)
    assert sorted(ran) == sorted(IMAGES_ALONE)
    assert sum("left out are" in line and "zero-shot" in line for line in notes) == 1
    assert any("cross-dataset is left out" in line for line in notes)


def test_a_method_that_was_named_and_lacks_text_is_refused_with_the_mend(tmp_path: Path) -> None:
    make_stores(tmp_path)
    with pytest.raises(UserError, match=r"^w: no embedded class text, and zero-shot reads it: run .* --methods gda$"):
        methods_of(without(tmp_path, "text"), methods=["zero-shot", "gda"])


def test_without_prompts_a_group_loses_those_that_read_them_and_no_other(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=())
    ran, notes = methods_of(tmp_path, methods=["standard"])
    assert {"aape-plus", "zero-shot", "tip-adapter-f", "gda"} <= set(ran)
    assert not {"aape", "cupl"} & set(ran)
    assert sum("no embedded prompts: left out are aape" in line for line in notes) == 1


def test_prompts_alone_name_the_classes_and_methods_of_templates_are_left_out(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=("people",))
    shutil.rmtree(tmp_path / "text" / "dataset=w" / "encoder=lite" / "llm=none")
    ran, _ = methods_of(tmp_path, methods=["standard"])
    assert {"cupl", "aape", "aape-plus", *IMAGES_ALONE} <= set(ran)
    assert not {"zero-shot", "tip-adapter-f"} & set(ran)


def test_a_checkpoint_fitted_without_text_serves_and_is_exported_as_it_was_judged(tmp_path: Path) -> None:
    make_stores(tmp_path)
    features = load_features(without(tmp_path, "text"), "w", "lite")
    run(fast(methods=["all"]), Inputs(features), results=tmp_path / "results")
    images = features.val.images.embeddings.float()
    for name in IMAGES_ALONE:
        found = load_checkpoint(tmp_path / "results" / "runs" / "w" / "checkpoints" / name)
        assert not found.text.is_text
        shares = found.predictor.logits(images, found.text).softmax(1)
        assert (shares.argmax(1) == features.val.images.labels).double().mean() > 0.5
        assert torch.allclose(head_of(found)(images).softmax(1), shares, atol=1e-5)


def refusal(inputs: Inputs, protocol: str, name: str, shots: int) -> str:
    """What a protocol says to one method that is named; nothing where it takes it."""
    params = fast(methods=[name], protocols=[protocol], shots=shots)
    try:
        planned(inputs, measurable(inputs, settled(params.evaluation, inputs.others))[0], params)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("lack", ["nothing", "prompts", "text"])
def test_whatever_a_refusal_offers_runs_in_that_protocol_on_that_data_set(tmp_path: Path, lack: str) -> None:
    make_stores(tmp_path, sources=() if lack != "nothing" else ("llm",))
    inputs = Inputs(load_features(without(tmp_path, *["text"] * (lack == "text")), "w", "lite"))
    offered = set()
    for protocol, shots in [("few-shot", 2), ("base-to-new", 2), ("semi-supervised", 2), ("unsupervised", 2),
                            ("transductive", 0), ("long-tailed", 2)]:  # fmt: skip
        if lack == "text" and protocol == "base-to-new":
            continue
        for name in METHODS:
            line = refusal(inputs, protocol, name, shots)
            assert not line or name in line
            for other in re.findall(r"--methods (\S+)$", line):
                offered.update((protocol, each) for each in other.split(","))
            for other in re.findall(r"--protocols ([a-z, -]+)\)", line):
                offered.update((each, name) for each in re.split(", | or ", other))
    assert len(offered) > 3
    for protocol, name in offered:
        assert not refusal(inputs, protocol, name, 0 if protocol == "transductive" else 2), (protocol, name)


def test_a_second_encoder_that_lacks_is_brought_by_a_file_or_named_where_it_is_there(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=("llm",))
    with pytest.raises(UserError) as caught:
        load_features(tmp_path, "w", "lite", student="dinov2")
    assert "`pipeline embed-images --dataset w --from FILE --encoder dinov2`" in str(caught.value)
    assert str(caught.value).endswith("or choose one with --student-encoder")
    inputs = Inputs(load_features(tmp_path, "w", "lite"))
    line = refusal(inputs, "unsupervised", "nola", 2)
    assert "`pipeline embed-images --dataset w --from FILE --encoder NAME`, then add --student-encoder NAME" in line
    assert line.endswith("or go without: --methods zero-shot,cupl,template-ensemble")
    shutil.copytree(tmp_path / "images/dataset=w/encoder=lite", tmp_path / "images/dataset=w/encoder=dinov2")
    assert "name one with --student-encoder (there is dinov2)" in refusal(inputs, "unsupervised", "nola", 2)
