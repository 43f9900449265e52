"""The frozen language model: its loss and its words are those of the library's own calls."""

from pathlib import Path

import pytest
import torch
from small_language import huge_language_model, small_language_model

from stages.errors import UserError
from trainer.language.model import LanguageModel, find_language_model, load_language_model

CPU = torch.device("cpu")


def loaded(folder: Path) -> LanguageModel:
    return load_language_model(find_language_model(str(folder), precision="float32"), CPU)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_language_model(tmp_path_factory.mktemp("llm") / "small")


@pytest.mark.parametrize(("tied", "pad"), [(True, True), (False, True), (True, False)])
def test_the_loss_in_pieces_is_the_librarys_own_with_its_gradient(tied: bool, pad: bool, tmp_path: Path) -> None:
    language = loaded(small_language_model(tmp_path / "llm", tied=tied, pad=pad))
    assert language.linear_head
    tokens = [language.tokens(text) for text in ("a red bus", "two dogs play in the snow " * 4)]
    longest = max(map(len, tokens))
    ids = torch.zeros(2, longest, dtype=torch.long)
    mask = torch.zeros(2, longest, dtype=torch.bool)
    for row, each in enumerate(tokens):
        ids[row, : len(each)], mask[row, : len(each)] = torch.tensor(each), True
    targets = torch.full_like(ids, -1)
    targets[:, :-1] = ids[:, 1:].where(mask[:, 1:], torch.tensor(-1))
    found = []
    for linear in (True, False):
        language.linear_head = linear
        inputs = language.embed(ids).requires_grad_()
        losses, rows = language.losses(inputs, mask, targets)
        (losses * (rows + 1)).sum().backward()
        found.append((losses.detach(), inputs.grad))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    theirs = language.model(inputs_embeds=language.embed(ids[1:, :]), labels=ids[1:]).loss
    assert float(found[0][0][rows == 1].mean()) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_any_length_side_by_side_say_what_each_says_alone(small: Path, beams: int) -> None:
    language = loaded(small)
    prompts = [language.embed(torch.tensor(language.tokens(text))) for text in ("a cat", "the dog sleeps here", "b")]
    together = language.generate(prompts, most=12, beams=beams, batch=2)
    for prompt, said in zip(prompts, together, strict=True):
        alone = language.model.generate(
            inputs_embeds=prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12, min_new_tokens=1, num_beams=beams, do_sample=False, pad_token_id=language.pad,
            eos_token_id=language.stops,
        )  # fmt: skip
        assert language.text(said) == language.text(alone[0].tolist())


def test_a_model_too_large_for_memory_is_refused_before_a_weight_is_read(small: Path, tmp_path: Path) -> None:
    folder = huge_language_model(tmp_path / "huge", small)
    with pytest.raises(UserError, match=r"huge takes about \d+\.\d GB as float32 and .* GB are free on cpu"):
        loaded(folder)


def test_what_is_no_language_model_is_refused_in_one_line(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"odd cannot be loaded \(.*\): get the model again"):
        loaded(folder)
    folder = small_language_model(tmp_path / "mixed", lacking=3)
    with pytest.raises(UserError, match=r"mixed: its tokenizer knows token \d+ and its model \d+ tokens"):
        loaded(folder)
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((small / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04evil")
    with pytest.raises(UserError, match="cannot be loaded"):
        loaded(folder)


def test_text_longer_than_the_context_is_refused(small: Path) -> None:
    language = loaded(small)
    with pytest.raises(UserError, match=r"a caption: 300 tokens, and .* takes 256"):
        language.require_context(300, what="a caption")
    language.require_context(256, what="a caption")


def test_text_ends_at_an_end_or_a_line_break(small: Path) -> None:
    language = loaded(small)
    assert language.text([*language.tokens(" a red bus \nand more"), language.end]) == "a red bus"
    assert language.text([language.end, *language.tokens("more")]) == ""
    assert language.text(language.tokens("a\0 red\x1b \x85bus\0")) == "a red bus", (
        "a CSV file with NUL is not read again"
    )


def test_the_likelihood_of_choices_is_that_of_each_alone(small: Path) -> None:
    language = loaded(small)
    prompt = language.embed(torch.tensor(language.tokens("Q: what is it? A:")))
    choices = [language.tokens(text) for text in (" cat", " a very long answer", " dog")]
    found = language.likelihoods(prompt, choices)
    for tokens, value in zip(choices, found.tolist(), strict=True):
        inputs = torch.cat([prompt, language.embed(torch.tensor(tokens))])[None]
        targets = torch.full((1, inputs.shape[1]), -1)
        targets[0, len(prompt) - 1 : -1] = torch.tensor(tokens)
        losses, _ = language.losses(inputs, torch.ones_like(targets, dtype=torch.bool), targets)
        assert value == pytest.approx(-float(losses.mean()), abs=1e-4)
    assert float(language.likelihoods(prompt[:1], choices)[0]) != float(found[0])
