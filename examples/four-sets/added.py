"""Classes added by name: the table of docs/confidence.md, from photographs and by the commands that a person types.

    python examples/four-sets/added.py data/caltech101-small FOLDER

Leaves five classes out of Caltech101, learns the other 95 in FOLDER, adds the five by name and judges their test images
among all 100 classes, with sentences and with the template alone; beside it one test image of each of the 95 classes.
"""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

FIVE = ["ceiling_fan", "hedgehog", "lobster", "pizza", "saxophone"]
METHODS = ["aape-plus", "cupl", "gda", "zero-shot", "aape", "clip-adapter", "tip-adapter-f"]
SENTENCES = Path(__file__).parents[1] / "caltech101" / "descriptions.json"
NAMES = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"}


def call(*words: object, cwd: Path) -> str:
    """A command's output."""
    return subprocess.run(list(map(str, words)), cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def prepare(source: Path, folder: Path) -> None:
    """FOLDER/known: train, val and test of 95 classes; FOLDER/held and FOLDER/rest: what is judged; the sentences."""
    for split in ("train", "val", "test"):
        for place in sorted((source / split).iterdir()):
            if place.name not in FIVE:
                link(place, folder / "known" / split / place.name)
            elif split == "test":
                link(place, folder / "held" / place.name)
            if split == "test" and place.name not in FIVE:
                first = sorted(place.iterdir())[0]
                link(first, folder / "rest" / place.name / first.name)
    written = json.loads(SENTENCES.read_text())
    for name, kept in (("five", True), ("known", False)):
        chosen = {each: lines for each, lines in written.items() if (each in FIVE) == kept}
        (folder / f"{name}.json").write_text(json.dumps(chosen))


def link(source: Path, place: Path) -> None:
    """A link where there is none yet."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(source.resolve())


def right(folder: Path, images: str, method: str, *more: object) -> float:
    """The share of the images below a folder whose likeliest class is that of their folder."""
    files = sorted((folder / images).glob("*/*"))
    said = call("trainer", "predict", *files, "--method", method, "--csv", *more, cwd=folder)
    found = {Path(row["path"]): row["class_1"] for row in csv.DictReader(io.StringIO(said))}
    hits = [found[file] == NAMES.get(file.parent.name, file.parent.name) for file in files]
    return float(sum(hits) / len(hits))


def main(source: Path, folder: Path) -> None:
    """Prepare, learn, and print the table."""
    prepare(source, folder)
    settings = {
        "datasets": ["known"],
        "data": {"known": {"source": "known", "class_names": NAMES}},
        "imports": [{"dataset": "known", "name": "written", "file": "known.json"}],
        "evaluation": {"protocols": ["few-shot"], "methods": METHODS, "seeds": [1]},
    }
    (folder / "params.yaml").write_text(json.dumps(settings))
    for step in ("ingest", "import-prompts", "embed-text", "embed-images"):
        call("pipeline", step, cwd=folder)
    call("trainer", "run", "--no-report", cwd=folder)
    names = [word for name in FIVE for word in ("--add-class", name)]
    print("| method | added, with sentences | with the template | the 95: before | after |")
    for method in METHODS:
        with_sentences = [*names, "--prompts", "five.json"]
        shares = (
            right(folder, "held", method, *with_sentences),
            right(folder, "held", method, *names),
            right(folder, "rest", method),
            right(folder, "rest", method, *with_sentences),
        )
        print(f"| `{method}` | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
