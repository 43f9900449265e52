import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

from pipeline.prompts import gguf_files, llms
from pipeline.prompts.engines import find_llm
from pipeline.prompts.llms import aliases, folder_fingerprint, resolve_llm
from stages.errors import UserError
from stages.params import Params, check


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the packaged GGUF file, and an empty folder for what is converted."""
    gguf = tmp_path / "package" / "Tiny-Instruct.Q4_1.gguf"
    gguf.parent.mkdir()
    gguf.write_bytes(b"weights")
    monkeypatch.setattr(llms, "packaged_gguf", lambda: gguf)
    monkeypatch.setenv("AAPE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def _fake_convert(gguf: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")


def test_aliases_are_hub_ids_or_packaged() -> None:
    assert {"smollm2", "llama3", "llama3.1", "llama3.2", "qwen", "qwen3", "mistral", "gemma", "phi"} <= set(aliases())
    assert all(model == "packaged" or re.fullmatch(r"[\w.-]+/[\w.-]+", model) for model in aliases().values())


def test_an_alias_and_a_hub_id_name_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llms, "hub_config", lambda name, repo, revision: cached)
    cached = tmp_path / "0123abc" / "config.json"
    cached.parent.mkdir()
    cached.write_text('{"max_position_embeddings": 8192}', encoding="utf-8")
    by_alias, by_id = resolve_llm("llama3"), resolve_llm("meta-llama/Meta-Llama-3-8B-Instruct")
    assert by_alias == replace(by_id, name="llama3")
    assert (by_id.model, by_id.fingerprint, by_id.context) == ("meta-llama/Meta-Llama-3-8B-Instruct", "0123abc", 8192)
    assert not by_alias.is_local


def test_a_local_folder_is_pinned_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    first = resolve_llm(str(tmp_path))
    assert first.is_local
    assert first.fingerprint == folder_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    second = resolve_llm(str(tmp_path)).fingerprint
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert len({first.fingerprint, second, resolve_llm(str(tmp_path)).fingerprint}) == 3


@pytest.mark.parametrize(("files", "chats"), [
    ({}, None), ({"tokenizer_config.json": "{}"}, False), ({"tokenizer_config.json": '{"chat_template": "x"}'}, True),
    ({"tokenizer_config.json": "{}", "chat_template.jinja": "x"}, True), ({"tokenizer_config.json": "[["}, None),
    ({"tokenizer_config.json": "[]"}, None),
])  # fmt: skip
def test_a_chat_template_is_seen_before_the_model_is_loaded(
    tmp_path: Path, files: dict[str, str], chats: bool | None
) -> None:
    for name, text in {"config.json": "{}", **files}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert resolve_llm(str(tmp_path)).chats is chats


@pytest.mark.parametrize("name", ["lama3", "", "a b", "x/y/z"])
def test_an_unknown_name_lists_the_known_ones(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="smollm2, ") as caught:
        resolve_llm(name)
    assert caught.value.exit_code == 2
    assert ("did you mean 'llama3'" in str(caught.value)) == (name == "lama3")


def test_a_users_own_aliases_win_and_may_name_a_folder_a_hub_id_or_an_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llms, "hub_config", lambda name, repo, revision: tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    own = {"mine": str(tmp_path), "llama3": "org/other", "big": "llama3.3", "qwen": "qwen3"}
    found = {name: resolve_llm(name, aliases=own).model for name in own}
    assert found == {
        "mine": str(tmp_path), "llama3": "org/other", "big": "meta-llama/Llama-3.3-70B-Instruct",
        "qwen": "Qwen/Qwen3-8B",
    }  # fmt: skip
    assert resolve_llm("mine", aliases=own).name == "mine"


def test_a_users_alias_of_the_packaged_model_is_the_packaged_model(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "_convert", _fake_convert)
    found = resolve_llm("small", aliases={"small": "smollm2"})
    assert found.note
    assert found.system
    assert found.prefers_plain


def test_an_unknown_name_is_compared_with_the_users_aliases_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"known: textile-llm, smollm2, .*did you mean 'textile-llm'"):
        resolve_llm("textil-llm", aliases={"textile-llm": "org/x"})
    with pytest.raises(UserError, match=r"unknown LLM 'gone' \(llms: '/no/such/folder'\)"):
        resolve_llm("gone", aliases={"gone": "/no/such/folder"})
    with pytest.raises(UserError, match=r"'here' \(llms: '.*'\): the folder holds no config\.json"):
        resolve_llm("here", aliases={"here": str(tmp_path)})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_llm(str(tmp_path))


def test_the_packaged_model_is_converted_once(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "_convert", _fake_convert)
    first = resolve_llm("smollm2")
    assert first.note
    assert Path(first.model) == packaged / f"Tiny-Instruct-{first.fingerprint[:12]}"
    monkeypatch.setattr(gguf_files, "_convert", None)
    assert resolve_llm("smollm2") == first


def test_a_killed_conversion_leaves_nothing_that_counts(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(gguf: Path, folder: Path) -> None:
        (folder / "half").write_text("", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_files, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        resolve_llm("smollm2")
    assert not [path for path in packaged.iterdir() if not path.name.startswith(".")]
    monkeypatch.setattr(gguf_files, "_convert", _fake_convert)
    folder = Path(resolve_llm("smollm2").model)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert sorted(path.name for path in packaged.iterdir()) == [".lock", folder.name]


def test_a_place_that_cannot_be_written_is_one_line(packaged: Path) -> None:
    packaged.write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(UserError, match="AAPE_MODELS"):
        resolve_llm("smollm2")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "aape\[demo\]"'):
        find_llm("smollm2")


def test_a_folder_that_git_lfs_left_pointers_in_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        UserError, match=r"model\.safetensors holds no weights but a Git LFS pointer: run `git lfs pull`"
    ):
        resolve_llm(str(tmp_path))
    with pytest.raises(UserError, match=r"is a file and no GGUF file but a Git LFS pointer"):
        resolve_llm(str(tmp_path / "model.safetensors"))


def test_a_config_that_is_no_json_is_one_line(tmp_path: Path) -> None:
    for content in ("", "[]", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"config\.json: not readable as JSON") as caught:
            resolve_llm(str(tmp_path))
        assert len(str(caught.value)) < 400


def test_a_gguf_file_is_converted_once_for_its_content_wherever_it_lies(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "_convert", _fake_convert)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.Q4.gguf").write_bytes(b"GGUF1")
    first = resolve_llm(str(tmp_path / "here" / "mine.Q4.gguf"))
    assert Path(first.model) == packaged / f"mine-{first.fingerprint[:12]}"
    assert (first.note, first.system) == ("", "")
    monkeypatch.setattr(gguf_files, "_convert", None)
    by_folder = resolve_llm("it", aliases={"it": str(tmp_path / "there")})
    assert replace(by_folder, name=first.name) == first
    (tmp_path / "there" / "mine.Q8.gguf").write_bytes(b"GGUF2")
    with pytest.raises(
        UserError, match=r"no config\.json; .* give one of its GGUF files: mine\.Q4\.gguf, mine\.Q8\.gguf"
    ):
        resolve_llm(str(tmp_path / "there"))
    (tmp_path / "no.gguf").write_bytes(b"PK")
    with pytest.raises(
        UserError, match=r"no\.gguf' is a file and no GGUF file; expected GGUF or a Hugging Face folder"
    ):
        resolve_llm(str(tmp_path / "no.gguf"))


def write_gguf(path: Path, *, architecture: str = "llama") -> Path:
    """A language model of one layer and 256 byte tokens, random."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(259)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(k) if 32 < k < 127 else chr(256 + k) for k in range(256)]
    writer.add_token_list([*letters, "th", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (259, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        **{f"blk.0.attn_{x}": (32, 32) for x in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.skipif(not (find_spec("gguf") and find_spec("accelerate")), reason="needs gguf and accelerate")
def test_a_real_gguf_file_becomes_a_model_folder_and_what_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AAPE_MODELS", str(tmp_path / "models"))
    found = resolve_llm(str(write_gguf(tmp_path / "tiny.gguf")))
    assert found.context == 128
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path(found.model).iterdir()}
    strange = write_gguf(tmp_path / "strange.gguf", architecture="warp")
    with pytest.raises(
        UserError, match=r"strange\.gguf: the architecture 'warp' cannot be converted .*llama-server"
    ) as one:
        resolve_llm(str(strange))
    strange.write_bytes(strange.read_bytes()[:100])
    with pytest.raises(UserError, match=r"strange\.gguf: a damaged GGUF file cannot be converted") as two:
        resolve_llm(str(strange))
    for caught in (one, two):
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    assert sorted(path.name for path in (tmp_path / "models").iterdir() if not path.name.startswith(".")) == [
        Path(found.model).name
    ]


def test_the_settings_and_aliases_that_the_guide_shows_are_real() -> None:
    guide = (ROOT / "docs" / "language-models.md").read_text(encoding="utf-8")
    shown = [
        check(Params, yaml.safe_load(block), where="guide") for block in re.findall(r"```yaml\n(.*?)```", guide, re.S)
    ]
    assert shown[0].llms
    assert shown[1].prompts.server.url
    row = next(line for line in guide.splitlines() if "a shipped alias" in line).split("|")[2]
    assert set(re.findall(r"`(.+?)`", row)) <= set(aliases())
