"""The directive ``public``: a package's page of the reference, from its ``__all__``.

Autodoc does the work.  Added to it are what our conventions need: fields of NamedTuples that are typed
by a ``Protocol`` are described by it, a one-paragraph ``Guarantees:`` is a section, and a constant is
described by the string that follows it in the private module where it is made.
"""

import enum
import importlib
import inspect
import re
import sys
import types
import typing
from typing import Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import fjx

logger = logging.getLogger(__name__)


class Public(SphinxDirective):
    """``.. public:: fjx.wire``: the package's docstring, its functions, its types, its constants."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = importlib.import_module(package)
        entries = {"function": [], "class": [], "data": []}
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType):
                kind = kind_of(value)
                entries[kind] += entry(package, name, value, kind)
        lines = [f".. automodule:: {package}", ""]
        for title, kind in [("Functions", "function"), ("Types", "class"), ("Constants", "data")]:
            if entries[kind]:
                lines += [f".. rubric:: {title}", "", *entries[kind]]
        return self.parse_text_to_nodes("\n".join(lines))


def entry(package: str, name: str, value: Any, kind: str) -> list[str]:
    """The lines that document one symbol, in full under the shortest of its names."""
    by_hand = [f".. py:{kind}:: {name}", f"   :module: {package}", ""]
    if package != "fjx" and getattr(fjx, name, None) is value:
        return [*by_hand, f"   Another name of :py:obj:`fjx.{name}`.", ""]
    if kind == "data":
        return [*by_hand, *(f"   {line}" for line in comment(name, value)), ""]
    members = ["   :members:", "   :special-members: __call__"] if kind == "class" else []
    return [f".. auto{kind}:: {package}.{name}", *members, ""]


def kind_of(value: Any) -> str:
    """What the Python domain calls it."""
    if inspect.isfunction(value):
        return "function"
    return "class" if inspect.isclass(value) else "data"


def comment(name: str, value: Any) -> list[str]:
    """The string after the assignment that made a constant or a type alias."""
    owner = type(value).__name__ if isinstance(value, enum.Enum) else ""
    for module in [module for module in sys.modules if module.startswith("fjx.")]:
        if vars(sys.modules[module]).get(name) is value:
            docs = ModuleAnalyzer.for_module(module).find_attr_docs()
            if (owner, name) in docs:
                return docs[owner, name]
    logger.warning("%s is public and has no docstring after its assignment", name)
    return []


def process_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Rewrites our conventions as what napoleon reads."""
    lines[:] = re.sub(r"^Guarantees: ", "Guarantees:\n    ", "\n".join(lines), flags=re.M).split(
        "\n"
    )
    if not hasattr(obj, "_fields") or "Attributes:" in lines:
        return
    hints = typing.get_type_hints(obj)
    protocols = {
        field: hints[field] for field in obj._fields if getattr(hints[field], "_is_protocol", False)
    }
    if protocols:
        lines += ["", "Attributes:"]
    for field, protocol in protocols.items():
        call = protocol.__call__
        parameters = [p for p in inspect.signature(call).parameters if p != "self"]
        summary = " ".join((inspect.getdoc(call) or "").split("\n\n")[0].split())
        lines.append(f"    {field}: ``({', '.join(parameters)})``.  {summary}")
    lines.append("")


def process_signature(app: Any, what: str, name: str, obj: Any, *rest: Any) -> Any:
    """Protocols are not constructed."""
    return ("", None) if getattr(obj, "_is_protocol", False) else None


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the descriptors behind a NamedTuple's fields, each an "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, bool]:
    """Docstrings are ours before they are napoleon's (priority 500)."""
    app.add_directive("public", Public)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True}
