"""Converts a matplotlib figure to inline SVG in the page's colours, and to a PNG file."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

SIZE_IN = (4.2, 2.9)  # small enough for its text to be readable on a phone
TITLE_IN = 0.3  # the strip above a chart that holds the title in a PNG file; SVG leaves it out
PNG_DPI = 160
POINTS_PER_INCH = 72  # the unit of SVG

# Name → colour in the light and the dark theme. Figures are drawn in the light colours.
PALETTE = {
    "ink": ("#1f2933", "#e6e9ec"),
    "quiet": ("#5b6775", "#9fabb8"),
    "line": ("#dde2e7", "#343b43"),
    "red": ("#d1242f", "#ff7b72"),
    "green": ("#1a7f37", "#56d364"),
    "blue": ("#0b61d8", "#79b8ff"),
    "gray": ("#7d8590", "#b6bfc9"),
    "orange": ("#c2570c", "#ffa657"),
    "teal": ("#0a8585", "#4fd8d2"),
    "purple": ("#8250df", "#d2a8ff"),
    "pink": ("#c43a8d", "#ff9bce"),
    "olive": ("#8a6d00", "#e3b341"),
    "brown": ("#7a4a32", "#d4a58c"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = tuple(name for name in PALETTE if name not in ("ink", "quiet", "line"))

STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than the page's font
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["quiet"],
    "axes.edgecolor": LIGHT["quiet"],
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LIGHT["line"],
    "xtick.color": LIGHT["quiet"],
    "ytick.color": LIGHT["quiet"],
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cdp",
}


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A figure of the report: `name` is its file name, `alt` describes it in words."""

    name: str
    title: str
    figure: Any  # matplotlib's; imported only for drawing
    alt: str


@contextmanager
def axes_of(height_in: float = SIZE_IN[1]) -> Iterator[Any]:
    """Yields axes to draw on, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    whole = height_in + TITLE_IN
    below_title = ConstrainedLayoutEngine(rect=(0, 0, 1, height_in / whole))
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(SIZE_IN[0], whole), layout=below_title).subplots()


def png(chart: Chart) -> bytes:
    """Renders the chart with its title, on white."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        y = 1 - TITLE_IN / 2 / chart.figure.get_figheight()
        title = chart.figure.text(0.02, y, chart.title, va="center", fontweight="bold", fontsize=11)
        file = io.BytesIO()
        chart.figure.savefig(file, format="png", dpi=PNG_DPI)
        title.remove()  # the page shows it as text
        chart.figure.set_layout_engine("none")  # SVG keeps the layout: it takes as long as to draw
    return file.getvalue()


def svg(chart: Chart) -> str:
    """Renders the chart as an `<svg>` element for a page with the style sheet `palette_css()`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        chart.figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(file.getvalue())
    ids = _ids_in_use(root, chart.name)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # it would apply to the whole page
                parent.remove(child)
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]  # HTML has no namespaces
        part.attrib = {
            key.rpartition("}")[2]: _of_page(value, ids)
            for key, value in part.attrib.items()
            if key != "id" or value in ids
        }
        part.text, part.tail = (part.text or "").strip(), ""
    x, y, width, height = map(float, root.attrib["viewBox"].split())
    strip = TITLE_IN * POINTS_PER_INCH
    view = f"{x:g} {y + strip:g} {width:g} {height - strip:g}"
    root.attrib = {"viewBox": view, "role": "img", "aria-label": chart.alt}
    title = ElementTree.Element("title")
    title.text = chart.alt
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def palette_css() -> str:
    """Returns the palette as CSS variables, for light and dark themes."""

    def variables(column: int) -> str:
        return "".join(f"--{name}:{colours[column]};" for name, colours in PALETTE.items())

    dark = f"@media (prefers-color-scheme: dark){{:root{{{variables(1)}}}}}"
    return f":root{{{variables(0)}}}\n{dark}\n"


def _ids_in_use(root: ElementTree.Element, name: str) -> dict[str, str]:
    """Maps the ids that the drawing refers to, to ids that are unique in the page."""
    used = re.findall(r"#(\w+)\)|^#(\w+)$", "\n".join(_values(root)), flags=re.MULTILINE)
    return {old: f"{name}-{i}" for i, old in enumerate(dict.fromkeys(a or b for a, b in used))}


def _values(root: ElementTree.Element) -> Iterator[str]:
    for part in root.iter():
        for key, value in part.attrib.items():
            if key.endswith(("href", "clip-path")):
                yield value


def _of_page(value: str, ids: dict[str, str]) -> str:
    """Rewrites an attribute with the page's ids, colours and font."""
    for name, light in LIGHT.items():
        value = value.replace(light, f"var(--{name})")
    if value in ids:
        return ids[value]
    value = re.sub(r"(url\(#|^#)(\w+)", lambda m: m[1] + ids.get(m[2], m[2]), value)
    return re.sub(r"font-family: [^;]*;? ?", "", value).replace("\n", "")
