"""Pure functions that make HTML; they escape everything that is not `Markup`."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.reporting.drawing import Chart, palette_css, svg

VOID = ("img", "meta")


class Markup(str):
    """HTML, as opposed to text in a plain `str`."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with `name` as its id: lead text, then charts, then other content."""

    name: str
    title: str
    lead: str
    charts: tuple[Chart, ...] = ()
    more: Markup = field(default=Markup())


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """Returns `<tag>content</tag>`; write `class_` for class and `aria_label` for aria-label."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(content)}</{tag}>")


def joined(parts: Iterable[str]) -> Markup:
    """Concatenates parts, escaping text."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


def with_code(text: str) -> Markup:
    """Returns text with the parts between backticks as code."""
    return joined(element("code", p) if i % 2 else p for i, p in enumerate(text.split("`")))


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Returns a table in a scrollable box; the first cell of a row is its heading."""
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    ]
    content = element(
        "table",
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", *body),
    )
    # A scrollable box must be focusable by keyboard, and then needs a label.
    return element("div", content, class_="scrolls", role="region", aria_label=label, tabindex="0")


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Returns (name, value) pairs as a definition list."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", what)) for name, what in pairs),
        class_="facts",
    )


def folded(summary: str, *content: str, **attributes: str) -> Markup:
    """Returns content that opens at a click, without a script."""
    return element("details", element("summary", summary), *content, **attributes)


def picture(jpeg: bytes, alt: str, width: int, height: int) -> Markup:
    """Returns an embedded JPEG; `width` and `height` in pixels."""
    data = base64.b64encode(jpeg).decode()
    return element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt=alt,
        width=str(width),
        height=str(height),
    )


def page(title: str, header: Markup, sections: Sequence[Section]) -> str:
    """Returns the whole document, without scripts or external resources."""
    style = palette_css() + Path(__file__).with_name("page.css").read_text()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    links = [element("a", section.title, href=f"#{section.name}") for section in sections]
    nav = [element("nav", *links, aria_label="Sections")] if len(links) > 1 else []
    body = element(
        "body",
        element("header", header, *nav),
        element("main", *map(_section, sections)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _section(section: Section) -> Markup:
    charts = [
        element(
            "figure",
            element("figcaption", chart.title),
            Markup(svg(chart)),
            id=f"chart-{chart.name}",
            class_="chart",
        )
        for chart in section.charts
    ]
    return element(
        "section",
        element("h2", section.title),
        *([element("p", section.lead)] if section.lead else []),
        *([element("div", *charts, class_="charts")] if charts else []),
        section.more,
        id=section.name,
    )
