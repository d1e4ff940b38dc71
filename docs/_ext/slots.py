"""Documents the functions that the core NamedTuples are made of.

A field such as ``Compressor.encode`` is typed by a ``Protocol`` whose ``__call__`` says what it takes
and does.  That text is shown as the field's, and autodoc's "Alias for field number 0" is not.
"""

import inspect
import typing
from typing import Any


def describe(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds an ``Attributes`` section to a NamedTuple that has none of its own."""
    if not hasattr(obj, "_fields") or any(line.strip() == "Attributes:" for line in lines):
        return
    hints = typing.get_type_hints(obj)
    protocols = {
        field: hints[field] for field in obj._fields if getattr(hints[field], "_is_protocol", False)
    }
    if not protocols:
        return
    lines += ["", "Attributes:"]
    for field, protocol in protocols.items():
        call = protocol.__call__
        parameters = [p for p in inspect.signature(call).parameters if p != "self"]
        summary = " ".join((inspect.getdoc(call) or "").split("\n\n")[0].split())
        lines.append(f"    {field}: ``({', '.join(parameters)})``.  {summary}")
    lines.append("")


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the descriptors behind a NamedTuple's fields."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, bool]:
    """Comes before napoleon (priority 500), which turns the section into fields."""
    app.connect("autodoc-process-docstring", describe, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True}
