"""Checks of signatures under pytest that cost little where no array is named.

jaxtyping's import hook wraps every function twice and binds the arguments of every call, so that
the sizes in `Float[Tensor, "n c"]` agree throughout a call. A signature without such an annotation
needs none of that: beartype alone checks it, 30 times as fast.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping

with_shapes = jaxtyping.jaxtyped  # what the hook applies to every function and class


def install() -> None:
    """Makes modules imported from now on use `check`."""
    jaxtyping.jaxtyped = check


def check(fn: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Checks the calls of a function, or those of a dataclass's `__init__`."""
    if fn is None:
        return partial(check, typechecker=typechecker)
    if dataclasses.is_dataclass(fn):
        fn.__init__ = check(fn.__init__, typechecker=typechecker)
        return fn
    if inspect.isfunction(fn) and not any(map(_needs_shapes, fn.__annotations__.values())):
        return typechecker(fn)
    return with_shapes(fn, typechecker=typechecker)


def _needs_shapes(annotation: Any) -> bool:
    """Whether it names an array; a string may, and only jaxtyping resolves those leniently."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_needs_shapes, get_args(annotation)))
