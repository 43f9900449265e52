"""Make `.venv` with everything the project needs, from the package index alone: `python3 install/venv.py`.

Standard library only, since nothing is installed yet. uv does the work; it does not read pip's settings, so the
find-links and indexes that pip is configured with, by file or by environment, are handed on to it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
UV_VERSION = "uv>=0.8"


def has_cuda_driver() -> bool:
    """Whether an NVIDIA driver is on this machine."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def fingerprint(variant: str) -> str:
    """Changes when anything that decides the environment changes."""
    files = [ROOT / "pyproject.toml", *sorted(HERE.iterdir())]
    digest = hashlib.sha256(f"{variant} {sys.version} {ROOT}".encode())
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command, or stop with its exit code."""
    done = subprocess.run(command, cwd=ROOT, env=env, check=False)
    if done.returncode:
        sys.exit(f"error: `{' '.join(command[:4])} ...` failed with exit code {done.returncode} (see above)")


def pip_setting(python: str, name: str) -> list[str]:
    """A setting of pip, from its files (pip config) or the environment, as a list of words."""
    asked = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found: list[str] = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", "").split()
    for line in asked.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.startswith(("global.", "install.")) and key.split(".", 1)[1] == name:
            found += value.strip("'\"").replace("\\n", " ").split()
    return list(dict.fromkeys(found))


def uv_environment(python: str) -> dict[str, str]:
    """The environment for uv, with pip's settings under uv's names; what the user set for uv itself wins."""
    env = dict(os.environ)
    defaults = {
        "UV_FIND_LINKS": ",".join(pip_setting(python, "find-links")),
        "UV_DEFAULT_INDEX": " ".join(pip_setting(python, "index-url")[:1]),
        "UV_INDEX": " ".join(u for u in pip_setting(python, "extra-index-url") if not u.startswith("file:")),
        "SSL_CERT_FILE": " ".join(pip_setting(python, "cert")[:1]),
        "UV_HTTP_TIMEOUT": "180",
    }
    for key, value in defaults.items():
        if value:
            env.setdefault(key, value)
    if "UV_INDEX" in env:  # as pip does: the best version of all indexes
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return env


def main() -> None:
    """Create or refresh the environment; does nothing when it is as it should be."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs before any installer checks the version)
        sys.exit(f"error: Python 3.11 or newer is needed, found {sys.version.split()[0]}; try make PYTHON=python3.12")
    variant = "gpu" if has_cuda_driver() else "cpu"
    wanted = fingerprint(variant)
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    print(f"setting up .venv ({variant}): several GB, some minutes", flush=True)
    python = str(VENV / "bin" / "python")
    if not Path(python).exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
        if made.returncode:
            sys.exit("error: python3 -m venv failed; on Debian or Ubuntu: apt-get install python3-venv")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV_VERSION)
    overrides = HERE / ("overrides-gpu.txt" if variant == "gpu" else "overrides.txt")
    run(
        python, "-m", "uv", "pip", "install", "--quiet", "--python", python,
        "--override", str(overrides), "--constraint", str(HERE / f"constraints-{variant}.txt"),
        "--editable", f".[{variant},all,demo,dev]",
        env=uv_environment(python),
    )  # fmt: skip
    STAMP.write_text(wanted)
    print("set up: `source .venv/bin/activate` puts pipeline, trainer and dvc on the path", flush=True)


if __name__ == "__main__":
    main()
