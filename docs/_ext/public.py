"""The directive ``public``: a package's page of the reference, in groups that the page names.

.. code-block:: rst

   .. public:: fjx.compressors

      Quantizers: round each coordinate to one of a few levels.
         absmax k_level quantize

The page begins with a table of each group, one line a symbol; the entries follow, group by group.  A
public name that is in no group, or a name in a group that is not public, fails the build.

Autodoc and napoleon write the entries.  Added to them is what our docstrings need: ``Guarantees`` and
``Bits`` are sections, formulas between dollars are typeset, fields of NamedTuples that are typed by a
``Protocol`` are described by it, and a constant is described by the string that follows it in the
private module where it is made.
"""

import enum
import importlib
import inspect
import re
import sys
import types
import typing
from typing import Any, NamedTuple

from _ext.coverage import packages
from _ext.formulas import typeset
from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import fjx

logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """A part of a page."""

    title: str
    about: str
    names: list[str]


class Public(SphinxDirective):
    """``.. public:: fjx.wire``: the package's docstring, the tables of its groups, their entries."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = importlib.import_module(package)
        groups = groups_of(list(self.content))
        for complaint in complaints(package, public_names(module), groups):
            logger.warning("%s", complaint, location=self.get_location())
        lines = [f".. automodule:: {package}", ""]
        for group in groups:
            if len(groups) > 1:
                lines += [f".. rubric:: {group.title}", "   :class: group", ""]
            lines += [group.about, "", *table(summaries(package, module, group.names))]
        found = self.parse_text_to_nodes("\n".join(lines))
        for group in groups:
            entries = [
                entry(package, n, getattr(module, n)) for n in group.names if hasattr(module, n)
            ]
            section = nodes.section(ids=[nodes.make_id(group.title)])
            section += nodes.title(text=group.title)
            section += self.parse_text_to_nodes(
                "\n".join(line for lines in entries for line in lines)
            )
            found.append(section)
        return found


class Packages(SphinxDirective):
    """``.. packages::``: every public package, and the first line of its docstring."""

    def run(self) -> list[nodes.Node]:
        rows = {
            f":py:mod:`{package}`": first_line(docstring(importlib.import_module(package)))
            for package in packages()
        }
        return self.parse_text_to_nodes("\n".join(table(rows)))


def groups_of(content: list[str]) -> list[Group]:
    """The groups that a page names: ``Title: what they are.``, and below it, indented, the names."""
    groups: list[Group] = []
    for line in content:
        if line.startswith(" "):
            groups[-1].names.extend(line.split())
        elif line:
            title, _, about = line.partition(":")
            about = about.strip()
            groups.append(Group(title, about[:1].upper() + about[1:], []))
    return groups


def public_names(module: types.ModuleType) -> list[str]:
    """What a package lists in ``__all__``, but for packages in it, which have pages of their own."""
    return [
        name
        for name in getattr(module, "__all__", [])
        if not isinstance(getattr(module, name), types.ModuleType)
    ]


def complaints(package: str, public: list[str], groups: list[Group]) -> list[str]:
    """How the groups of a page differ from what is public."""
    grouped = [name for group in groups for name in group.names]
    return [
        *(f"{package}.{name} is public and in no group" for name in public if name not in grouped),
        *(f"{package}.{name} is not public" for name in grouped if name not in public),
        *(f"{package}.{name} is in two groups" for name in {*grouped} if grouped.count(name) > 1),
    ]


def summaries(package: str, module: types.ModuleType, names: list[str]) -> dict[str, str]:
    """Links to symbols, and the first lines of their docstrings."""
    found = {}
    for name in [name for name in names if hasattr(module, name)]:
        value = getattr(module, name)
        described = comment(name, value) if kind_of(value) == "data" else docstring(value)
        link = f":py:obj:`{name} <{shortest(package, name, value)}>`"
        found[link] = typeset(first_line(described))
    return found


def table(rows: dict[str, str]) -> list[str]:
    """The lines of a table of two columns."""
    cells = [line for pair in rows.items() for line in (f"   * - {pair[0]}", f"     - {pair[1]}")]
    return [".. list-table::", "   :class: summary", "   :widths: auto", "", *cells, ""]


def docstring(value: Any) -> list[str]:
    """Its lines."""
    return (inspect.getdoc(value) or "").split("\n")


def first_line(lines: list[str]) -> str:
    """The first paragraph as one line."""
    return " ".join("\n".join(lines).strip().split("\n\n")[0].split())


def shortest(package: str, name: str, value: Any) -> str:
    """The full name under which a symbol is documented."""
    return f"fjx.{name}" if getattr(fjx, name, None) is value else f"{package}.{name}"


def entry(package: str, name: str, value: Any) -> list[str]:
    """The lines that document one symbol, in full under the shortest of its names."""
    kind = kind_of(value)
    by_hand = [f".. py:{kind}:: {name}", f"   :module: {package}", ""]
    if shortest(package, name, value) != f"{package}.{name}":
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


def before_napoleon(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Rewrites our conventions as what napoleon reads."""
    text = "\n".join(lines)
    # A section may stand on the line of its title.
    text = re.sub(r"^(Guarantees|Bits): +(?=\S)", r"\1:\n    ", text, flags=re.MULTILINE)
    # Napoleon takes what is before a colon for a type; types are annotations here, never prose.
    text = re.sub(r"^Returns:\n    ", ":returns: ", text, flags=re.MULTILINE)
    if what in ("attribute", "property"):
        text = "..\n\n" + text  # Here it does so in the first line, which is a comment now.
    lines[:] = text.split("\n")
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
        lines.append(f"    {field}: ``({', '.join(parameters)})``.  {first_line(docstring(call))}")
    lines.append("")


def after_napoleon(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Typesets formulas, and fails the build for what napoleon took for something else."""
    lines[:] = typeset("\n".join(lines)).split("\n")
    for complaint in garbled(obj, lines):
        logger.warning("%s: %s", name, complaint)


def garbled(obj: Any, lines: list[str]) -> list[str]:
    """Where an entry does not show what its docstring says."""
    documented = [m[1] for line in lines if (m := re.match(r":param \\?\*{0,2}(.+?):", line))]
    documented = [name.replace("\\", "").lstrip("*") for name in documented]
    try:
        parameters = {*inspect.signature(obj).parameters, *getattr(obj, "_fields", ())}
    except (TypeError, ValueError):
        parameters = {*documented}
    return [
        *(f"prose was taken for a type: {x}" for x in lines if re.match(r":(rtype|type\b.*?):", x)),
        *(f"{x!r} is no parameter" for x in documented if x not in parameters),
        *(f"a section that nobody knows: {x}" for x in lines if re.fullmatch(r"[A-Z]\w+:", x)),
    ]


def process_signature(app: Any, what: str, name: str, obj: Any, *rest: Any) -> Any:
    """Protocols are not constructed."""
    return ("", None) if getattr(obj, "_is_protocol", False) else None


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the descriptors behind a NamedTuple's fields, each an "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, bool]:
    """Docstrings are ours before and after they are napoleon's (priority 500)."""
    app.add_directive("public", Public)
    app.add_directive("packages", Packages)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True}
