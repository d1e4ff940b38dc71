"""Optimisers of local steps: their begin, one step, and the end of a client's round."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjx import _tree
from fjx._base import Stateful, Tree


def as_local(optimizer: Any) -> optax.GradientTransformation:
    """The optimiser of local steps; ``optax.MultiSteps`` is taken as it is.

    Raises:
        TypeError: it is no optax transformation.
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}")
    return optimizer


def begin(optimizer: optax.GradientTransformation, model: Tree) -> Any:
    """State of the optimiser at the start of a client's round.

    Raises:
        TypeError: (when traced) the optimiser cannot make local steps.
        ValueError: (when traced) the optimiser draws from a key of its own.
    """
    with _naming_optimizer():
        state = optimizer.init(_tree.split_floats(_params(model))[0])
    _require_local(optimizer, state)
    return state


def descend(
    optimizer: optax.GradientTransformation,
    gradient: Tree,
    state: Any,
    model: Tree,
    **known: Any,
) -> tuple[Tree, Any]:
    """One optimiser step on the floating parameters.

    An optimiser that takes further arguments is given those in ``known`` that it takes: ``value``, the
    loss of the batch, ``grad``, its gradient, and ``value_fn``, the loss as a function of the floating
    parameters.
    """
    floats, others = _tree.split_floats(_params(model))
    with _naming_optimizer():
        updates, state = optimizer.update(
            gradient, state, floats, **_taken(optimizer.update, {"grad": gradient, **known})
        )
    params = _tree.merge(optax.apply_updates(floats, updates), others)
    return model._replace(params=params) if isinstance(model, Stateful) else params, state


def finish(optimizer: optax.GradientTransformation, state: Any, model: Tree, **known: Any) -> Tree:
    """The model after a step by the gradients that are accumulated when the client's round ends."""
    steps = _accumulates(optimizer)
    if steps is None:
        return model
    floats, _ = _tree.split_floats(_params(model))
    gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), state.acc_grads, floats)
    moved, _ = descend(steps.inner_opt, gradient, state.inner_opt_state, model, **known)
    return _tree.where(state.mini_step > 0, moved, model)


def _accumulates(optimizer: optax.GradientTransformation) -> optax.MultiSteps | None:
    owner = getattr(optimizer.update, "__self__", None)
    return owner if isinstance(owner, optax.MultiSteps) else None


def _taken(update: Callable[..., Any], known: dict[str, Any]) -> dict[str, Any]:
    """The arguments among ``known`` that ``update`` takes."""
    taken = inspect.signature(update).parameters
    if any(x.kind is inspect.Parameter.VAR_KEYWORD for x in taken.values()):
        return known
    return {name: value for name, value in known.items() if name in taken}


def _require_local(optimizer: optax.GradientTransformation, state: Any) -> None:
    """Raise unless a state that begins anew in each round can do what its optimiser promises."""
    if any(map(_is_key, jax.tree.leaves(state))):
        raise ValueError(
            "optimizer has a random key in its state, which begins anew in each round: every client "
            "would draw the same noise in every round.  Draw noise from the key of loss_fn; for "
            "privacy use fjx.clients.dp_sgd, or a plan"
        )
    inside = state.inner_opt_state if _accumulates(optimizer) else state
    kinds = (optax.MultiStepsState, optax.LookaheadState)
    for node in jax.tree.leaves(inside, is_leaf=lambda x: isinstance(x, kinds)):
        if isinstance(node, optax.LookaheadState):
            raise TypeError(
                "optimizer keeps two copies of the model (optax.lookahead), of which a client sends "
                "one.  The server's step does the same between rounds: train with the fast optimizer, "
                "and compose with server=optax.sgd(slow_step_size)"
            )
        if isinstance(node, optax.MultiStepsState):
            raise TypeError(
                "optimizer accumulates gradients inside another transformation, so that what is "
                "accumulated when a client ends would be lost: put optax.MultiSteps outermost, or "
                "raise batch_size"
            )


def _is_key(x: Any) -> bool:
    """True for a typed key, and for a vector of unsigned words, as legacy keys are."""
    dtype = jnp.result_type(x)
    return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key)) or (
        dtype == jnp.uint32 and jnp.ndim(x) > 0
    )


@contextlib.contextmanager
def _naming_optimizer() -> Iterator[None]:
    """Context of a call of the optimiser, whose errors name the caller's argument."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"optimizer failed: {error}.  Local steps give it the gradient, its state and the "
            "parameters; local_sgd also gives value, grad and value_fn, the loss of the batch"
        ) from error


def _params(model: Tree) -> Tree:
    return model.params if isinstance(model, Stateful) else model
