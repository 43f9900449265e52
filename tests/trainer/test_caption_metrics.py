"""Caption metrics against pycocoevalcap's pure-Python classes, and where those cannot be right."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from trainer.language.metrics import bleu4, cider_d, cider_d_scores, clip_score, ref_clip_score, rouge_l
from trainer.language.words import words

WORDS = st.lists(st.sampled_from(["a", "man", "dog", "red", "bus", "on", "the", "street"]), min_size=1, max_size=9)
CORPORA = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=2, max_size=6)


def reference(captions: list[list[str]], references: list[list[list[str]]]) -> tuple[float, float, float]:
    """BLEU-4, ROUGE-L and CIDEr-D by pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    said = {i: [" ".join(caption)] for i, caption in enumerate(captions)}
    own = {i: [" ".join(each) for each in many] for i, many in enumerate(references)}
    found: list[Any] = [kind.compute_score(own, said) for kind in (Rouge(), Cider())]
    return Bleu(4).compute_score(own, said, verbose=0)[0][3], found[0][0], found[1][0]


def fours(sentence: list[str]) -> set[tuple[str, ...]]:
    """Its runs of four words."""
    return {tuple(sentence[at : at + 4]) for at in range(len(sentence) - 3)}


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_bleu_rouge_and_cider_are_those_of_pycocoevalcap(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    captions, references = [c for c, _ in corpus], [r for _, r in corpus]
    bleu, rouge, cider = reference(captions, references)
    ours = bleu4(captions, references)
    matched = any(fours(caption) & fours(each) for caption, many in corpus for each in many)
    assert ours == (pytest.approx(bleu, abs=1e-6) if matched else 0), (
        "without a common run of four: smoothed there, 0 here"
    )
    assert rouge_l(captions, references) == pytest.approx(rouge, abs=1e-9)
    assert cider_d(captions, references) == pytest.approx(cider, abs=1e-9)


def test_a_caption_of_other_images_scores_nothing_and_its_own_words_score_most() -> None:
    references = [[["a", "red", "bus", "on", "a", "street"]], [["two", "dogs", "play", "in", "snow"]]]
    right, wrong = cider_d_scores([references[0][0], references[0][0]], references)
    assert right == pytest.approx(10.0)
    assert wrong == 0.0


def test_an_empty_caption_scores_nothing_and_is_no_fault() -> None:
    references = [[["a", "bus"]], [["a", "dog"]]]
    assert bleu4([[], []], references) == rouge_l([[], []], references) == cider_d([[], []], references) == 0.0


@pytest.mark.parametrize(
    ("caption", "cut"),
    [
        ("A man, a dog.", "a man a dog"),
        ("The dog's bowl isn't FULL!", "the dog 's bowl is n't full"),
        ("It’s a t-shirt (red) that cannot be seen", "it 's a t-shirt red that can not be seen"),
        ("Two boys' bikes at 10:30 for $3.50 -- the 2nd", "two boys bikes at 10:30 for $ 3.50 the 2nd"),
        ("The U.S. flag... and   more\n", "the u.s. flag and more"),
        ("They'd've gone", "they 'd 've gone"),
        ("Один кот на столе", "один кот на столе"),
        ("...!?", ""),
    ],
)
def test_captions_are_cut_as_the_penn_treebank_does(caption: str, cut: str) -> None:
    assert words(caption) == cut.split()


def test_clip_scores_are_those_of_their_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    images, captions = (normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    references = [normalize(torch.randn(i + 1, 8, generator=generator), dim=-1) for i in range(5)]
    plain, with_references = clip_score(images, captions), ref_clip_score(images, captions, references)
    for i, own in enumerate(references):
        clip = 2.5 * max(float(images[i] @ captions[i]), 0)
        nearest = max(0.0, *(float(captions[i] @ each) for each in own))
        assert float(plain[i]) == pytest.approx(clip, abs=1e-6)
        harmonic = 2 / (1 / clip + 1 / nearest) if clip and nearest else 0.0
        assert float(with_references[i]) == pytest.approx(harmonic, abs=1e-6)
        assert math.isfinite(float(with_references[i]))
