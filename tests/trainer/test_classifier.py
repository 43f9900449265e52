"""The head's evaluation in the bottleneck against the plain B x C x D one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.small_tasks import WIDTH, unit
from trainer.aape import classifier as module
from trainer.aape import cosines
from trainer.aape.classifier import Classifier


def naive_cosines(classifier: Classifier, images: Tensor, weights: Tensor) -> Tensor:
    """Equations 3 and 4 as they stand: every class weight of every image in full width."""
    generated = classifier.generate(images)
    conditioned = weights @ classifier.a.T
    if generated is not None and classifier.b is not None:
        conditioned = conditioned + (generated @ classifier.b.T)[:, None]
    else:
        conditioned = conditioned.expand(len(images), -1, -1)
    full = torch.relu(conditioned)
    if classifier.head != "full":
        full = full @ classifier.v.T
    if classifier.head == "residual":
        full = full + weights
    return (images[:, None] * normalize(full, dim=-1, eps=1e-6)).sum(-1)


def make(head: str, *, image: bool = True, width: int = WIDTH, hidden: int = 8, scale: float = 1.0) -> Classifier:
    made = Classifier(
        width=width,
        hidden=hidden,
        head=head,
        image=image,
        rng=torch.Generator().manual_seed(3),  # type: ignore[arg-type]
    )
    if head == "residual":
        made.v.data = scale * unit(width, hidden, seed=4)
    return made


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(0, 9),
    classes=st.integers(1, 9),
    width=st.integers(1, 40),
    hidden=st.integers(1, 33),
    head=st.sampled_from(["residual", "literal", "full"]),
    image=st.booleans(),
    tile=st.sampled_from([1, 40, 4_000_000]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
)
def test_the_bottleneck_evaluation_equals_the_naive_one(
    images: int, classes: int, width: int, hidden: int, head: str, image: bool, tile: int, scale: float
) -> None:
    classifier = make(head, image=image, width=width, hidden=hidden, scale=scale)
    x, w = unit(images, width, seed=5), unit(classes, width, seed=6)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setitem(module.TILE, "cpu", (4, tile))
        found, expected = classifier(x, w), naive_cosines(classifier, x, w)
    assert found.shape == (images, classes)
    # a class weight that nearly vanishes (width 1, opposite signs) has no direction to compare
    if width > 2:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("head", ["residual", "literal", "full"])
def test_rows_of_zeros_give_a_cosine_of_zero_and_finite_gradients(head: str) -> None:
    classifier = make(head)
    classifier.a.data.zero_()
    if classifier.b is not None:
        classifier.b.data.zero_()
    x, w = torch.zeros(3, WIDTH), torch.zeros(2, WIDTH)
    found = classifier.cosines(x, classifier.generate(x), classifier.text_side(w))
    assert torch.equal(found, torch.zeros(3, 2))
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in classifier.parameters() if p.grad is not None)


def test_before_training_the_residual_head_is_exactly_zero_shot() -> None:
    classifier = Classifier(width=WIDTH, hidden=8, head="residual", image=True, rng=torch.Generator())
    x, w = unit(5, WIDTH, seed=1), unit(4, WIDTH, seed=2)
    torch.testing.assert_close(classifier(x, w), x @ w.T, atol=3e-7, rtol=0)


@pytest.mark.parametrize("head", ["residual", "literal", "full"])
@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("tile", [250_000, 1])
def test_the_gradient_is_that_of_the_naive_form(
    monkeypatch: pytest.MonkeyPatch, head: str, image: bool, tile: int
) -> None:
    monkeypatch.setattr(cosines, "LAYER_ENTRIES", tile)
    classifier = make(head, image=image).double()
    x, w = unit(5, WIDTH, seed=1).double(), unit(4, WIDTH, seed=2).double()
    parameters = [p for p in classifier.parameters()]
    weight = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast = torch.autograd.grad(
        (classifier.cosines(x, classifier.generate(x), classifier.text_side(w)) * weight).sum(), parameters
    )
    slow = torch.autograd.grad((naive_cosines(classifier, x, w) * weight).sum(), parameters)
    for found, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


def test_h_alone_is_the_query_when_there_is_no_head() -> None:
    classifier = Classifier(width=WIDTH, hidden=8, head="none", image=True, rng=torch.Generator())
    x, w = unit(5, WIDTH, seed=1), unit(4, WIDTH, seed=2)
    generated = classifier.generate(x)
    assert generated is not None
    torch.testing.assert_close(classifier(x, w), normalize(generated, dim=-1) @ w.T)
    assert sum(p.numel() for p in classifier.parameters()) == 2 * WIDTH * 8


def test_the_published_parameter_counts_come_out_at_width_512() -> None:
    classifier = Classifier(width=512, hidden=32, head="literal", image=True, rng=torch.Generator())
    assert classifier.h is not None
    assert sum(p.numel() for p in classifier.h.parameters()) == 32_768
    assert sum(p.numel() for p in classifier.parameters()) == 32_768 + 49_152
    full = Classifier(width=512, hidden=32, head="full", image=True, rng=torch.Generator())
    assert sum(p.numel() for p in full.parameters()) == 32_768 + 524_288


def test_embeddings_in_float16_are_scored_as_their_float32_values() -> None:
    classifier = make("residual")
    x, w = unit(7, WIDTH, seed=1).half(), unit(4, WIDTH, seed=2)
    assert torch.equal(classifier(x, w), classifier(x.float(), w))


@pytest.mark.parametrize("head", ["residual", "full"])
def test_many_images_and_classes_never_meet_in_full_width(head: str) -> None:
    """The largest tensor of an evaluation stays far below B x C x D entries."""
    classifier, largest = make(head), 0
    x, w = unit(300, WIDTH, seed=1), unit(200, WIDTH, seed=2)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), Watch():
        patch.setitem(module.TILE, "cpu", (16, 4_000))
        patch.setattr(cosines, "LAYER_ENTRIES", 4_000)
        classifier(x, w)
    assert largest <= len(x) * len(w) < len(x) * len(w) * WIDTH
