"""All methods on ImageNet in CLIP's own space and on four small sets, and their ranks: docs/results.md.

    python examples/ranks/campaign.py STORES RESULTS --clip data/clip-vit-b-32 --jobs 16
    trainer ranks RESULTS/*-[0-9]*/ --out RESULTS/ranks     # what it ends with

STORES gets what is missing: `imagenet` (1,000 classes) and `imagenet-described` (the 286 with descriptions) from the
`imagenet_few_shot.npz` of FOLDER (`--clip FOLDER`), each with every text of a class as its prompts; textile,
caltech101, eurosat-small and clothing-small by the commands of docs/results.md. Every setting is a run of its own below
RESULTS, the longest first, as many side by side as `--jobs` allows; a fit computes with one thread. Stopped, the same
command goes on: a finished run is left as it is, and an unfinished one keeps its fits. `--only WORD`: settings whose
name holds it. `--methods` and `--seeds` as of `trainer run`: another choice needs another RESULTS.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOUR = Path(__file__).parents[1] / "four-sets/params.yaml"
CLIP, LITE = "clip-vit-b-32", "lite"
SMALL = ("caltech101", "eurosat-small", "clothing-small", "textile")
SOURCE = "texts"
STEP = 0.5
"""Seconds between two looks at what has ended."""


@dataclass(frozen=True)
class Setting:
    """One run of `trainer run`.

    Attributes:
        weight: roughly its processor minutes.
    """

    dataset: str
    encoder: str
    protocol: str
    shots: int
    weight: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.dataset}-{self.protocol}-{self.shots}"

    def processes(self, jobs: int) -> int:
        """How many it gets: one for two minutes."""
        return max(1, min(jobs, round(self.weight / 2)))


def settings() -> list[Setting]:
    """All of them, the longest first."""
    found = []
    for shots in (1, 2, 4):
        found.append(Setting("imagenet", CLIP, "few-shot", shots, 5 + 3 * shots))
        found.append(Setting("imagenet", CLIP, "base-to-new", shots, 3 + 1.5 * shots))
        found.append(Setting("imagenet-described", CLIP, "few-shot", shots, 2 + shots / 2))
    for dataset in SMALL:
        found += [Setting(dataset, LITE, "few-shot", shots, 1 + shots / 8) for shots in (1, 2, 4, 8, 16)]
    found += [Setting(dataset, LITE, "base-to-new", 16, 1.5) for dataset in SMALL if dataset != "textile"]
    return sorted(found, key=lambda each: -each.weight / each.processes(16))


def store_of(cache: Path, dataset: str, encoder: str) -> Path:
    """Where its image embeddings lie."""
    return cache / "images" / f"dataset={dataset}" / f"encoder={encoder}" / "part-0.parquet"


def call(*words: object, folder: Path | None = None) -> None:
    """A command of this project."""
    subprocess.run(list(map(str, words)), check=True, cwd=folder)


def arrays(features: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The two data sets, each with the name, the photo template and the descriptions of a class as its prompts."""
    given = dict(np.load(features, allow_pickle=False))
    described = np.unique(given["prompt_class_id"][given["prompt_source"] == "gpt3-descriptions"])
    for name, classes in (("imagenet", np.arange(len(given["class_names"]))), ("imagenet-described", described)):
        place = np.full(len(given["class_names"]), -1)
        place[classes] = np.arange(len(classes))
        images, prompts = place[given["class_id"]] >= 0, place[given["prompt_class_id"]] >= 0
        whose = np.concatenate([place[given["prompt_class_id"][prompts]], np.arange(len(classes))])
        yield (
            name,
            {
                "embedding": given["embedding"][images],
                "class_id": place[given["class_id"][images]],
                "split": given["split"][images],
                "class_names": given["class_names"][classes],
                "text_template": given["text_template"][classes],
                "prompts": np.concatenate([given["prompts"][prompts], given["text_template"][classes]]),
                "prompt_class_id": whose,
                "prompt_source": np.full(len(whose), SOURCE),
            },
        )


def prepare(cache: Path, clip: Path) -> None:
    """Make the stores that are missing."""
    if not all(store_of(cache, name, CLIP).exists() for name in ("imagenet", "imagenet-described")):
        made = cache / ".made"
        made.mkdir(parents=True, exist_ok=True)
        for name, found in arrays(clip / "imagenet_few_shot.npz"):
            np.savez(made / f"{name}.npz", **found)
            source = made / f"{name}.npz"
            call("pipeline", "ingest", name, "--source", source, "--encoder-name", CLIP, "--cache", cache)
    missing = [name for name in SMALL if not store_of(cache, name, LITE).exists()]
    for name in missing:
        for step in ("ingest", "import-prompts", "embed-text", "embed-images"):
            call("pipeline", step, *([name] if step == "ingest" else ["--dataset", name]), "--params", FOUR,
                 "--cache", cache)  # fmt: skip


def start(setting: Setting, cache: Path, results: Path, jobs: int, more: Sequence[str]) -> "subprocess.Popen[bytes]":
    """The run of a setting, with its lines in a file.

    Args:
        more: further words of `trainer run`.
    """
    folder = results / setting.name
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "trainer", "run", "--params", FOUR, "--features", cache,
        "--dataset", setting.dataset, "--encoder", setting.encoder, "--protocol", setting.protocol,
        "--shots", setting.shots, "--results", folder, "--jobs", setting.processes(jobs), "--no-report", *more,
    ]  # fmt: skip
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "run.log").open("wb") as log:
        return subprocess.Popen(
            list(map(str, words)), stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **alone}
        )


def run_all(wanted: list[Setting], cache: Path, results: Path, jobs: int, more: Sequence[str] = ()) -> list[str]:
    """Run the settings, never more processes than `jobs`; the names of those that failed."""
    waiting = [s for s in wanted if not (results / s.name / "runs" / s.dataset / "run.json").exists()]
    print(f"{len(wanted)} settings, {len(waiting)} to run", flush=True)
    going: dict[Setting, subprocess.Popen[bytes]] = {}
    failed, began = [], time.monotonic()
    try:
        while waiting or going:
            free = jobs - sum(setting.processes(jobs) for setting in going)
            ready = next((setting for setting in waiting if setting.processes(jobs) <= free), None)
            if ready is not None:
                waiting.remove(ready)
                going[ready] = start(ready, cache, results, jobs, more)
                continue
            time.sleep(STEP)
            for setting in [each for each, process in going.items() if process.poll() is not None]:
                code = going.pop(setting).returncode
                failed += [setting.name] if code else []
                said = f"exit code {code}, see {results / setting.name}/run.log" if code else "done"
                print(f"{time.monotonic() - began:6.0f} s  {setting.name}: {said}", flush=True)
    finally:
        for process in going.values():
            process.terminate()
        for process in going.values():
            process.wait()
    return failed


def main() -> int:
    """Stores, runs, ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--clip", type=Path, default=Path("data/clip-vit-b-32"), metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seeds", default="1,2,3")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the runs end with this command
    wanted = [setting for setting in settings() if asked.only in setting.name]
    prepare(asked.stores, asked.clip)
    more = ["--methods", asked.methods, "--seeds", asked.seeds]
    failed = run_all(wanted, asked.stores, asked.results, max(1, asked.jobs), more)
    folders = [asked.results / s.name for s in wanted if s.name not in failed]
    if folders:
        call("trainer", "ranks", *folders, "--out", asked.results / "ranks")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
