"""The retrieval metric against a naive one that sorts, ties included, in any tiles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_captions import some_pairs
from torch import Tensor

from trainer.data.pairs import Held, Pairs
from trainer.ranks import Ranks, merged, ranks, retrieval_metrics


def naive(pairs: Pairs, query: Tensor) -> tuple[list[int], list[int]]:
    """Sort the whole gallery for each query; what scores the same as the one looked for is put before it."""
    scores = query.double() @ pairs.captions.all().double().T
    owner = pairs.owner.tolist()
    i2t = []
    for image, line in enumerate(scores.tolist()):
        order = sorted(range(len(line)), key=lambda c: (-round(line[c], 5), owner[c] == image))
        i2t.append(1 + next(place for place, c in enumerate(order) if owner[c] == image))
    t2i = []
    for caption, line in enumerate(scores.T.tolist()):
        order = sorted(range(len(line)), key=lambda i: (-round(line[i], 5), i == owner[caption]))
        t2i.append(1 + order.index(owner[caption]))
    return i2t, t2i


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=12),
    seed=st.integers(0, 99),
    tile=st.tuples(st.integers(1, 7), st.integers(1, 11)),
    doubled=st.booleans(),
)
def test_ranks_are_those_of_sorting_the_whole_gallery(
    counts: list[int], seed: int, tile: tuple[int, int], doubled: bool
) -> None:
    pairs = some_pairs(counts, width=3, seed=seed, noise=1.0)  # few numbers: what is found is far from perfect
    images, captions = pairs.images.all(), pairs.captions.all()
    if doubled:  # two images and two captions of other images that are the very same
        images[1], captions[-1] = images[0], captions[0]
    pairs = Pairs(Held(images), Held(captions), pairs.first, pairs.image_ids, pairs.texts)
    found = ranks(pairs, lambda x: x, tile=tile)
    i2t, t2i = naive(pairs, images)
    assert found.image_to_text.tolist() == i2t
    assert found.text_to_image.tolist() == t2i
    scores = images @ captions.T
    assert torch.allclose(scores.gather(1, found.first_text[:, None])[:, 0], scores.amax(1))
    assert torch.allclose(scores.T.gather(1, found.first_image[:, None])[:, 0], scores.amax(0))


def test_a_hit_is_the_best_of_an_images_captions_and_the_others_are_not_in_its_way() -> None:
    images = torch.eye(3)
    captions = torch.tensor([[0.6, 0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    pairs = Pairs(Held(images), Held(captions), torch.tensor([0, 2, 3, 4]), ("a", "b", "c"))
    found = ranks(pairs, lambda x: x)
    assert found.image_to_text.tolist() == [1, 1, 1]
    assert found.text_to_image.tolist() == [2, 1, 1, 1], "each caption is a query of its own"


def test_a_space_that_has_collapsed_to_one_point_finds_nothing() -> None:
    pairs = some_pairs([2] * 12)
    metrics = retrieval_metrics(ranks(pairs, lambda x: torch.ones_like(x) / x.shape[1] ** 0.5))
    assert metrics["t2i_r@1"] == metrics["t2i_r@10"] == 0
    assert metrics["t2i_median_rank"] == 12


def test_a_query_that_is_no_number_finds_nothing() -> None:
    pairs = some_pairs([2] * 12)
    metrics = retrieval_metrics(ranks(pairs, lambda x: torch.full_like(x, torch.nan)))
    assert metrics["i2t_r@10"] == metrics["t2i_r@10"] == 0


def test_recall_and_the_median_rank_are_over_the_queries() -> None:
    found = Ranks(torch.tensor([1, 2, 6, 11]), torch.tensor([1, 1, 30]), torch.zeros(4), torch.zeros(3))
    metrics = retrieval_metrics(found)
    assert [metrics[f"i2t_r@{k}"] for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert metrics["i2t_median_rank"] == 4.0
    assert metrics["t2i_r@1"] == pytest.approx(2 / 3)
    assert metrics["t2i_median_rank"] == 1.0


def test_merged_captions_are_one_mean_an_image() -> None:
    pairs = some_pairs([1, 3])
    one = merged(pairs)
    expected = pairs.captions.all()[1:].mean(0)
    assert torch.allclose(one.captions.all()[1], expected / expected.norm(), atol=1e-6)
    assert len(one.owner) == 2
