"""Charts as SVG, drawn by Vega-Lite without a browser (`vl-convert-python`); nothing runs in the page to show them.

Colours are CSS variables of the page, so that one drawing serves light and dark. The drawing is checked element by
element before it goes into the page: class names are in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from stages import UserError
from trainer.report.page.readable import readable
from trainer.report.tables import role

SVG = "http://www.w3.org/2000/svg"
ELEMENTS = frozenset({"svg", "g", "path", "text", "tspan", "line", "rect", "circle", "defs", "clipPath", "title"})
"""All that a chart may hold: nothing that runs, links or loads."""
FONT = "system-ui, sans-serif"
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelLimit": 0,
        "labelPadding": 5,
        "gridColor": "var(--line)",
        "domain": False,
        "tickColor": "var(--line)",
    },
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--soft)", "labelFontSize": 12, "labelLimit": 0},
}
GEOMETRY = frozenset({"d", "transform", "x", "x1", "x2", "y", "y1", "y2", "width", "height", "viewBox"})
"""Attributes whose numbers are rounded, for the size of the page."""
OURS, PLUS, CONTROL, REFERENCE = "var(--ours)", "var(--plus)", "var(--control)", "var(--reference)"
"""As in `trainer.report.figures`: AAPE, AAPE+, AAPE's controls and variants, baselines."""


def colour(method: str) -> str:
    """The colour of a method."""
    return {"aape": OURS, "aape-plus": PLUS, "variant": CONTROL, "other": REFERENCE}[role(method)]


def draw(spec: dict[str, Any], *, about: str) -> Markup:
    """A Vega-Lite specification as SVG for the page.

    Args:
        about: what a screen reader says in place of the picture.

    Raises:
        ModuleNotFoundError: vl-convert-python is not installed.
        UserError: it cannot be drawn, or the drawing holds an element that no chart needs.
    """
    import vl_convert

    try:
        root = ElementTree.fromstring(vl_convert.vegalite_to_svg({"config": CONFIG, **spec}, vl_version="5.20"))
    except (ValueError, ElementTree.ParseError) as error:
        raise UserError(f"a chart cannot be drawn ({str(error).partition(chr(10))[0][:200]})") from error
    ids = _ids(root, hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:8])
    tips = set(_tips(spec))
    for element in root.iter():
        name = element.tag.removeprefix(f"{{{SVG}}}")
        label = element.attrib.pop("aria-label", None)
        for key in list(element.attrib):
            if key.startswith("aria-") or key == "role":
                del element.attrib[key]  # one picture with one text; what it shows stands in a table
            elif key.lower().startswith("on") or "href" in key.lower():
                raise UserError(f"a chart cannot be shown: it holds the attribute {key}")
            elif key in GEOMETRY:
                element.set(key, re.sub(r"\d+\.\d{3,}", _rounded, element.attrib[key]))
            elif key in ("id", "clip-path"):
                element.set(key, re.sub(r"\w+(?=\)?$)", lambda found: ids.get(found[0], found[0]), element.attrib[key]))
        if name not in ELEMENTS:
            raise UserError(f"a chart cannot be shown: it holds the element {name}")
        if label in tips:
            element.set("data-tip", str(label))
    root.set("role", "img")
    root.set("aria-label", readable(about))
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _ids(root: ElementTree.Element, chart: str) -> dict[str, str]:
    """Names of a chart's own for its parts: Vega counts on from drawing to drawing."""
    found = [name for element in root.iter() if (name := element.get("id")) is not None]
    return {name: f"c{chart}-{at}" for at, name in enumerate(found)}


def _tips(spec: Any) -> Iterator[str]:
    """What the rows of a specification say of themselves; Vega describes other marks in words of its own."""
    if isinstance(spec, dict):
        if isinstance(spec.get("tip"), str):
            yield spec["tip"]
        spec = list(spec.values())
    if isinstance(spec, list):
        for each in spec:
            yield from _tips(each)


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}"


