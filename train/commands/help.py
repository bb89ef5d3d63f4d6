"""`tyro.cli` with help texts that are wrapped at the terminal's width.

tyro does not wrap descriptions, and keeps a docstring's line breaks where the next line is indented
or does not begin with a letter. So descriptions are printed here, and an option's text is passed as
a single line.
"""

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Callable, Iterable
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")
INDENT = "  "
NARROWEST = 40  # columns


def cli(
    parse: Callable[..., T],
    prog: str,
    args: list[str],
    description: str | None = None,
    default: T | None = None,
) -> T:
    """Calls `tyro.cli`, after preparing the help texts if `args` ask for them.

    The description's paragraphs are separated by empty lines; for lists see `listed`.
    """
    import tyro

    more: dict[str, Any] = {} if default is None else {"default": default}
    if {"-h", "--help"} & set(args):
        about, _, options = inspect.cleandoc(parse.__doc__ or "").partition("\n\nArgs:\n")
        print(f"{wrapped(about if description is None else description)}\n")
        if options:
            joined = re.sub(r"\n {5,}", " ", options)
            inspect.unwrap(parse).__doc__ = f"{about}\n\nArgs:\n{joined}"  # jaxtyping may wrap it
        _prepare_fields(parse, default)
        more["description"] = ""
    # without the marker, tyro reads and tokenizes the source of each field that has no docstring
    more["config"] = (tyro.conf.HelptextFromCommentsOff,)
    return tyro.cli(parse, prog=prog, args=args, **more)


def wrapped(text: str) -> str:
    """Fills each paragraph, except lists, to the terminal's width."""
    paragraphs = re.split(r"\n\n+", text.strip("\n"))
    return "\n\n".join(part if "\n " in part else _filled(part) for part in paragraphs)


def listed(heading: str, entries: Iterable[str], hang: int = 0) -> str:
    """Returns a list for a description; an entry's further lines are indented by `hang` more."""
    lines = [_filled(entry, INDENT, INDENT + hang * " ") for entry in entries]
    return "\n".join([f"{heading}:", *lines])


def _filled(text: str, first: str = "", others: str = "") -> str:
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    wrapper = textwrap.TextWrapper(
        width, first, others, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(text)


def _prepare_fields(kind: Any, default: Any = None) -> None:
    """Gives options that are dataclass fields, also nested ones, their docstring as one line."""
    docs = _docs_of(kind) if isinstance(kind, type) else {}
    fields = {f.name: f for f in dataclasses.fields(kind)} if docs else {}
    for name, doc in docs.items():
        if name in fields:
            known = fields[name].metadata
            fields[name].metadata = MappingProxyType({**known, "help": " ".join(doc.split())})
    for name, hint in typing.get_type_hints(kind).items():
        value = getattr(default, name, None)
        inner = type(value) if dataclasses.is_dataclass(value) else hint
        if dataclasses.is_dataclass(inner):
            _prepare_fields(inner, value)


def _docs_of(kind: type) -> dict[str, str]:
    """Returns the docstrings below the fields of a class and of those that it inherits from."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # has no source
            continue
        for node, below in pairwise(getattr(tree, "body", [])):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match below:
                    case ast.Expr(ast.Constant(str(doc))):
                        docs[node.target.id] = doc
    return docs
