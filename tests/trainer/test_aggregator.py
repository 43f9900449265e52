"""The aggregator: a standard attention layer, blind to order and padding, and cut off from L_distill by default."""

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, normalize

from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_images, small_text, unit
from trainer.aape.aggregator import AttentionAggregator, PromptTargets
from trainer.aape.controls import prompts_of
from trainer.aape.losses import clip_reward

TEXT = small_text()
IMAGES = small_images()


def trained_like(seed: int = 0) -> AttentionAggregator:
    """An aggregator none of whose parts is zero any more."""
    rng = torch.Generator().manual_seed(seed)
    made = AttentionAggregator(width=WIDTH, heads=2, head_width=12, feed_forward=10, rng=rng)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return made


def targets(**changes: object) -> PromptTargets:
    assert TEXT.prompts is not None
    assert TEXT.mask is not None
    return PromptTargets(
        TrainParams.model_validate(changes),
        prompts=TEXT.prompts,
        mask=TEXT.mask,
        rng=torch.Generator().manual_seed(0),
    )


def test_the_folded_evaluation_equals_torchs_multi_head_attention() -> None:
    made, query = trained_like(), TEXT.prompt_mean()
    plain = nn.MultiheadAttention(WIDTH, made.heads, bias=False, batch_first=True)
    plain.load_state_dict(
        {
            "in_proj_weight": torch.cat([made.to_query, made.to_key, made.to_value]),
            "out_proj.weight": made.to_output,
        }
    )
    shifted = query + made.shift
    attended, weights = plain(
        shifted[:, None], TEXT.prompts, TEXT.prompts, key_padding_mask=~TEXT.mask, average_attn_weights=False
    )
    inside = layer_norm(shifted + attended[:, 0], (WIDTH,), made.norm1[0], made.norm1[1])
    outside = inside + torch.relu(inside @ made.up.T) @ made.down.T
    expected = normalize(layer_norm(outside, (WIDTH,), made.norm2[0], made.norm2[1]), dim=-1)
    torch.testing.assert_close(made(query, TEXT.prompts, TEXT.mask), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.scores(query, TEXT.prompts, TEXT.mask), weights[:, :, 0], atol=1e-6, rtol=0)


def test_the_order_of_the_prompts_does_not_matter() -> None:
    made, order = trained_like(), torch.tensor([3, 1, 4, 0, 2])
    found = made(TEXT.prompt_mean(), TEXT.prompts, TEXT.mask)
    shuffled = made(TEXT.prompt_mean(), TEXT.prompts[:, order], TEXT.mask[:, order])
    torch.testing.assert_close(found, shuffled, atol=1e-6, rtol=0)


def test_padding_does_not_matter_whatever_stands_in_it() -> None:
    made = trained_like()
    found = made(TEXT.prompt_mean(), TEXT.prompts, TEXT.mask)
    padded = torch.cat([TEXT.prompts, 50 * unit(len(TEXT), 3, WIDTH, seed=8)], 1)
    mask = torch.cat([TEXT.mask, torch.zeros(len(TEXT), 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(found, made(TEXT.prompt_mean(), padded, mask), atol=1e-6, rtol=0)
    assert torch.equal(made.scores(TEXT.prompt_mean(), padded, mask)[..., -3:], torch.zeros(len(TEXT), 2, 3))


def test_it_starts_at_the_mean_of_the_prompts() -> None:
    start = targets().constant(IMAGES)
    mean = TEXT.prompt_mean()[IMAGES.labels]
    centred = normalize(mean - mean.mean(-1, keepdim=True), dim=-1)
    torch.testing.assert_close(start, centred, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("aggregator", "query"),
    [("attention", "mean"), ("attention", "image"), ("attention", "mean+image"), ("mlp", "mean")],
)
def test_training_raises_the_clip_reward(aggregator: str, query: str) -> None:
    rewards = targets(aggregator=aggregator, query=query, aggregator_steps=20, aggregator_lr=1e-2).fit(IMAGES)
    assert rewards[-1] > rewards[0] or rewards[0] > 2.4, "the query `image` starts near the largest reward"


def test_mean_and_random_have_nothing_to_train_and_give_what_they_say() -> None:
    mean = targets(aggregator="mean")
    assert mean.fit(IMAGES) == []
    torch.testing.assert_close(mean.constant(IMAGES), TEXT.prompt_mean()[IMAGES.labels])
    drawn = targets(aggregator="random").constant(IMAGES)
    own = TEXT.prompts[IMAGES.labels]
    assert ((own * drawn[:, None]).sum(-1).max(1).values > 0.9999).all()
    assert (drawn.norm(dim=-1) > 0.99).all(), "padding was drawn"


def test_the_targets_of_h_carry_no_gradient() -> None:
    assert not targets().constant(IMAGES).requires_grad
    assert targets()(IMAGES.embeddings, IMAGES.labels).requires_grad


def test_dropout_leaves_out_attention_while_training_alone() -> None:
    made = trained_like()
    made.dropout, made.rng = 0.4, torch.Generator().manual_seed(5)
    plain = trained_like()(TEXT.prompt_mean(), TEXT.prompts, TEXT.mask)
    dropped = torch.stack([made.train()(TEXT.prompt_mean(), TEXT.prompts, TEXT.mask) for _ in range(2)])
    assert not torch.allclose(dropped[0], dropped[1])
    torch.testing.assert_close(made.eval()(TEXT.prompt_mean(), TEXT.prompts, TEXT.mask), plain)


def test_the_reward_by_class_equals_the_mean_over_images() -> None:
    made = targets()
    unequal = IMAGES.take(torch.tensor([0, 1, 2, 8, 9, 16, 24, 32, 40, 41, 47]))
    first = made.fit(unequal)[0]
    own = targets()(unequal.embeddings, unequal.labels)
    assert first == pytest.approx(float(clip_reward(unequal.embeddings, own, 2.5).detach()), rel=1e-5)


def test_a_control_gives_every_class_the_prompts_of_another_or_such_as_say_nothing_of_it() -> None:
    assert TEXT.prompts is not None
    assert TEXT.mask is not None
    assert prompts_of(TEXT, "own", seed=1) is TEXT
    another, random = (prompts_of(TEXT, source, seed=1) for source in ("another", "random"))
    assert another.prompts is not None
    assert random.prompts is not None
    assert random.mask is not None
    whose = [int((another.prompts[c, :2] - TEXT.prompts[:, :2]).abs().sum((1, 2)).argmin()) for c in range(len(TEXT))]
    assert sorted(whose) == list(range(len(TEXT)))
    assert all(other != c for c, other in enumerate(whose))
    assert torch.equal(random.mask, TEXT.mask)
    assert torch.equal(random.template, TEXT.template)
    torch.testing.assert_close(random.prompts.norm(dim=-1), random.mask.float())
    nearest = (random.prompt_mean() @ TEXT.prompt_mean().T).argmax(1)
    assert int((nearest == torch.arange(len(TEXT))).sum()) <= 3
    assert not torch.equal(random.prompts, prompts_of(TEXT, "random", seed=2).prompts)  # type: ignore[arg-type]
