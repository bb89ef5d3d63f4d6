"""Checks calls of the packages' functions under pytest: types by beartype, and shapes by jaxtyping.

jaxtyping's own import hook costs 40 % of the suite: it copies every function twice, binds the
arguments of every call, and makes Python compile the libraries that a module imports. This one
lets beartype alone check signatures without arrays, and puts a context for the sizes around the
others, so that `n` in `Float[Tensor, "n c"]` is one number throughout a call. Of those, a process
checks the first calls of each function.
"""

import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args


def install(*packages: str) -> None:
    """Makes calls of functions in modules of `packages` checked that are imported from now on."""
    sys.meta_path.insert(0, _Finder(packages))


class _Finder:
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compiles the source; the bytecode on disk is of unchecked functions."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                decorator = ast.copy_location(ast.Name("__check__", ast.Load()), node)
                first = isinstance(node, ast.ClassDef)  # @dataclass has made its __init__ by then
                node.decorator_list.insert(0 if first else len(node.decorator_list), decorator)
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__check__"] = check
        super().exec_module(module)


def check(fn: Any) -> Any:
    """Checks the calls of a function, or those of a dataclass's `__init__`."""
    from beartype import beartype
    from jaxtyping import AbstractArray, jaxtyped

    if dataclasses.is_dataclass(fn):
        fn.__init__ = check(fn.__init__)
    if not inspect.isfunction(fn):
        return fn
    parts = list(_parts(fn.__annotations__.values()))
    arrays = [p for p in parts if inspect.isclass(p) and issubclass(p, AbstractArray)]
    leniently = any(isinstance(part, str) for part in parts)  # names that only mypy can resolve
    by_argument = any("{" in array.dim_str for array in arrays)
    if leniently or by_argument or (arrays and inspect.isgeneratorfunction(fn)):
        return jaxtyped(fn, typechecker=beartype)
    checked = _checked(fn)
    return _with_sizes(fn, checked) if arrays else checked


ENOUGH = 500  # calls of a function with arrays that a process checks; later ones run unchecked
_FIRST: dict[CodeType, tuple[Any, Any]] = {}  # an inner function's first closure; it, checked
_TARGET = "__beartype_func"  # the argument of beartype's wrappers that holds what they call


def _checked(fn: Any) -> Any:
    """`beartype(fn)`, of which closures of the same code share the checks.

    An inner function is made anew in each call of the outer one; to check it takes a millisecond.
    """
    from beartype import beartype

    if "<locals>" not in fn.__qualname__:
        return beartype(fn)
    if fn.__code__ not in _FIRST:
        _FIRST[fn.__code__] = fn, beartype(fn)
        return _FIRST[fn.__code__][1]
    first, checked = _FIRST[fn.__code__]
    known = checked.__kwdefaults__ or {}
    if _TARGET not in known or first.__annotations__ != fn.__annotations__:
        return beartype(fn)
    twin = FunctionType(checked.__code__, checked.__globals__, argdefs=checked.__defaults__)
    twin.__kwdefaults__ = known | {_TARGET: fn}
    return functools.update_wrapper(twin, fn)


def _with_sizes(fn: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    from jaxtyping import config, jaxtyped

    num_calls = 0

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        if config.jaxtyping_disable or num_calls == ENOUGH:
            return fn(*args, **kwargs)
        num_calls += 1
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return call


def _parts(annotations: Any) -> Iterator[Any]:
    for annotation in annotations:
        yield annotation
        yield from _parts(get_args(annotation))
