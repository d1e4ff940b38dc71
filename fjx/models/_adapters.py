"""Flax modules with parameters and nothing else, linen and nnx, as models of pure functions."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from fjx._base import Array, Key, Stateful, Tree
from fjx._tree import is_float
from fjx.models._model import Model, Score, cross_entropy, from_functions


def from_linen(
    module: nn.Module,
    example_input: Array | jax.ShapeDtypeStruct,
    *,
    loss: Score = cross_entropy,
    training: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
) -> Model:
    """Model from a linen module that has parameters and nothing else.

    If ``apply`` has a key, the module is called with a "dropout" stream, else without one.  A
    module may therefore write ``nn.Dropout(rate, deterministic=not self.has_rng("dropout"))``.  A
    module with a flag instead receives it from ``training`` and ``inference``.

    Guarantees:
        - If ``example_input`` is floating, inputs of any dtype are cast to the dtype of the
          parameters; examples may thus stay float16 or uint8 in memory.

    Args:
        module: linen module; ``module(x)`` maps ``[b, ...]`` to ``[b, ...]``.
        example_input: array or ``ShapeDtypeStruct`` with a batch axis of any size; only its shape
            and dtype are read.
        loss: score ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.
        training: keyword arguments of the module's call with a key.
        inference: keyword arguments of the module's call without a key.

    Returns:
        A :class:`Model`.  Its ``init`` raises ValueError if the module has other collections than
        "params", such as the "batch_stats" of BatchNorm: use :func:`stateful_from_linen` for these.

    Examples:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> model = from_linen(nn.Dense(3), jnp.zeros((1, 4)))
        >>> params = model.init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (3,), 'kernel': (4, 3)}
        >>> model.apply(params, jnp.ones((2, 4), jnp.float16)).shape
        (2, 3)
    """
    training, inference = dict(training or {}), dict(inference or {})

    def init(key: Key) -> Tree:
        variables = lazy_init(module, key, example_input, inference)
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f"module must have no collections but 'params', got {others}; "
                "use fjx.models.stateful_from_linen"
            )
        return variables.get("params", {})

    def apply(params: Tree, x: Array, key: Key | None = None) -> Array:
        if key is None:
            return run_linen(module, Stateful(params, {}), x, example_input, **inference)
        return run_linen(
            module, Stateful(params, {}), x, example_input, rngs={"dropout": key}, **training
        )

    return from_functions(init, apply, loss=loss)


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module], *, loss: Score = cross_entropy) -> Model:
    """Model from the constructor of an nnx module.

    The module is split once into its graph and its parameters.  Each call merges a copy, so no
    reference outlives the call, and ``vmap``, ``scan`` and ``grad`` see plain arrays.  A call with
    a key puts the copy into training mode and seeds its streams; a call without a key puts it into
    evaluation mode.

    Guarantees:
        - Parameters are a nested dict of arrays, as from linen.
        - Inputs are not cast.

    Args:
        make: function ``(rngs) -> module``, called once now for the graph and once in every
            ``init``.
        loss: score ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.

    Returns:
        A :class:`Model`.

    Raises:
        ValueError: the module has state that is neither a parameter nor a random stream, such as
            BatchNorm's statistics.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
        >>> params = model.init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (3,), 'kernel': (4, 3)}
        >>> model.apply(params, jnp.ones((2, 4))).shape
        (2, 3)
    """

    def split(key: Key) -> Any:
        return nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.RngState, ...)

    # The key is a placeholder: every call with a key seeds the streams anew.
    graph, _, streams, others = split(jax.random.key(0))
    if jax.tree.leaves(others):
        raise ValueError(
            f"the module must hold parameters only, but it also holds "
            f"{nnx.to_pure_dict(others)}; use fjx.models.stateful_from_nnx, or normalise with "
            "GroupNorm or LayerNorm"
        )

    def init(key: Key) -> Tree:
        return nnx.to_pure_dict(split(key)[1])

    def apply(params: Tree, x: Array, key: Key | None = None) -> Array:
        module = nnx.merge(graph, nnx.State(params), streams, copy=True)
        if key is None:
            module.eval()
        else:
            module.train()
            nnx.reseed(module, default=key)
        with flax_promotion():
            return module(x)

    return from_functions(init, apply, loss=loss)


def lazy_init(
    module: nn.Module, key: Key, example: Array | jax.ShapeDtypeStruct, inference: dict[str, Any]
) -> Mapping[str, Tree]:
    """Variables of the module; only the initialisers are computed, the module does not run."""
    like = jax.ShapeDtypeStruct(example.shape, example.dtype)
    return module.lazy_init({"params": key}, like, **inference)


def run_linen(
    module: nn.Module,
    model: Stateful,
    x: Array,
    example: Array | jax.ShapeDtypeStruct,
    **kwargs: Any,
) -> Any:
    """Output of ``module.apply`` for ``x`` in the dtype of the parameters; tokens stay integers."""
    if jnp.issubdtype(example.dtype, jnp.floating):
        floats = [leaf.dtype for leaf in jax.tree.leaves(model.params) if is_float(leaf)]
        x = x.astype(floats[0] if floats else jnp.float32)
    with flax_promotion():
        return module.apply({"params": model.params, **_in_domain(model.state)}, x, **kwargs)


def _in_domain(state: Tree) -> Tree:
    """The running statistics, with variances that are not negative.

    Sums of compressed messages may leave a variance below zero, of which the root is NaN.
    """

    def projected(path: tuple[Any, ...], x: Array) -> Array:
        names = [getattr(key, "key", None) for key in path]
        variance = names[:1] == ["batch_stats"] and names[-1] == "var"
        return jnp.maximum(x, jnp.zeros((), x.dtype)) if variance else x

    return jax.tree_util.tree_map_with_path(projected, state)


def flax_promotion() -> AbstractContextManager:
    """JAX's standard promotion, on which flax's norms rely, whatever the caller has set."""
    return jax.numpy_dtype_promotion("standard")
