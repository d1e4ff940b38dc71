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
        init: ``(key) -> Stateful(params, state)``.
        apply: ``(model, x) -> outputs``, with the state as it stands (running statistics).
        loss: ``(model, batch, mask, key) -> (loss, metrics, state)``, where ``mask`` is ``bool[b]``
            (or ``f32[b]``), true at the real examples; what ``fjx.clients.whole_batch`` takes.
        evaluate: ``(model, batch) -> {"loss": f32[b], ...}``, one value an example.
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
    """A :class:`Model` from a linen module that has parameters and nothing else.

    The module is called with a "dropout" stream where ``apply`` has a key, and without where it
    has none: a module may write ``nn.Dropout(rate, deterministic=not self.has_rng("dropout"))``, or
    take a flag, which ``training`` and ``inference`` then set.

    Guarantees: where ``example_input`` is floating, inputs of any dtype are cast to the dtype of
        the parameters, so that examples may stay float16 or uint8 in memory.

    Args:
        module: a linen module; ``module(x)`` maps ``[b, ...]`` to ``[b, ...]``.
        example_input: an array or a ``ShapeDtypeStruct`` with a batch axis of any size; only its
            shape and dtype are read.
        loss: ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.
        training: keyword arguments of the module's call where there is a key.
        inference: keyword arguments of the module's call where there is none.

    Returns:
        A :class:`Model`.  Its ``init`` raises ValueError if the module has other collections than
        "params", such as the "batch_stats" of BatchNorm: see :func:`stateful_from_linen`.

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
    """A :class:`Model` from the constructor of an nnx module.

    The module is split once into its graph and its parameters; each call merges a copy, so no
    reference outlives it and ``vmap``, ``scan`` and ``grad`` see plain arrays.  A call with a key
    puts the copy into training mode and seeds its streams; one without puts it into evaluation
    mode.

    Guarantees: parameters are a nested dict of arrays, as from linen.  Inputs are not cast.

    Args:
        make: ``(rngs) -> module``, called once now for the graph and once in every ``init``.
        loss: ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.

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

    # The key is a placeholder: streams are seeded anew whenever they are drawn from.
    graph, _, streams, others = split(jax.random.key(0))
    if jax.tree.leaves(others):
        raise ValueError(
            f"the module must hold parameters only, got also {nnx.to_pure_dict(others)}; "
            "normalise with GroupNorm or LayerNorm, or write the module in linen and use "
            "fjx.models.stateful_from_linen"
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
    """A :class:`StatefulModel` from a linen module with BatchNorm or other mutable collections.

    BatchNorm couples the examples of a batch, so its loss is no mean of per-example terms, and the
    rows that pad a batch must not enter its statistics.  ``loss`` therefore takes the whole batch
    and the mask of its real examples, and hands that mask to every ``nn.BatchNorm`` of the module,
    which itself knows nothing of padding.

    Guarantees: loss, gradient and new state for a padded batch are those of the batch without its
        padding; a batch without a real example has loss zero and leaves the state as it is.

    Args:
        module: a linen module; its BatchNorm layers see the batch axis first.
        example_input: an array or a ``ShapeDtypeStruct`` with a batch axis of any size; only its
            shape and dtype are read.
        loss: ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.
        training: keyword arguments of the module's call in ``loss``; ``{"train": True}`` if None.
        inference: those of ``init``, ``apply`` and ``evaluate``; ``{"train": False}`` if None.

    Returns:
        A :class:`StatefulModel`.  Its loss goes to fjx as ``fjx.clients.whole_batch(model.loss)``.

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
        # Statistics of no example at all are 0/0: a batch of padding is normalised by its padding,
        # which nobody sees, so that the zero gradient below is not multiplied by NaN.
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
    """An interceptor that gives every BatchNorm the mask ``bool[b]`` of the examples that count."""

    def interceptor(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            kwargs = kwargs | {"mask": real.reshape(-1, *[1] * (x.ndim - 1))}
        return call(*args, **kwargs)

    return interceptor


def _lazy_init(
    module: nn.Module, key: Key, example: Array | jax.ShapeDtypeStruct, inference: dict[str, Any]
) -> Mapping[str, Tree]:
    """The module's variables, without running it: only the initialisers are computed."""
    like = jax.ShapeDtypeStruct(example.shape, example.dtype)
    return module.lazy_init({"params": key}, like, **inference)


def _run(
    module: nn.Module,
    model: Stateful,
    x: Array,
    example: Array | jax.ShapeDtypeStruct,
    **kwargs: Any,
) -> Any:
    """``module.apply`` to ``x`` in the dtype of the parameters; tokens stay tokens."""
    if jnp.issubdtype(example.dtype, jnp.floating):
        floats = [leaf.dtype for leaf in jax.tree.leaves(model.params) if is_float(leaf)]
        x = x.astype(floats[0] if floats else jnp.float32)
    with _flax_promotion():
        return module.apply({"params": model.params, **model.state}, x, **kwargs)


def _flax_promotion() -> AbstractContextManager:
    """JAX's standard promotion: flax's norms rely on it, whatever the caller's own code does."""
    return jax.numpy_dtype_promotion("standard")