def short(text: str, width: int) -> str:
    """Text on one line of at most so many characters; what is longer loses its middle.

    Vega would cut it itself, and between the two halves of a character too.
    """
    line = readable(text)
    if len(line) <= width:
        return line
    tail = (width - 1) * 2 // 5
    return f"{line[: width - 1 - tail]}…{line[len(line) - tail :]}"


def intervals(rows: Sequence[tuple[str, float, float | None]], *, title: str, about: str) -> Markup:
    """Dots with 95 % intervals, one line a method, best first.

    Args:
        rows: method, mean and half-width in percent.
    """
    ordered = sorted(rows, key=lambda row: -row[1])
    values = [
        {
            "method": name,
            "mean": mean,
            "low": max(0.0, mean - (half or 0)),
            "high": min(100.0, mean + (half or 0)),
            "colour": colour(method),
            "value": f"{mean:.1f}",
            "tip": _tip(readable(method), mean, half),
        }
        for name, (method, mean, half) in zip(apart_names([method for method, *_ in ordered], 34), ordered, strict=True)
    ]
    low = min(max(0.0, mean - (half or 0)) for _, mean, half in rows)
    high = max(min(100.0, mean + (half or 0)) for _, mean, half in rows)
    pad = max(1.0, 0.05 * (high - low))
    domain = [max(0.0, low - pad), min(100.0, high + pad)]
    x: dict[str, Any] = {"type": "quantitative", "scale": {"domain": domain, "nice": False, "zero": False}}
    y = {"field": "method", "type": "nominal", "sort": None, "title": None, "axis": {"grid": False, "ticks": False}}
    own = {"field": "colour", "type": "nominal", "scale": None}
    spec = {
        "width": 470,
        "height": {"step": 23},
        "data": {"values": values},
        "encoding": {"y": y, "color": own, "description": {"field": "tip"}},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2.5, "opacity": 0.55},
                "encoding": {
                    "x": {"field": "low", "title": title, "axis": {"tickCount": 7}, **x},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
                "encoding": {"x": {"field": "mean", **x}},
            },
            {
                "mark": {"type": "text", "align": "right", "fontSize": 12, "font": FONT, "color": "var(--ink)"},
                "encoding": {"x": {"value": 512}, "text": {"field": "value"}, "color": {"value": "var(--ink)"}},
            },
        ],
    }
    return draw(spec, about=about)


def _tip(name: str, mean: float, half: float | None) -> str:
    return f"{name}: {mean:.1f}" + ("" if half is None else f" ± {half:.1f}") + " %"


DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 2, 1, 2])
"""Lines that lie on each other differ."""
HEIGHT, LETTER = 380, 15
"""Pixels: of the chart of lines, and from one name at its right edge to the next."""


