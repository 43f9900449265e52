"""Pictures that nobody can learn from: unreadable, of one colour, tiny, dark, bright, blurred.

Light and sharpness differ between kinds of pictures: a sea is darker and smoother than a town. What is dark or blurred
is therefore told by the absolute measure and against the other images of the class (robust standard deviations).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from pipeline.audit.finding import Finding
from pipeline.audit.measures import Measures
from pipeline.audit.neighbours import robust_z

BLANK = 0.001
"""Contrast of a picture of one colour."""
TINY = 32
"""Pixels of the shorter side, unless the median image of the set is hardly larger."""
TINY_SHARE = 0.25
"""Share of the set's median shorter side."""
DARK, VERY_DARK = 0.25, 0.06
"""Luminance that 1 % of the pixels exceed."""
BRIGHT = 0.9
"""Luminance that 5 % of the pixels fall below."""
UNUSUAL = -3.0
"""Robust standard deviations below the median of the class."""
SHARP = 0.05
"""Sharpness above which nothing is called blurred."""
FEWEST = 8
"""Images that a class needs for its median to say what is usual; smaller classes are compared with the whole set."""


def quality(
    image_ids: Sequence[str],
    measures: Sequence[Measures],
    classes: Sequence[str | None],
    unreadable: Mapping[str, str],
) -> tuple[list[Finding], dict[str, float]]:
    """Findings about single pictures, at most one an image, and the limits that were used.

    Args:
        unreadable: image id -> why, as ingest found.
    """
    found = [Finding("unreadable", 1.0, image_id, why[:200]) for image_id, why in unreadable.items()]
    found += [
        Finding("unreadable", 1.0, image_id, each.error[:200])
        for image_id, each in zip(image_ids, measures, strict=True)
        if each.error is not None
    ]
    there = [place for place, each in enumerate(measures) if each.error is None]
    if not there:
        return found, {}
    sides = np.array([min(measures[place].width, measures[place].height) for place in there])
    smallest = max(TINY_SHARE * float(np.median(sides)), min(TINY, 0.5 * float(np.median(sides))))
    groups = [classes[place] for place in there]
    light = _within(np.log([max(measures[place].brightest, 1e-3) for place in there]), groups)
    sharp = _within(np.log([max(measures[place].sharpness, 1e-4) for place in there]), groups)
    for place, side, z_light, z_sharp in zip(there, sides.tolist(), light.tolist(), sharp.tolist(), strict=True):
        told = _told(measures[place], side, smallest, z_light, z_sharp)
        if told is not None:
            kind, score, detail = told
            found.append(Finding(kind, round(float(np.clip(score, 0, 1)), 4), image_ids[place], detail))
    return found, {"tiny_below_pixels": round(smallest, 1)}


def _told(each: Measures, side: int, smallest: float, light: float, sharp: float) -> tuple[str, float, str] | None:
    """Kind, score and detail of what is wrong with a picture."""
    if each.contrast < BLANK:
        return "blank", 1.0, "one colour"
    if side < smallest:
        return "tiny", 1 - side / (2 * smallest), f"{each.width}x{each.height} pixels (usual: {smallest:.0f} and more)"
    if each.brightest < VERY_DARK or (each.brightest < DARK and light < UNUSUAL):
        return "dark", 1 - each.brightest / (2 * DARK), f"99 % of the pixels are below {each.brightest:.0%} of white"
    if each.darkest > BRIGHT:
        return (
            "bright",
            0.5 + (each.darkest - BRIGHT) / 0.2,
            f"95 % of the pixels are above {each.darkest:.0%} of white",
        )
    if sharp < UNUSUAL and each.sharpness < SHARP:
        return "blurred", 1 - 1 / -sharp, f"{-sharp:.1f} deviations less sharp than the other images of its class"
    return None


def _within(values: Float[np.ndarray, " images"], groups: Sequence[str | None]) -> Float[np.ndarray, " images"]:
    """Robust deviations from the median of the class, or of all where the class is small."""
    places: dict[str | None, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    whole = robust_z(values)
    for some in places.values():
        if len(some) >= FEWEST:
            whole[some] = robust_z(values[some])
    return whole
