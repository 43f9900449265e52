"""Accuracy by the share of wrong labels."""

from stages.numbers import most
from trainer.report.page.blocks import Section
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections.shots import over


def section(of: DataSet) -> Section | None:
    """Label-noise with several shares, of the largest number of shots; None with one."""
    known = of.record.protocols.items()
    noisy = {key: about for key, about in known if about.noise is not None and key in of.estimates}
    shots = max((about.shots for about in noisy.values()), key=most, default=None)
    shares = {key: round(100 * (about.noise or 0), 6) for key, about in noisy.items() if about.shots == shots}
    keys = sorted(shares, key=lambda key: shares[key])
    if len(keys) < 2:
        return None
    heads = [f"{shares[key]:g} %" for key in keys]
    blocks = over(of, keys, shares, heads, by="wrong labels", x="percent of wrong labels", log2=False)
    return Section(
        "noise", "Accuracy by wrong labels", blocks,
        "What wrong labels among training and validation images cost; the labels of the test images are right.",
    )  # fmt: skip
