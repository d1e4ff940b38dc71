"""The three functions of a coder, and the import of optional packages."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import BitReader


class Method(NamedTuple):
    """One lossless code.

    Attributes:
        encode: ``(numbers, width) -> bytes``, including the first byte.  A result that is longer than
            the fixed-width code is never used, so its content may be anything.
        decode: ``(bits, count, width, parameter) -> numbers``.
        bits: ``(numbers, counted, width) -> u32[]``, number of bits without the first byte in a compiled
            program; None if no formula gives it.
    """

    encode: Callable[[np.ndarray, int], bytes]
    decode: Callable[[BitReader, int, int, int], np.ndarray]
    bits: Callable[[Array, Array, int], Array] | None = None


def package(name: str) -> Any:
    """Import an optional package, or explain how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this coder needs the package {name}: pip install "fjx[coders]"'
        ) from error
