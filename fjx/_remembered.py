"""Factories that give one object for equal arguments."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def remembered(factory: Callable[P, R]) -> Callable[P, R]:
    """The same factory, which gives the same object for the same arguments.

    Programs are compiled once for each function in them.  A call that writes
    ``sampler=samplers.uniform(10)`` in place thus finds the program of the call before.  Arguments
    without a hash, such as arrays, are not remembered.
    """
    known = functools.lru_cache(maxsize=128, typed=True)(factory)

    @functools.wraps(factory)
    def remember(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash((args, *kwargs.values()))
        except TypeError:
            return factory(*args, **kwargs)
        return known(*args, **kwargs)  # type: ignore[arg-type]

    return remember
