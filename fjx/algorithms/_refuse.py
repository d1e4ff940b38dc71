"""Parts that a recipe cannot leave open, and the reason."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from fjx._base import Algorithm

P = ParamSpec("P")


def fixes(**reasons: str) -> Callable[[Callable[P, Algorithm]], Callable[P, Algorithm]]:
    """A recipe that refuses parts of :func:`fjx.compose` which its method fixes, with the reason.

    Args:
        **reasons: for each part, the reason and the remedy.
    """

    def around(recipe: Callable[P, Algorithm]) -> Callable[P, Algorithm]:
        @functools.wraps(recipe)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Algorithm:
            given: dict[str, Any] = kwargs
            for part in reasons.keys() & given.keys():
                name = getattr(recipe, "__name__", "this recipe")
                raise TypeError(f"{name} takes no {part}: {reasons[part]}")
            return recipe(*args, **kwargs)

        return checked

    return around