def lines(
    rows: Sequence[tuple[str, float, float, float | None]], *, x: str, y: str, about: str, log2: bool = False
) -> Markup:
    """Means by a number, one line a method, AAPE and AAPE+ stronger; the names stand at the lines' ends.

    Args:
        rows: method, place on the x axis, mean and half-width of its 95 % interval, both in percent.
        log2: the x axis is logarithmic.
    """
    methods = list(dict.fromkeys(method for method, *_ in rows))
    best = max(mean for _, _, mean, _ in rows)
    shown = [mean for method, _, mean, _ in rows if colour(method) != CONTROL] or [best]
    bottom, top = max(0.0, min(shown) - 3), min(100.0, best + 2)
    last = max(place for _, place, *_ in rows)
    places = sorted({place for _, place, *_ in rows})
    across = {
        "field": "x",
        "type": "quantitative",
        "title": x,
        "axis": {"values": places, "grid": False, "labelExpr": "'' + datum.value"},
        "scale": {"type": "log", "base": 2, "nice": False} if log2 else {"zero": False, "nice": False},
    }
    up = {
        "field": "y",
        "type": "quantitative",
        "title": y,
        "scale": {"domain": [bottom, top], "nice": False},
        "axis": {"tickCount": 6},
    }
    layers: list[dict[str, Any]] = []
    for number, method in enumerate(methods):
        own, ours = colour(method), colour(method) in (OURS, PLUS)
        points = [
            {"x": place, "y": mean, "tip": _tip(f"{readable(method)}, {x} {place:g}", mean, half)}
            for name, place, mean, half in rows
            if name == method
        ]
        encoding = {"x": across, "y": up, "description": {"field": "tip"}}
        line = {
            "strokeWidth": 2.8 if ours else 1.4,
            "strokeDash": [1, 0] if ours else DASHES[number % len(DASHES)],
            "opacity": 1 if ours else 0.8,
        }
        layers += [
            {
                "data": {"values": points},
                "mark": {"type": "line", "clip": True, "color": own, **line},
                "encoding": {"x": across, "y": up},
            },
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "clip": True, "opacity": 1, "color": own,
                         "size": 55 if ours else 30},
                "encoding": encoding,
            },
        ]  # fmt: skip
    ends = [(mean, method) for method, place, mean, _ in rows if place == last]
    for at, mean, method in apart(ends, least=LETTER * (top - bottom) / HEIGHT, bottom=bottom, top=top):
        name = f"{short(method, 34)} {mean:.1f}"
        strong = "bold" if colour(method) in (OURS, PLUS) else "normal"
        layers.append(
            {
                "data": {"values": [{"x": last, "y": at, "name": name}]},
                "mark": {"type": "text", "align": "left", "dx": 10, "fontSize": 12, "font": FONT, "fontWeight": strong,
                         "color": colour(method).replace(")", "-ink)")},
                "encoding": {"x": across, "y": up, "text": {"field": "name"}},
            }
        )  # fmt: skip
    return draw({"width": 460, "height": HEIGHT, "layer": layers}, about=about)


def apart(
    ends: Sequence[tuple[float, str]], *, least: float, bottom: float, top: float
) -> list[tuple[float, float, str]]:
    """Places for names at the ends of lines, in their order and `least` apart, as near as can be to the ends.

    Returns:
        place, value and name; from the highest down.
    """
    ordered = sorted(ends, key=lambda end: -end[0])
    least = min(least, (top - bottom) / max(1, len(ordered) - 1))
    places: list[float] = []
    for mean, _ in ordered:
        wanted = min(max(mean, bottom), top)
        places.append(min(wanted, places[-1] - least) if places else wanted)
    lowest = bottom
    for number in reversed(range(len(places))):  # pushed below the edge: back up
        places[number] = max(places[number], lowest)
        lowest = places[number] + least
    return [(place, mean, name) for place, (mean, name) in zip(places, ordered, strict=True)]


def heatmap(names: Sequence[str], cells: Sequence[tuple[int, int, int, int]], *, about: str, numbers: bool) -> Markup:
    """Actual classes (rows) by predicted ones (columns): right ones blue, wrong ones orange, darker for more.

    Args:
        names: in the order of rows and columns.
        cells: row, column, images, images of the row; those with images alone.
        numbers: write the counts into the cells.
    """
    shown = apart_names(names, 22 if len(names) > 12 else 30)
    full = [readable(name) for name in names]
    values = [
        {
            "actual": shown[row],
            "predicted": shown[column],
            "n": str(n),
            "share": (0.14 + 0.86 * n / whole) if row == column else (0.28 + 0.72 * n / whole),
            "colour": OURS if row == column else CONTROL,
            "ink": "var(--ink)" if n / whole < 0.65 else "var(--on-ours)" if row == column else "var(--on-control)",
            "tip": (f"{full[row]}: {n} of {whole} right" if row == column
                    else f"{full[row]} taken for {full[column]}: {n} of {whole}"),
        }
        for row, column, n, whole in cells
    ]  # fmt: skip
    step = 40 if len(names) <= 12 else 24 if len(names) <= 40 else 10
    size = 12 if len(names) <= 12 else 11 if len(names) <= 40 else 8.5
    axis = {"grid": False, "ticks": False, "labelFontSize": size, "labelOverlap": False}
    domain = {"domain": shown}
    spec: dict[str, Any] = {
        "width": {"step": step},
        "height": {"step": step},
        "data": {"values": values},
        "encoding": {
            "x": {"field": "predicted", "type": "nominal", "scale": domain, "title": "predicted",
                  "axis": {**axis, "labelAngle": -90 if len(names) > 12 else -40, "titlePadding": 16}},
            "y": {"field": "actual", "type": "nominal", "scale": domain, "title": "actual",
                  "axis": {**axis, "titlePadding": 22}},
        },
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1 if step > 12 else 0.5},
                "encoding": {
                    "color": {"field": "colour", "type": "nominal", "scale": None},
                    "opacity": {"field": "share", "type": "quantitative", "scale": None},
                    "description": {"field": "tip"},
                },
            }
        ],
    }  # fmt: skip
    if numbers:
        spec["layer"].append(
            {
                "mark": {"type": "text", "fontSize": 12, "font": FONT},
                "encoding": {
                    "text": {"field": "n"},
                    "color": {"field": "ink", "type": "nominal", "scale": None},
                    "description": {"field": "tip"},
                },
            }
        )
    return draw(spec, about=about)


