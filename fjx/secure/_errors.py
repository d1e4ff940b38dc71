"""The ends of a protocol that are not a sum."""

from typing import Any


class Abort(Exception):
    """The end of a protocol for the party that raises it.

    A party that has raised it sends nothing more.  Its subclasses say why.

    Attributes:
        bill: messages of the sum so far, where :func:`play` has raised it; else None.
    """

    bill: Any = None


class TooFew(Abort):
    """Fewer parties are left than the threshold asks for."""


class Malformed(Abort):
    """Bytes that no honest party sends: a wrong length, version, identifier or number."""


class Tampered(Abort):
    """Bytes that fail authentication: they were changed, or come from another party or session."""


class Unexpected(Abort):
    """A message of another session, round or step, or a second one from the same sender."""


class Inconsistent(Abort):
    """Messages that contradict each other: repeated keys, strangers in a list, a wrong secret."""
