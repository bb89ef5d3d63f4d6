"""One line of `cdp doctor`, and how a part that fails becomes one instead of a traceback."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import in_one_line

State = Literal["ok", "low", "off", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and why it is so or what to do about it."""

    name: str
    value: str
    state: State = "ok"
    why: str = ""


Part = Callable[[], list[Check]]


def examine(parts: dict[str, Part]) -> list[Check]:
    """The checks of all parts, in order; a part that raises becomes one check that says so."""
    checks: list[Check] = []
    for name, part in parts.items():
        try:
            checks += part()
        except Exception as error:  # a broken installation raises anything
            why = f"{type(error).__name__}: {in_one_line(error)}"
            checks.append(Check(name, "", "failed", why))
    return checks
