"""A coder as three functions, and the limits that all coders share."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import BitReader


class Method(NamedTuple):
    """A code: how it is written (all of it, the first byte too), read, and counted."""

    encode: Callable[[np.ndarray, int], bytes]
    decode: Callable[[BitReader, int, int, int], np.ndarray]
    bits: Callable[[Array, Array, int], Array] | None = None


def package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this coder needs the package {name}: pip install "fjx[coders]"'
        ) from error
