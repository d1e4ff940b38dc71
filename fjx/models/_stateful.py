"""Flax modules with mutable state, linen and nnx, as models of pure functions."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from fjx._base import Array, Key, Metrics, Stateful, Tree
from fjx.models._adapters import flax_promotion, lazy_init, run_linen
from fjx.models._model import Batch, Score, cross_entropy


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


Train = Callable[[Stateful, Array, Array, Key], tuple[Array, Tree]]
"""Outputs and the next state from ``(model, x, real, key)``; only rows where ``real`` is true count."""


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
        variables = dict(lazy_init(module, key, example_input, inference))
        return Stateful(variables.pop("params", {}), variables)

    def apply(model: Stateful, x: Array) -> Array:
        return run_linen(module, model, x, example_input, **inference)

    def evaluate(model: Stateful, batch: Batch) -> dict[str, Array]:
        return loss(apply(model, batch["x"]), batch["y"])

    def train(model: Stateful, x: Array, real: Array, key: Key) -> tuple[Array, Tree]:
        with nn.intercept_methods(_masked_batch_norm(real)):
            return run_linen(
                module,
                model,
                x,
                example_input,
                rngs={"dropout": key},
                mutable=list(model.state),
                **training,
            )

    return StatefulModel(init, apply, _masked(train, loss), evaluate)


def stateful_from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module], *, loss: Score = cross_entropy
) -> StatefulModel:
    """Model from the constructor of an nnx module with BatchNorm or other mutable variables.

    Parameters are the variables of type ``nnx.Param``.  Every other variable that is no random stream is
    state.  ``loss`` puts a copy of the module into training mode, seeds its streams, and passes the mask
    of real examples to every ``nnx.BatchNorm``; the module itself needs no code for padding.  ``apply``
    puts the copy into evaluation mode.

    A round averages the state as it averages parameters.  So the variance of the new model is the mean
    of the clients' running variances, without the variance between their means.

    Guarantees:
        - Loss, gradient and new state of a padded batch are those of the batch without its padding.
        - A batch without a real example has loss zero and does not change the state.
        - A running variance that compression left below zero counts as zero.
        - Inputs are not cast.

    Args:
        make: function ``(rngs) -> module``, called once now for the graph and once in every ``init``.
            Its BatchNorm layers must see the batch axis first.
        loss: score ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example.

    Returns:
        A :class:`StatefulModel`.  Pass its loss to clients as ``fjx.clients.whole_batch(model.loss)``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> class Normalised(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.norm = nnx.BatchNorm(1, momentum=0.5, rngs=rngs)
        ...         self.last = nnx.Linear(1, 2, rngs=rngs)
        ...     def __call__(self, x):
        ...         return self.last(self.norm(x))
        >>> model = stateful_from_nnx(Normalised)
        >>> start = model.init(jax.random.key(0))
        >>> batch = {"x": jnp.array([[4.0], [8.0], [99.0]]), "y": jnp.array([0, 1, 0])}
        >>> mask = jnp.array([1.0, 1.0, 0.0])
        >>> loss, metrics, state = model.loss(start, batch, mask, jax.random.key(1))
        >>> float(state["norm"]["mean"][0])
        3.0

    References:
        Ioffe, Szegedy, *Batch Normalization*, ICML 2015 (arXiv:1502.03167).
    """

    def split(module: nnx.Module) -> Any:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    # The key is a placeholder: every call with a key seeds the streams anew.
    graph, _, streams, _ = split(make(nnx.Rngs(jax.random.key(0))))

    def init(key: Key) -> Stateful:
        _, params, _, state = split(make(nnx.Rngs(key)))
        return Stateful(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    def module_of(model: Stateful) -> Any:
        variables = nnx.State(model.params), streams, nnx.State(model.state)
        module = nnx.merge(graph, *variables, copy=True)
        for part in _batch_norms(module):
            part.var[...] = jnp.maximum(part.var[...], 0)
        return module

    def apply(model: Stateful, x: Array) -> Array:
        module = module_of(model)
        module.eval()
        with flax_promotion():
            return module(x)

    def evaluate(model: Stateful, batch: Batch) -> dict[str, Array]:
        return loss(apply(model, batch["x"]), batch["y"])

    def train(model: Stateful, x: Array, real: Array, key: Key) -> tuple[Array, Tree]:
        module = module_of(model)
        module.train()
        nnx.reseed(module, default=key)
        for part in _batch_norms(module):
            part.__class__ = _masked_class(type(part))  # of this copy, which nobody else sees
        with flax_promotion(), _counting(real):
            outputs = module(x)
        return outputs, nnx.to_pure_dict(split(module)[3])

    return StatefulModel(init, apply, _masked(train, loss), evaluate)


def _batch_norms(module: nnx.Module) -> list[nnx.BatchNorm]:
    return [part for _, part in nnx.iter_graph(module) if isinstance(part, nnx.BatchNorm)]


def _masked(train: Train, loss: Score) -> Callable[..., tuple[Array, Metrics, Tree]]:
    """The loss of a :class:`StatefulModel`: the mean over the real examples of a batch."""

    def masked_loss(
        model: Stateful, batch: Batch, mask: Array, key: Key
    ) -> tuple[Array, Metrics, Tree]:
        real = mask.astype(bool)
        anyone = jnp.any(real)
        # The statistics of no example at all would be 0/0, and the zero gradient below would be
        # multiplied by NaN.  So a batch of padding only is normalised by its padding; its result
        # counts nowhere.
        outputs, state = train(model, batch["x"], real | ~anyone, key)
        weights = real.astype(jnp.float32) / jnp.maximum(jnp.sum(real), 1).astype(jnp.float32)
        means = {
            name: jnp.sum(weights * score) for name, score in loss(outputs, batch["y"]).items()
        }
        state = jax.tree.map(lambda new, old: jnp.where(anyone, new, old), state, model.state)
        return means.pop("loss"), means, state

    return masked_loss


def _masked_batch_norm(real: Array) -> Callable[..., Any]:
    """Interceptor that gives every BatchNorm the mask ``bool[b]`` of the examples that count."""

    def interceptor(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            kwargs = kwargs | {"mask": real.reshape(-1, *[1] * (x.ndim - 1))}
        return call(*args, **kwargs)

    return interceptor


_REAL: contextvars.ContextVar[Array] = contextvars.ContextVar("real")
"""Mask of the real examples while an nnx module is called: its layers have no other way to learn it."""


@contextlib.contextmanager
def _counting(real: Array) -> Iterator[None]:
    """Context in which masked layers count the examples where ``real`` is true."""
    token = _REAL.set(real)
    try:
        yield
    finally:
        _REAL.reset(token)


class _MaskedBatchNorm(nnx.BatchNorm):
    """BatchNorm whose calls get the mask of the real examples."""

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
        mask = _REAL.get().reshape(-1, *[1] * (x.ndim - 1))
        return super().__call__(x, *args, **kwargs | {"mask": mask})


@functools.cache
def _masked_class(kind: type[nnx.BatchNorm]) -> type[nnx.BatchNorm]:
    """The class with :class:`_MaskedBatchNorm` behind it, which a call of its own reaches by super()."""
    if kind is nnx.BatchNorm:
        return _MaskedBatchNorm
    return type(kind.__name__, (kind, _MaskedBatchNorm), {})
