"""Accuracy against labels: the images that `trainer suggest` picks, and images drawn at random (docs/data-loop.md).

    python examples/suggest_curves.py --features cache --out results/suggest NAME:10,20,40,80,160 ...

For each seed three quarters of the training images are the pool, without a label to begin with. In each round both ways
add labels up to the next number; the same classifier is fitted on them (linear discriminant analysis, as where nothing
is trained) and judged on the test images. `curves.csv` has every run; `curves.png` the means with their 95 % intervals.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from stages import ImageStore, ManifestStore
from stages.stores.artifacts import encoder_of
from trainer.suggest.choose import choose, cover_by, margin_doubt, quick_classifier, width_of

WAYS = ("suggest", "random")


def load(cache: Path, name: str, encoder: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Embeddings and labels of the train and the test split."""
    store = ImageStore(cache, name, encoder_of(cache, name, encoder))
    table = store.read(["view", "class_id", "split"])
    first, ids = table["view"].to_numpy() == 0, table["class_id"].to_numpy()
    labels = np.unique(ids, return_inverse=True)[1]
    splits = np.array(table["split"].to_pylist())
    vectors = store.embeddings().astype(np.float32)
    found = {}
    for split in ("train", "test"):
        kept = first & (splits == split)
        images = torch.nn.functional.normalize(torch.from_numpy(vectors[kept]), dim=1)
        found[split] = images, torch.from_numpy(labels[kept])
    return found


def picked(
    way: str, pool: torch.Tensor, labels: torch.Tensor, have: list[int], n: int, rng: np.random.Generator
) -> list[int]:
    """n further images of the pool."""
    free = [place for place in range(len(pool)) if place not in set(have)]
    if way == "random":
        return [int(place) for place in rng.choice(free, n, replace=False)]
    known = torch.tensor(have, dtype=torch.long)
    doubt = torch.ones(len(free))
    if len(labels[known].unique()) > 1:
        _, own = labels[known].unique(return_inverse=True)
        doubt = margin_doubt(quick_classifier(pool[known], own)(pool[free]))
    width = width_of(pool[free])
    cover = cover_by(iter([pool[known]] if have else []), pool[free], width)
    return [free[place] for place in choose(pool[free], pool[free], doubt, cover, n=n, width=width).index]


def accuracy(
    pool: torch.Tensor, labels: torch.Tensor, have: list[int], test: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Of the classifier fitted on what has a label, on the test images; classes without a label count as wrong."""
    there, own = labels[have].unique(return_inverse=True)
    said = there[quick_classifier(pool[have], own)(test[0]).argmax(1)] if len(there) > 1 else there.expand(len(test[0]))
    return float((said == test[1]).double().mean())


def run(cache: Path, name: str, encoder: str, budgets: list[int], seeds: list[int]) -> list[dict[str, object]]:
    """Every number of labels, way and seed, on one data set."""
    data = load(cache, name, encoder)
    images, labels = data["train"]
    rows: list[dict[str, object]] = []
    for seed in seeds:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(images))[: len(images) * 3 // 4])
        pool, own = images[drawn], labels[drawn]
        for way in WAYS:
            rng, have = np.random.default_rng([seed, 1]), list[int]()
            for budget in budgets:
                have += picked(way, pool, own, have, budget - len(have), rng)
                value = accuracy(pool, own, have, data["test"])
                classes = len(own[have].unique())
                rows.append(
                    {"dataset": name, "way": way, "seed": seed, "labels": budget, "classes": classes, "accuracy": value}
                )
    return rows


def summary(
    rows: list[dict[str, object]], names: list[str]
) -> list[tuple[str, int, dict[str, tuple[float, float, float]]]]:
    """For each set and number of labels: way -> mean accuracy, half of its 95 % interval, classes seen."""
    found = []
    for name in names:
        for budget in sorted({int(str(row["labels"])) for row in rows if row["dataset"] == name}):
            ways = {}
            for way in WAYS:
                some = [row for row in rows if (row["dataset"], row["labels"], row["way"]) == (name, budget, way)]
                values = np.array([float(str(row["accuracy"])) for row in some])
                half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
                ways[way] = (
                    float(values.mean()),
                    float(half),
                    float(np.mean([int(str(row["classes"])) for row in some])),
                )
            found.append((name, budget, ways))
    return found


def plot(
    found: list[tuple[str, int, dict[str, tuple[float, float, float]]]], names: list[str], file: Path, seeds: int
) -> None:
    """One panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(names), figsize=(4.4 * len(names), 3.6), squeeze=False, constrained_layout=True
    )
    for panel, name in zip(panels[0], names, strict=True):
        own = [(budget, ways) for dataset, budget, ways in found if dataset == name]
        x = [budget for budget, _ in own]
        for way, colour, label in (("suggest", "#2563a8", "trainer suggest"), ("random", "#8a8a8a", "drawn at random")):
            mean = np.array([ways[way][0] for _, ways in own]) * 100
            half = np.array([ways[way][1] for _, ways in own]) * 100
            panel.plot(x, mean, marker="o", color=colour, label=label)
            panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
        panel.set(title=name, xlabel="labelled images", ylabel="test accuracy, %", xscale="log", xticks=x)
        panel.set_xticklabels([str(budget) for budget in x])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[0][0].legend(loc="lower right", frameon=False)
    figure.suptitle(
        f"Labels that are asked for are worth more than random ones (mean and 95 % interval, {seeds} seeds)",
        fontsize=10,
    )
    figure.savefig(file, dpi=130)


def main(line: list[str] | None = None) -> None:
    """Read the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME:LABELS,LABELS,...")
    parser.add_argument("--features", type=Path, default=Path("cache"))
    parser.add_argument("--encoder", default="lite")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--out", type=Path, default=Path("results/suggest"))
    args = parser.parse_args(line)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows: list[dict[str, object]] = []
    names = []
    for given in args.sets:
        name, _, budgets = given.partition(":")
        names.append(name)
        ManifestStore(args.features, name).require()
        rows += run(args.features, name, args.encoder, [int(each) for each in budgets.split(",")], seeds)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = summary(rows, names)
    plot(found, names, args.out / "curves.png", len(seeds))
    print("| data set | labels | suggest | random | classes seen: suggest | random |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, budget, ways in found:
        cells = [f"{100 * ways[way][0]:.1f} ± {100 * ways[way][1]:.1f}" for way in WAYS]
        print(f"| {name} | {budget} | {cells[0]} | {cells[1]} | {ways['suggest'][2]:.1f} | {ways['random'][2]:.1f} |")


if __name__ == "__main__":
    main()
