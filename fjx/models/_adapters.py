"""Flax modules, linen and nnx, as models of pure functions."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from fjx._base import Array, Key, Metrics, Stateful, Tree
from fjx._tree import is_float
from fjx.models._model import Batch, Model, Score, cross_entropy, from_functions


class StatefulModel(NamedTuple):
    """A model with mutable state beside its parameters, as four pure functions.

    Attributes:
        init: function ``(key) -> Stateful(params, state)``.
        apply: function ``(model, x) -> outputs``, which uses the state as it is (running
            statistics).
        loss: function ``(model, batch, mask, key) -> (loss, metrics, state)``, with ``mask`` a
            ``bool[b]`` or ``f32[b]``, true at the real examples; the argument of
            ``fjx.clients.whole_batch``.
        evaluate: function ``(model, batch) -> {"loss": f32[b], ...}``, one value an example.
    """

    init: Callable[[Key], Stateful]
    apply: Callable[[Stateful, Array], Array]
    loss: Callable[[Stateful, Batch, Array, Key], tuple[Array, Metrics, Tree]]
    evaluate: Callable[[Stateful, Batch], dict[str, Array]]


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
        variables = _lazy_init(module, key, example_input, inference)
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f"module must have no collections but 'params', got {others}; "
                "use fjx.models.stateful_from_linen"
            )
        return variables.get("params", {})

    def apply(params: Tree, x: Array, key: Key | None = None) -> Array:
        if key is None:
            return _run(module, Stateful(params, {}), x, example_input, **inference)
        return _run(
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
            f"{nnx.to_pure_dict(others)}; normalise with GroupNorm or LayerNorm, or write the "
            "module in linen and use fjx.models.stateful_from_linen"
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
        with _flax_promotion():
            return module(x)

    return from_functions(init, apply, loss=loss)


def stateful_from_linen(
    module: nn.Module,
    example_input: Array | jax.ShapeDtypeStruct,
    *,
    loss: Score = cross_entropy,
    training: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
) -> StatefulModel:
    """Model from a linen module with BatchNorm or other mutable collections.

    BatchNorm couples the examples of a batch: its loss is not a mean of per-example terms, and the
    rows that pad a batch must not enter its statistics.  ``loss`` therefore takes the whole batch
    and the mask of its real examples.  It passes that mask to every ``nn.BatchNorm`` of the module;
    the module itself needs no code for padding.

    Guarantees:
        - Loss, gradient and new state of a padded batch are those of the batch without its padding.
        - A batch without a real example has loss zero and does not change the state.
        - A running variance that compression left below zero counts as zero.

    Args:
        module: linen module; its BatchNorm layers must see the batch axis first.
        example_input: array or ``ShapeDtypeStruct`` with a batch axis of any size; only its shape
            and dtype are read.
        loss: score ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.
        training: keyword arguments of the module's call in ``loss``; ``{"train": True}`` if None.
        inference: keyword arguments in ``init``, ``apply`` and ``evaluate``; ``{"train": False}``
            if None.

    Returns:
        A :class:`StatefulModel`.  Pass its loss to clients as
        ``fjx.clients.whole_batch(model.loss)``.

    Examples:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> class Normalised(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(2)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        >>> model = stateful_from_linen(Normalised(), jnp.zeros((1, 1)))
        >>> start = model.init(jax.random.key(0))
        >>> batch = {"x": jnp.array([[4.0], [8.0], [99.0]]), "y": jnp.array([0, 1, 0])}
        >>> mask = jnp.array([1.0, 1.0, 0.0])
        >>> loss, metrics, state = model.loss(start, batch, mask, jax.random.key(1))
        >>> float(state["batch_stats"]["BatchNorm_0"]["mean"][0])
        3.0

    References:
        Ioffe, Szegedy, *Batch Normalization*, ICML 2015 (arXiv:1502.03167).
    """
    training = {"train": True} if training is None else dict(training)
    inference = {"train": False} if inference is None else dict(inference)

    def init(key: Key) -> Stateful:
        variables = dict(_lazy_init(module, key, example_input, inference))
        return Stateful(variables.pop("params", {}), variables)

    def apply(model: Stateful, x: Array) -> Array:
        return _run(module, model, x, example_input, **inference)

    def evaluate(model: Stateful, batch: Batch) -> dict[str, Array]:
        return loss(apply(model, batch["x"]), batch["y"])

    def masked_loss(
        model: Stateful, batch: Batch, mask: Array, key: Key
    ) -> tuple[Array, Metrics, Tree]:
        real = mask.astype(bool)
        anyone = jnp.any(real)
        # The statistics of no example at all would be 0/0, and the zero gradient below would be
        # multiplied by NaN.  So a batch of padding only is normalised by its padding; its result
        # counts nowhere.
        with nn.intercept_methods(_masked_batch_norm(real | ~anyone)):
            outputs, state = _run(
                module,
                model,
                batch["x"],
                example_input,
                rngs={"dropout": key},
                mutable=list(model.state),
                **training,
            )
        weights = real.astype(jnp.float32) / jnp.maximum(jnp.sum(real), 1).astype(jnp.float32)
        means = {
            name: jnp.sum(weights * score) for name, score in loss(outputs, batch["y"]).items()
        }
        state = jax.tree.map(lambda new, old: jnp.where(anyone, new, old), state, model.state)
        return means.pop("loss"), means, state

    return StatefulModel(init, apply, masked_loss, evaluate)


def _masked_batch_norm(real: Array) -> Callable[..., Any]:
    """Interceptor that gives every BatchNorm the mask ``bool[b]`` of the examples that count."""

    def interceptor(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            kwargs = kwargs | {"mask": real.reshape(-1, *[1] * (x.ndim - 1))}
        return call(*args, **kwargs)

    return interceptor


def _lazy_init(
    module: nn.Module, key: Key, example: Array | jax.ShapeDtypeStruct, inference: dict[str, Any]
) -> Mapping[str, Tree]:
    """Variables of the module; only the initialisers are computed, the module does not run."""
    like = jax.ShapeDtypeStruct(example.shape, example.dtype)
    return module.lazy_init({"params": key}, like, **inference)


def _run(
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
    with _flax_promotion():
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


def _flax_promotion() -> AbstractContextManager:
    """JAX's standard promotion, on which flax's norms rely, whatever the caller has set."""
    return jax.numpy_dtype_promotion("standard")
