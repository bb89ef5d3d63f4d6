"""HTML by pure functions: whatever is not `Markup` is escaped, so no name can break the page."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.reporting.drawing import Chart, palette_css, svg

VOID = ("img", "meta")


class Markup(str):
    """HTML; a plain `str` is text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: `name` is its id; a sentence, then charts, then whatever else."""

    name: str
    title: str
    lead: str
    charts: tuple[Chart, ...] = ()
    more: Markup = field(default=Markup())


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """`<tag>content</tag>`; `class_` stands for class, `aria_label` for aria-label."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(content)}</{tag}>")


def joined(parts: Iterable[str]) -> Markup:
    """Parts one after another, text escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


def with_code(text: str) -> Markup:
    """Text whose `commands` stand between backticks."""
    return joined(element("code", p) if i % 2 else p for i, p in enumerate(text.split("`")))


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table in a box of its own that scrolls; the first cell of a row is its heading."""
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    ]
    content = element(
        "table",
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", *body),
    )
    # What scrolls must be reached with the keyboard, and then wants a name.
    return element("div", content, class_="scrolls", role="region", aria_label=label, tabindex="0")


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Names with what they are, as a list of definitions."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", what)) for name, what in pairs),
        class_="facts",
    )


def folded(summary: str, *content: str, **attributes: str) -> Markup:
    """What opens at a click, without a script."""
    return element("details", element("summary", summary), *content, **attributes)


def picture(jpeg: bytes, alt: str, width: int, height: int) -> Markup:
    """A JPEG inside the page; `width` and `height` in pixels."""
    data = base64.b64encode(jpeg).decode()
    return element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt=alt,
        width=str(width),
        height=str(height),
    )


def page(title: str, header: Markup, sections: Sequence[Section]) -> str:
    """The whole document: no script, nothing from elsewhere."""
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
