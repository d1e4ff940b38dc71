"""Fails the build for a public symbol without an entry, or with a docstring that lacks a part.

The packages are found in the folder, so a new one cannot be forgotten.  What is public is what a
package lists in ``__all__``.
"""

import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import fjx


def packages() -> list[str]:
    """``fjx`` and every public package in it."""
    root = Path(fjx.__file__).parents[1]
    folders = [path.parent.relative_to(root).parts for path in root.glob("fjx/**/__init__.py")]
    return sorted(".".join(f) for f in folders if not any(part.startswith("_") for part in f))


def symbols() -> dict[str, Any]:
    """Every public symbol that is not itself a package, by its full name."""
    found = {}
    for package in packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType):
                found[f"{package}.{name}"] = value
    return found


def shortcomings(name: str, value: Any) -> list[str]:
    """What the docstring of one public symbol lacks; constants need none."""
    if not inspect.isfunction(value) and not inspect.isclass(value):
        return []
    # A NamedTuple or dataclass without a docstring is given its signature as one.
    docstring = inspect.getdoc(value) or ""
    if not docstring or docstring.startswith(f"{value.__name__}("):
        return [f"{name} has no docstring"]
    if inspect.isfunction(value) and "Examples:\n" not in docstring:
        return [f"{name}: the docstring has no section 'Examples'"]
    return []


def check(app: Any, env: Any) -> None:
    """Warns of every gap; with ``--fail-on-warning`` a warning ends the build."""
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    documented = set(env.domains["py"].objects)
    for package in packages():
        if not getattr(importlib.import_module(package), "__all__", None):
            logger.warning("%s has no __all__", package)
    for name, value in symbols().items():
        if name not in documented:
            logger.warning("%s is public and has no entry in docs/api", name)
        for shortcoming in shortcomings(name, value):
            logger.warning("%s", shortcoming)


def setup(app: Any) -> dict[str, bool]:
    """Runs the check once all pages have been read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
