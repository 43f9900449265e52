"""A Chromium for the tests of results/report.html, where the machine has none: `python3 install/browser.py`.

Standard library only. Debian's `chromium-headless-shell` is installed where this runs as root on a system with apt;
else one line says what to type. `make test` runs it; nothing else needs a browser.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

COMMANDS = (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
)  # fmt: skip
PACKAGES = ("chromium-headless-shell", "chromium")
"""Of Debian; the second one brings more and is in older releases too."""
MEND = "`apt-get install chromium-headless-shell` as root, or `playwright install --only-shell chromium`"


def find() -> str | None:
    """The program of a Chromium: $CHROMIUM, one on the path, or one that Playwright has installed for this user."""
    if os.environ.get("CHROMIUM"):
        return os.environ["CHROMIUM"]
    on_path = next((found for name in COMMANDS if (found := shutil.which(name))), None)
    if on_path:
        return on_path
    kept = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    own = [file for name in ("chrome", "headless_shell", "chrome-headless-shell") for file in kept.glob(f"*/*/{name}")]
    return str(sorted(own)[-1]) if own else None


def install() -> None:
    """Install a package of Debian; what apt says is shown where it fails."""
    for package in PACKAGES:
        if find():
            return
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
        for words in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            done = subprocess.run(
                [*apt, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
            if done.returncode:
                print(f"apt-get {' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)
                break


def main() -> None:
    """Install where there is none; says what to do where that cannot be done here, and fails on CI alone."""
    if find():
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("installing Chromium (headless) for the tests of the page", flush=True)
        install()
    if not find():
        line = f"no Chromium is there, which the tests of results/report.html need: {MEND}"
        if os.environ.get("CI"):
            sys.exit(f"error: {line}")
        print(f"note: {line}; until then they are skipped", flush=True)


if __name__ == "__main__":
    main()