def bars(rows: Sequence[tuple[str, float]], *, title: str, about: str) -> Markup:
    """Horizontal bars in percent, in the order of the rows."""
    shown = apart_names([name for name, _ in rows], 34)
    values = [
        {"name": name, "value": value, "tip": f"{readable(full)}: {value:.1f} %"}
        for name, (full, value) in zip(shown, rows, strict=True)
    ]
    spec = {
        "width": 520,
        "height": {"step": 22},
        "data": {"values": values},
        "mark": {"type": "bar", "color": OURS, "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"ticks": False}},
            "x": {"field": "value", "type": "quantitative", "title": title, "scale": {"domain": [0, 100]}},
            "description": {"field": "tip"},
        },
    }
    return draw(spec, about=about)


def reliability(rows: Sequence[tuple[float, float, int]], *, about: str) -> Markup:
    """Accuracy by confidence, with the line on which both are the same.

    Args:
        rows: mean confidence, accuracy (fractions of 1) and images of each bin that has any.
    """
    values = [
        {"confidence": 100 * c, "accuracy": 100 * a, "n": n,
         "tip": f"confidence {100 * c:.0f} %, accuracy {100 * a:.0f} %, {n} images"}
        for c, a, n in rows
    ]  # fmt: skip
    domain = {"domain": [0, 100]}
    x = {"field": "confidence", "type": "quantitative", "scale": domain, "title": "mean confidence (percent)"}
    y = {"field": "accuracy", "type": "quantitative", "scale": domain, "title": "accuracy (percent)"}
    diagonal = [{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}]
    spec = {
        "width": 380,
        "height": 380,
        "layer": [
            {"data": {"values": diagonal}, "mark": {"type": "line", "color": "var(--soft)", "strokeDash": [4, 4]},
             "encoding": {"x": x, "y": y}},
            {"data": {"values": values}, "mark": {"type": "line", "color": OURS, "strokeWidth": 2},
             "encoding": {"x": x, "y": y}},
            {"data": {"values": values}, "mark": {"type": "circle", "color": OURS, "opacity": 1},
             "encoding": {"x": x, "y": y, "description": {"field": "tip"},
                          "size": {"field": "n", "type": "quantitative", "legend": None,
                                   "scale": {"range": [30, 320], "zero": False}}}},
        ],
    }  # fmt: skip
    return draw(spec, about=about)


def apart_names(names: Sequence[str], width: int) -> list[str]:
    """Short names none of which reads like another: Vega-Lite would draw two of one name as one."""
    found: list[str] = []
    for name in names:
        ends = (f" ({number})" for number in count(2))
        shown = short(name, width)
        while shown in found:
            shown = short(name, width - 4) + next(ends)
        found.append(shown)
    return found
