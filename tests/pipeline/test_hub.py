"""What is said of a hub that is silent, gated or switched off: one line, at once, from a real server here."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline import hub
from pipeline.encoders.hub import tagged
from pipeline.hub import hub_problem
from pipeline.prompts.hub import hub_config, require_weights
from stages import UserError

REPO, FILES = "some/model", ("model.safetensors", "pytorch_model.bin")


class Hub(BaseHTTPRequestHandler):
    """Knows one model, which is public in its facts and gated in its files, and one without weights; else silent."""

    leave = threading.Event()

    def answer(self) -> None:
        if "silent" in self.path:
            self.leave.wait(30)
            return
        about = "/api/" in self.path
        found = {"id": REPO, "gated": "manual", "sha": "0" * 40, "siblings": [], "tags": []} if about else {}
        missing = "empty" in self.path
        self.send_response(200 if about else 404 if missing else 401)
        if not about:
            self.send_header("X-Error-Code", "EntryNotFound" if missing else "GatedRepo")
        body = json.dumps(found).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    Hub.leave.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                            address + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield
        Hub.leave.set()
        http.shutdown()


def cached(tmp_path: Path, repo: str, file: str) -> None:
    folder = tmp_path / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee" / file).touch()


def test_a_gated_model_without_permission_says_what_to_do() -> None:
    assert hub_problem(REPO, FILES) == ("some/model is gated; accept its licence on its hub page, then `hf auth login`")
    with pytest.raises(UserError, match=r"LLM m: its weights: some/model is gated; accept its licence"):
        require_weights("m", REPO, None)


def test_a_silent_hub_is_out_of_reach_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    assert hub_problem("silent/model", FILES) == (
        "silent/model is not in the local hub cache and the hub cannot be reached"
    )
    assert hub.SECONDS < 4, "beside imports, within ten seconds"


def test_a_name_server_that_is_silent_is_no_longer_waited_for_than_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "LONGEST", 0.2)
    asked = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: asked.set() or Hub.leave.wait(30))
    assert "and the hub cannot be reached" in str(hub_problem("some/other", FILES))
    with pytest.raises(
        UserError, match="LLM m: some/other is not in the local hub cache and the hub cannot be reached"
    ):
        hub_config("m", "some/other", None)
    assert asked.is_set()


def test_a_hub_switched_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub_problem("silent/model", FILES) == (
        "silent/model is not in the local hub cache, and HF_HUB_OFFLINE is set"
    )
    with pytest.raises(UserError, match="silent/model is not in the local hub cache and HF_HUB_OFFLINE is set"):
        hub_config("m", "silent/model", None)


def test_what_the_cache_has_needs_no_hub(tmp_path: Path) -> None:
    cached(tmp_path, "silent/model", "pytorch_model.bin")
    assert hub_problem("silent/model", FILES) is None


def test_a_model_without_these_files_is_told_apart() -> None:
    assert hub_problem("empty/model", FILES) == "empty/model has none of model.safetensors, pytorch_model.bin"
    require_weights("m", "empty/model", None)  # some call their weights otherwise


def test_where_the_weights_of_a_tag_lie_is_known_without_open_clip() -> None:
    from pipeline.torchvision_mend import mend_torchvision

    mend_torchvision()
    from open_clip.pretrained import _PRETRAINED, get_pretrained_cfg

    for arch, tags in _PRETRAINED.items():
        for tag in tags:
            assert tagged(arch, tag) == get_pretrained_cfg(arch, tag).get("hf_hub", ""), (arch, tag)
    assert tagged("ViT-B-16-quickgelu", "laion2b_s34b_b88k") == tagged("ViT-B-16", "none") == tagged("none", "x") == ""
    assert tagged("ViT-B-16", "OPENAI") == "timm/vit_base_patch16_clip_224.openai/"


def test_an_encoder_that_cannot_be_had_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from pipeline.encoders import load_encoder\n"
        "try: load_encoder('open_clip:ViT-B-16/openai')\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/none"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT).stdout
    assert "timm/vit_base_patch16_clip_224.openai is not in the local hub cache, and HF_HUB_OFFLINE is set" in said
    assert said.rstrip().endswith("False")
