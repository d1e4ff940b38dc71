"""Parameters that a client's optimiser never moves."""

from typing import Any

import jax
import optax
from jax.extend.core import Literal

from fjx import _tree
from fjx._base import Stateful, Tree


def require_moved(optimizer: optax.GradientTransformation, model: Tree) -> None:
    """Raise if the optimiser moves a floating parameter by a constant, whatever gradients it is given.

    ``optax.masked(optax.set_to_zero(), mask)`` does so.  Only the program of the optimiser is read.

    Raises:
        ValueError: there is such a parameter; the error names it, and the way to freeze it.
    """
    params = model.params if isinstance(model, Stateful) else model
    floats, _ = _tree.split_floats(params)

    def updates(gradient: Tree, floats: Tree) -> Tree:
        return optimizer.update(gradient, optimizer.init(floats), floats)[0]

    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            program = jax.make_jaxpr(updates)(floats, floats).jaxpr
    except Exception:  # an optimiser that needs more, or fails, says so when it trains
        return
    moving: set[Any] = set(program.invars)
    for equation in program.eqns:
        if any(not isinstance(x, Literal) and x in moving for x in equation.invars):
            moving.update(equation.outvars)
    named = jax.tree_util.tree_leaves_with_path(floats)
    still = [
        _tree.name_of(path) or "the only leaf"
        for (path, leaf), x in zip(named, program.outvars, strict=True)
        if leaf.size and (isinstance(x, Literal) or x not in moving)
    ]
    if still:
        raise ValueError(
            f"optimizer never moves {still[:3]}, and the message would carry zeros there, which are "
            "billed, clipped and noised: freeze these leaves by fjx.rounds.frozen(loss_fn, make, "
            f"pattern={still[0]!r}), and leave the mask out"
        )
