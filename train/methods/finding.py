"""Finds a method by its name, or in a user's own file, as given on the command line."""

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import cast

from pipeline.errors import InputError, in_one_line
from train.methods.base import Method

HERE = Path(__file__).parent
NOT_METHODS = ("__init__", "base", "finding")
OWN = "own_method_"  # the name of an own method's module begins so
own_module: list[ModuleType] = []  # of the method file that was named last, if any


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a method's class comes from, as `config.json` says it."""

    name: str  # of the file, without .py
    sha256: str | None = None  # of a user's own file; None: it is one of train/methods/


def names() -> list[str]:
    """The methods of this package: their files' names, with - for _."""
    files = (file.stem for file in HERE.glob("*.py") if file.stem not in NOT_METHODS)
    return sorted(stem.replace("_", "-") for stem in files)


def named(name: str) -> ModuleType:
    """The module of a method of this package."""
    return importlib.import_module(f"train.methods.{name.replace('-', '_')}")


def own(file: Path) -> ModuleType:
    """Runs the method file that a person has named, and returns its module.

    From then on runs trained with it can be read (`class_of`). Raises `InputError` if the file
    cannot be run, or leaves no `METHOD`.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; name a method file, or a preset")
    source = file.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    name = f"{OWN}{file.stem}_{digest[:12]}"
    if name in sys.modules:
        own_module[:] = [sys.modules[name]]
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file.absolute())
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    module.SHA256, module.SOURCE = digest, source  # type: ignore[attr-defined]
    sys.modules[name] = module  # dataclasses looks types up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = f"{type(error).__name__}: {in_one_line(error)}"
        raise InputError(f"{file}: cannot be run ({what})") from error
    if not isinstance(getattr(module, "METHOD", None), Method):
        del sys.modules[name]
        raise InputError(
            f"{file}: has no METHOD; end it with METHOD = YourMethod(), an instance of a subclass "
            "of train.methods.base.Method"
        )
    kind = type(module.METHOD)
    if vars(kind).get("__annotations__") and "__dataclass_fields__" not in vars(kind):
        del sys.modules[name]
        raise InputError(
            f"{file}: {kind.__name__} has fields, which count only in a dataclass; write "
            "@dataclass(frozen=True) above it"
        )
    if kind.__module__ != name:  # METHOD = Method(…), or another file's class
        vars(module)["METHOD"] = _of_own_class(module.METHOD, name)
    own_module[:] = [module]
    return module


def _of_own_class(method: Method, module: str) -> Method:
    """The method as an instance of a class that `module` defines, from which its runs are named."""
    kind = type(method)
    own_kind = type(kind.__name__, (kind,), {"__module__": module, "__doc__": kind.__doc__})
    options = {f.name: getattr(method, f.name) for f in fields(method) if f.init}
    return cast(Method, own_kind(**options))


def origin(method: Method) -> Origin:
    """Where this method's class was defined."""
    module = sys.modules[type(method).__module__]
    return Origin(source_of(method).stem, getattr(module, "SHA256", None))


def source_of(method: Method) -> Path:
    """The file that defines this method's class."""
    file = sys.modules[type(method).__module__].__file__
    assert file
    return Path(file)


def own_source(method: Method) -> bytes | None:
    """The content of the user's own file that defines this method; None for one of ours."""
    return getattr(sys.modules[type(method).__module__], "SOURCE", None)


def class_of(written: Origin, source: str) -> type[Method]:
    """The class that a run's configuration, read from `source`, names.

    Nothing in a run folder is ever run: a user's own method file must have been named in this
    process. Raises `InputError` if it was not, or there is no such method.
    """
    if written.sha256:
        if own_module:
            return type(own_module[0].METHOD)
        raise InputError(
            f"{source}: this run was trained with a method file of your own; name it: "
            f"--method {written.name}.py"
        )
    if written.name == "base":
        return Method
    if written.name.replace("_", "-") not in names():
        raise InputError(
            f"{source}: no method {written.name!r} in this version; there are "
            f"{', '.join(['base', *names()])}"
        )
    return type(named(written.name).METHOD)
