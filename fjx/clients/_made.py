"""Local work whose parts depend on the inputs of the round."""

from collections.abc import Callable
from typing import Any

from fjx._base import Steps


def made(make: Callable[..., Any]) -> Steps:
    """The function of a client update that is made from its inputs.

    Args:
        make: ``(key, broadcast, state, examples, turn) -> function`` of a client update.
    """
    return Steps(
        begin=lambda *inputs: Steps.of(make(*inputs)).begin(*inputs),
        step=lambda *inputs: Steps.of(make(*inputs[:-2])).step(*inputs),
        end=lambda *inputs: Steps.of(make(*inputs[:-1])).end(*inputs),
    )
