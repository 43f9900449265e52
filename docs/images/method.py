"""The drawing of the method in README, for light and for dark pages: `python docs/images/method.py`.

Two SVG files of one layout; only the palette differs. Text stays text, so that it can be searched and read aloud.
"""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1000, 464
PALETTES = {
    "light": {"ink": "#1f2328", "soft": "#59636e", "box": "#ffffff", "frozen": "#eef1f4", "learnt": "#dbeafe",
              "line": "#59636e", "accent": "#0a58ca", "band": "#f6f8fa", "edge": "#d1d9e0"},
    "dark": {"ink": "#f0f6fc", "soft": "#9ea7b3", "box": "#151b23", "frozen": "#262c36", "learnt": "#10315e",
             "line": "#9ea7b3", "accent": "#6cb6ff", "band": "#0d1117", "edge": "#3d444d"},
}  # fmt: skip
TITLE = "AAPE in one picture"
ABOUT = (
    "In training, a language model's sentences about a class are embedded by frozen CLIP and aggregated by attention "
    "into one embedding p^a. The generator h learns to predict p^a from an image embedding x alone. The classifier g "
    "adapts the class text w_c by h(x); the class whose adapted text has the largest cosine to x wins. At inference "
    "only h and g run."
)


class Drawing:
    """Boxes, arrows and labels as SVG elements in one palette."""

    def __init__(self, colours: dict[str, str]) -> None:
        self.c = colours
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, *, size: int = 14, kind: str = "ink", anchor: str = "middle",
             bold: bool = False) -> None:  # fmt: skip
        """One line of words around (x, y)."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{self.c[kind]}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def band(self, y: float, height: float, title: str, note: str) -> None:
        """A row of the picture, with its title."""
        self.parts.append(
            f'<rect x="8" y="{y}" width="{WIDTH - 16}" height="{height}" rx="10" fill="{self.c["band"]}" '
            f'stroke="{self.c["edge"]}"/>'
        )
        self.text(24, y + 26, title, size=15, anchor="start", bold=True)
        self.text(230, y + 26, note, size=13, kind="soft", anchor="start")

    def box(self, x: float, y: float, width: float, name: str, *notes: str, kind: str = "box") -> None:
        """A box with its top left corner at (x, y), 64 high."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="64" rx="8" fill="{self.c[kind]}" '
            f'stroke="{self.c["accent" if kind == "learnt" else "line"]}" stroke-width="1.4"/>'
        )
        top = y + 37 - 9 * len(notes)
        self.text(x + width / 2, top, name, size=15, bold=True)
        for number, note in enumerate(notes, 1):
            self.text(x + width / 2, top + 19 * number, note, size=12, kind="soft")

    def arrow(self, *points: tuple[float, float], dashed: bool = False, kind: str = "line") -> None:
        """A line through these points with a head at its end."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{self.c[kind]}" stroke-width="1.8"{dash} marker-end="url(#{kind})"/>'
        )

    def svg(self) -> str:
        """The whole file."""
        heads = "".join(
            f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{self.c[kind]}"/></marker>'
            for kind in ("line", "accent")
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n<title>{escape(TITLE)}</title>\n'
            f"<desc>{escape(ABOUT)}</desc>\n<defs>{heads}</defs>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )


def draw(colours: dict[str, str]) -> str:
    """The picture in one palette."""
    d = Drawing(colours)
    d.band(8, 158, "Training only", "what a language model knows about the class")
    d.box(24, 72, 130, "class name", '"a textile fault"')
    d.box(184, 72, 146, "language model", "through vLLM, once")
    d.box(360, 72, 142, "sentences", "20 to 90 a class")
    d.box(536, 72, 132, "CLIP text", "frozen, cached", kind="frozen")
    d.box(716, 72, 150, "aggregator", "attention over P", kind="learnt")
    for left, right in ((154, 184), (330, 360), (502, 536), (668, 716)):
        d.arrow((left, 104), (right, 104))
    d.text(692, 96, "P", size=15, bold=True)
    d.arrow((866, 104), (916, 104))
    d.text(944, 110, "pᵃ", size=22, kind="accent", bold=True)
    d.band(182, 274, "Training and inference", "no language model and no aggregator: the image encoder, h and g")
    d.box(24, 246, 130, "image", "16 a class")
    d.box(188, 246, 138, "CLIP image", "frozen, cached", kind="frozen")
    d.box(716, 246, 150, "generator h", "33k numbers", kind="learnt")
    d.arrow((154, 278), (188, 278))
    d.arrow((326, 278), (716, 278))
    d.text(345, 269, "x", size=17, bold=True)
    d.arrow((866, 278), (910, 278))
    d.text(944, 285, "h(x)", size=20, kind="accent", bold=True)
    d.arrow((944, 256), (944, 124), dashed=True, kind="accent")
    d.text(934, 154, "h learns to say what pᵃ says", size=13, kind="accent", anchor="end")
    d.box(716, 346, 150, "classifier g", "adapts each class", kind="learnt")
    d.arrow((944, 296), (944, 378), (866, 378))
    d.box(188, 346, 138, "class text w", "“a photo of a ...”", kind="frozen")
    d.box(440, 346, 180, "largest cosine wins", "softmax cos(x, w(x)) / τ")
    d.arrow((257, 410), (257, 434), (791, 434), (791, 410))
    d.text(524, 428, "w of every class", size=12, kind="soft")
    d.arrow((716, 378), (620, 378))
    d.text(668, 369, "w(x)", size=15, bold=True)
    d.arrow((530, 278), (530, 346))
    d.arrow((440, 378), (396, 378))
    d.text(360, 383, "class", size=15, bold=True)
    return d.svg()


def main() -> None:
    """Write both files."""
    for name, colours in PALETTES.items():
        (HERE / f"method-{name}.svg").write_text(draw(colours), encoding="utf-8")


if __name__ == "__main__":
    main()
