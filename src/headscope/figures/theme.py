"""One look for every figure, and the way from a chart to a file.

In: an Altair chart. Out: a static SVG, and from it a PNG or a PDF, without a network and without a
browser. The background is transparent and the ink is dark: what is stored is for a *light* ground, as paper
is. `dark` exchanges the theme's own colours, one for one, for those of a dark ground; ramps stay, since their
colours are the data. Vega's runtime needs `eval` and .9 MB, so that pages get the finished SVG instead.

Ramps are those that colour-blind readers can order: cividis for amounts (Nunez, Anderton and Renslow
2018), blue to orange with white at 0 for signed values, Okabe and Ito's eight for categories. Colour is
never the only mark: numbers, shapes or words say the same. Not done here: any chart (grids, curves).
"""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

# Metric-compatible on every system, so that text measured here fits where the page is opened.
FONT = "Arial, Liberation Sans, Helvetica, sans-serif"
INK = "#24292f"
MUTED = "#5c6570"
LINE = "#c9ced4"
GRID = "#e4e7ea"
# Between cells; not quite the white of INKS, so that each colour has one meaning and one counterpart.
CELL_EDGE = "#fdfdfd"
UNDEFINED_FILL = "#d5d8dc"
UNDEFINED_STROKE = "#8a9199"

# What is written on a coloured cell, dark or light.
INKS = ("#16191d", "#ffffff")

# Widest drawing that a page shows unscaled; beyond it text would shrink below what can be read.
PAGE_WIDTH = 1000

CIVIDIS = (
    "#002051", "#11366c", "#3c4d6e", "#62646f", "#7f7c75", "#9a9478", "#bbaf71", "#e2cb5c", "#fdea45",
)  # fmt: skip
BLUE_ORANGE = ("#0b4a85", "#3b85c0", "#9cc7e4", "#f3f2ef", "#f5bf87", "#d97b1f", "#8a4106")
# Black last: it is also the ink of axes and reference marks.
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c7a00", "#000000")
_ON_DARK = ("#4a9fe0", "#f0803c", "#2fbf96", "#e0a3c4", "#f0b84a", "#8fd4fa", "#bfae3a", "#f2f2f2")
# Each colour of the theme on a dark ground. Edges of cells stay visible, since blank means "not measured".
DARK = {
    INK: "#e3e5e7",
    MUTED: "#a3acb5",
    LINE: "#4a525b",
    GRID: "#2e343a",
    CELL_EDGE: "#59626b",
    UNDEFINED_FILL: "#343a41",
    UNDEFINED_STROKE: "#8f98a1",
    **dict(zip(OKABE_ITO, _ON_DARK, strict=True)),
}

# Characters in a line of text beside a drawing; more go on in the next line.
LONGEST_LINE = 44

# A character of DejaVu Sans, found where Arial is not, is wider than Arial's by about this many pixels.
_WIDER = 1.2


def finish(chart: alt.TopLevelMixin) -> str:
    """The chart under the theme as SVG; fetches nothing, whatever the data say."""
    svg = vl_convert.vegalite_to_svg(_wrapped(chart.to_dict()), config=_config(), allowed_base_urls=[])
    return _with_room(str(svg))


