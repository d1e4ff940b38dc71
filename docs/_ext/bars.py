"""Lets a docstring write ``|x|`` for an absolute value, where reStructuredText sees a substitution."""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform


class Bars(SphinxTransform):
    """Puts the text back; these pages define no substitutions."""

    default_priority = 200  # Substitutions are looked up at 210 and later.

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.substitution_reference)):
            node.replace_self(nodes.Text(node.rawsource))


def setup(app: Any) -> dict[str, bool]:
    """Adds the transform."""
    app.add_transform(Bars)
    return {"parallel_read_safe": True}