def wrapped(text: str, width: int = LONGEST_LINE) -> str:
    """The text with no line longer than `width` characters, unless it is one word.

    >>> wrapped("function-vector heads", 15).split("\\n")
    ['function-vector', 'heads']
    """
    return "\n".join(
        textwrap.fill(line, width, replace_whitespace=False, break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )


def _wrapped(part: Any) -> Any:
    """A chart with all that it writes in lines; the same text stays the same wherever it stands."""
    if isinstance(part, dict):
        return {name: _wrapped(value) for name, value in part.items()}
    if isinstance(part, list):
        return list(map(_wrapped, part))
    return wrapped(part) if isinstance(part, str) else part


def dark(svg: str) -> str:
    """A finished figure for a dark ground; text is never touched, whatever it says."""

    def exchanged(tag: re.Match[str]) -> str:
        return re.sub(r'"(#[0-9a-f]{6})"', lambda found: f'"{DARK.get(found[1], found[1])}"', tag[0])

    # Within tags alone: a token may read like an attribute, and in text it is neither "<" nor ">".
    return re.sub(r"<[^>]*>", exchanged, svg)


def to_png(svg: str, *, scale: float = 2.0) -> bytes:
    """A finished figure as PNG, `scale` pixels for each of its units."""
    return bytes(vl_convert.svg_to_png(svg, scale=scale))


def to_pdf(svg: str) -> bytes:
    """A finished figure as a one-page PDF with vector text, for a paper."""
    return bytes(vl_convert.svg_to_pdf(svg))


def ramp_scale(ramp: Sequence[str], low: float, high: float) -> alt.Scale:
    """A colour scale that runs evenly through `ramp`; values outside get the colour of the nearer end."""
    places = [low + (high - low) * step / (len(ramp) - 1) for step in range(len(ramp))]
    return alt.Scale(domain=places, range=list(ramp), interpolate="rgb", clamp=True, nice=False)


def ink_on(ramp: Sequence[str], low: float, high: float, value: float) -> str:
    """Black or white, whichever reads better on the colour that `value` gets.

    >>> ink_on(CIVIDIS, 0.0, 1.0, 0.0), ink_on(CIVIDIS, 0.0, 1.0, 1.0)
    ('#ffffff', '#16191d')
    """
    red, green, blue = colour_at(ramp, (value - low) / (high - low))
    luminance = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    # The ratio to white is 1.05 / (L + .05), that to black (L + .05) / .05: they are equal at L = .18.
    return INKS[0] if luminance > 0.18 else INKS[1]


def colour_at(ramp: Sequence[str], share: float) -> tuple[float, float, float]:
    """Red, green and blue (0 to 255) at `share` (0 to 1) of the ramp, straight between its colours."""
    place = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    index = min(int(place), len(ramp) - 2)
    part = place - index
    start, end = (bytes.fromhex(colour[1:]) for colour in ramp[index : index + 2])
    red, green, blue = (a + (b - a) * part for a, b in zip(start, end, strict=True))
    return red, green, blue


def _with_room(svg: str) -> str:
    """The figure with a margin that holds its longest labels in a wider font than the one it was measured in."""
    texts = re.findall(r'<text text-anchor="(\w+)" transform="([^"]*)"[^>]*>(.*?)</text>', svg)

    def margin(anchor: str, turned: bool) -> int:
        chosen = [text for a, how, text in texts if a == anchor and ("rotate(-90" in how) is turned]
        lines = re.split(r"<[^>]*>", "<>".join(chosen))
        return math.ceil(_WIDER * max(map(len, lines)))

    left, right, below = margin("end", False), margin("start", False), margin("end", True)

    def enlarged(size: re.Match[str]) -> str:
        wide, high = float(size[1]) + left + right, float(size[2]) + below
        return f'width="{wide:g}" height="{high:g}" viewBox="{-left} 0 {wide:g} {high:g}"'

    return re.sub(r'width="[^"]*" height="[^"]*" viewBox="0 0 (\S+) ([^"]+)"', enlarged, svg, count=1)


def _config() -> dict[str, Any]:
    words = {
        "labelColor": INK,
        "titleColor": MUTED,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 0,
    }
    return {
        "background": "transparent",
        # Pages show the SVG as an image with one alternative text; labels on every mark would only weigh.
        "aria": False,
        "font": FONT,
        "padding": 4,
        "lineBreak": "\n",
        "view": {"stroke": None},
        "axis": {
            **words,
            "titlePadding": 6,
            "labelPadding": 4,
            "domainColor": LINE,
            "tickColor": LINE,
            "tickSize": 4,
            "gridColor": GRID,
        },
        "legend": {**words, "titleLimit": 0},
        "header": {
            "labelColor": INK,
            "labelFontSize": 12,
            "labelFontWeight": "bold",
            "labelAnchor": "start",
            "labelPadding": 6,
            "labelLimit": 0,
        },
    }


def _linear(channel: float) -> float:
    share = channel / 255
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)
