"""The premise of a plain loss function: it is a mean over the examples of a batch.

Clients evaluate a plain function on one example at a time and average the results.  That is the
function as it is written only if it is a mean over examples, and no signature says so.  A run
therefore compares both sides once, on real examples: the function of two examples together, and the
mean of its values on each of them.
"""

import contextlib
import contextvars
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from fjx._base import Array, Key, Template, Tree
from fjx._kernels.inner import right_options

Values = Callable[[Tree, Tree, Key], dict[str, Array]]
"""A function ``(model, batch, key) -> {name: scalar}``, the loss and its metrics by name."""


class Premise(NamedTuple):
    """A plain loss function that clients average over single examples.

    Attributes:
        values: the loss function, with its results by name.
        model: shapes of the model that it was given.
        example: shapes of one example.
    """

    values: Values
    model: Template
    example: Template


class Premises(NamedTuple):
    """Premises of the loss functions that were traced.

    Attributes:
        known: the premises by function and shapes, each with its function, whose id is then its own.
        passed: the kinds of examples on which all of them held.
    """

    known: dict[tuple[int, Template, Template], tuple[Any, Premise]]
    passed: set[str]


_TRACED: contextvars.ContextVar[Premises | None] = contextvars.ContextVar("traced", default=None)


@contextlib.contextmanager
def traced_premises() -> Iterator[Premises]:
    """Context that notes every plain loss function which is traced inside it.

    The tracing that a run needs anyway thus finds the loss functions, whatever client, wrapper or
    round they are in, with the shapes of what they are given.
    """
    premises = Premises({}, set())
    token = _TRACED.set(premises)
    try:
        yield premises
    finally:
        _TRACED.reset(token)


def note(loss_fn: Any, values: Values, model: Tree, batch: Tree) -> None:
    """Note that clients average ``loss_fn`` over single examples, if somebody wants to know."""
    premises = _TRACED.get()
    if premises is None:
        return
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    premise = Premise(values, Template.of(model), Template.of(one))
    known = id(loss_fn), premise.model, premise.example
    premises.known.setdefault(known, (loss_fn, premise))


def require_premise(premise: Premise, params: Tree, pairs: Tree, *, made_up: bool = False) -> bool:
    """Raise unless a loss function and its metrics are means over examples.

    Two forward passes are compiled, one for two examples together and one for single examples.  They
    run twice: with ``params``, and with parameters that were moved a little, because a model of zeros
    hides what a loss function mixes.  The randomness is the same for every example.  A function that
    cannot be traced on two examples is left alone.  Values that are small beside the rounding of terms
    near one are compared once more in float64.

    Args:
        premise: loss function and its shapes.
        params: model; parameters of zeros are taken if its shapes are not those of the premise.
        pairs: NumPy examples, ``[pairs, 2, ...]``.
        made_up: True if the examples are none of the dataset, so that a NaN says nothing about it.

    Returns:
        True if both sides were compared.

    Raises:
        ValueError: the loss or a metric is not the mean of its values on single examples.
    """
    model = _model(premise.model, params)
    if Template.of(jax.tree.map(lambda x: x[0, 0], pairs)) != premise.example:
        return False  # the client made other batches of the examples, which nobody else can make
    with jax.debug_nans(False), jax.debug_infs(False), jax.default_matmul_precision("highest"):
        key = jax.random.key(0, impl=_alike())
        compare = jax.jit(functools.partial(_sides, premise.values))
        try:
            traced = compare.trace(model, pairs, key, np.float32(0))
            if len(traced.jaxpr.in_avals) > len(jax.tree.leaves((model, pairs))) + 2:
                return (
                    False  # it closes over a hyper-parameter of an outer program, without a value
                )
            quick = _QUICK | (right_options() or {}) if jax.default_backend() == "cpu" else None
            program = traced.lower().compile(quick)
        except Exception:  # whatever the function raises for two examples, it has one mean only
            return False
        tolerance = _tolerance(str(traced.jaxpr))
        for step in (0.0, 0.5):
            arguments = model, pairs, key, np.float32(step)
            together, apart = jax.device_get(program(*arguments))
            for name, values in together.items():
                _require_mean(name, values, apart[name], tolerance)
            if any(_too_small(values, apart[name], tolerance) for name, values in together.items()):
                _require_means_in_doubles(premise.values, arguments)
            if step == 0.0 and not made_up:
                _require_numbers(apart)
    return True


def _too_small(together: Any, apart: Any, tolerance: float) -> bool:
    """True if a difference may be rounding: it is small beside one, and not beside the values."""
    together, apart = np.float64(together), np.float64(apart)
    with np.errstate(invalid="ignore"):
        scale = np.maximum(np.abs(together), np.abs(apart).max(axis=1))
        return bool(np.any(np.abs(together - apart.mean(axis=1)) > tolerance * scale))


def _require_means_in_doubles(values: Values, arguments: tuple[Tree, Tree, Key, Any]) -> None:
    """Compare once more in float64, which tells small values from the rounding of larger ones.

    A function that computes in narrower floats all the same, or not at all, is left alone.
    """
    model, pairs, key, step = arguments
    try:
        with jax.enable_x64(True):
            model, pairs = jax.tree.map(_doubled, (model, pairs))
            traced = jax.jit(functools.partial(_sides, values)).trace(
                model, pairs, key, np.float64(step)
            )
            if re.search(r"\b(bf16|f16|f8\w*|f32)\[", str(traced.jaxpr)):
                return
            together, apart = jax.device_get(
                traced.lower().compile()(model, pairs, key, np.float64(step))
            )
    except Exception:  # whatever the function raises for float64
        return
    for name, value in together.items():
        _require_mean(name, value, apart[name], _DOUBLES, least=_LEAST)


_DOUBLES = 2.0**-26  # the square root of their precision
_LEAST = 2.0**-17  # times it is the rounding of terms of a hundred, and more


def _doubled(x: Any) -> Any:
    x = np.asarray(x)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of a program that runs twice on a few examples."""


def _sides(
    values: Values, model: Tree, pairs: Tree, key: Key, step: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The values of each pair, ``f[pairs]``, and of each of its examples, ``f[pairs, 2]``."""
    model = jax.tree.map(lambda x: _moved(x, step), model)

    def of(pair: Tree) -> tuple[dict[str, Array], dict[str, Array]]:
        def alone(example: Tree) -> dict[str, Array]:
            return values(model, jax.tree.map(lambda x: x[None], example), jax.random.clone(key))

        return values(model, pair, jax.random.clone(key)), jax.vmap(alone)(pair)

    return jax.lax.map(of, pairs)


def _moved(x: Array, step: Array) -> Array:
    """A parameter that was moved a little, the less the more inputs each output has."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) or not x.size:
        return x
    inputs = max(x.size // x.shape[-1], 1) if x.ndim else 1
    wide = np.promote_types(x.dtype, np.float32)
    wave = jnp.sin(jnp.arange(1, x.size + 1, dtype=wide)).reshape(x.shape)
    return x + (step * inputs**-0.5 * wave).astype(x.dtype)


_PARTS = (
    "Return the parts of a ratio (recall, F1, a mean over tokens) as metrics of their own, each a mean "
    "over the batch, and divide their averages; or evaluate it by fjx.evaluation.counts"
)


def _require_mean(
    name: str, together: Any, apart: Any, tolerance: float, least: float = 1.0
) -> None:
    """Raise unless the value of each pair is the mean of the values of its examples.

    Values below ``least`` may be sums of terms as large as that, whose rounding they have.
    """
    together, apart = np.float64(together), np.float64(apart)
    wanted = apart.mean(axis=1)
    with np.errstate(invalid="ignore"):  # infinite on both sides
        scale = np.maximum(np.abs(together), np.abs(apart).max(axis=1))
        near = np.abs(together - wanted) <= tolerance * np.maximum(scale, least)
    agree = near | (together == wanted) | (np.isnan(together) & np.isnan(wanted))
    if agree.all():
        return
    at = int(np.argmin(agree))
    found = (
        f"on two examples it is {together[at]:.4g}, and on each of them "
        f"{apart[at, 0]:.4g} and {apart[at, 1]:.4g}"
    )
    if name == "loss":
        raise ValueError(
            f"loss_fn is not a mean over the examples of a batch: {found}.  Clients would evaluate it "
            "on one example at a time and average.  Write it as a mean over examples.  If a batch "
            "counts as a whole (a mean over tokens, BatchNorm, a contrastive loss), wrap it: "
            "fjx.clients.whole_batch(loss_fn), with the form (params, batch, mask, key) -> loss.  If "
            "the average over single examples is meant, say so: fjx.clients.per_example(loss_fn)"
        )
    raise ValueError(
        f"loss_fn's metric {name!r} is not a mean over the examples of a batch: {found}.  Rounds "
        f"average metrics over examples.  {_PARTS}.  If the average over single examples is meant, say "
        "so: fjx.clients.per_example(loss_fn)"
    )


def _require_numbers(apart: dict[str, Any]) -> None:
    """Raise if a metric is NaN on an example whose loss is finite: every average would be NaN."""
    for name, values in apart.items():
        if np.any(np.isnan(values) & np.isfinite(apart["loss"])):
            raise ValueError(
                f"loss_fn's metric {name!r} is NaN on a batch of one example whose loss is finite, and "
                f"so would be every average of it.  {_PARTS}"
            )


def _tolerance(jaxpr: str) -> float:
    """Relative error of the narrowest floats in a program: the square root of their precision."""
    narrow = {"bf16": jnp.bfloat16, "f16": jnp.float16}
    found = set(re.findall(r"\b(bf16|f16|f8\w*)\[", jaxpr))
    if any(name not in narrow for name in found):
        return 0.5
    epsilon = max(float(jnp.finfo(narrow.get(x, jnp.float32)).eps) for x in {*found, "f32"})
    return epsilon**0.5


def _model(like: Template, params: Tree) -> Tree:
    """``params`` in the dtypes of a template, or zeros if they have another form."""
    wanted, given = like.tree, Template.of(params)
    if given.treedef == like.treedef and [x.shape for x in given.leaves] == [
        x.shape for x in like.leaves
    ]:
        return jax.tree.map(lambda x, y: np.asarray(x).astype(y.dtype), params, wanted)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted)


@functools.cache
def _alike() -> Any:
    """An implementation of random bits that are equal in all places of an array.

    Every example of a batch then meets the same randomness, whatever the size of the batch.  Children
    of a key are equal to one another, and differ from it, so that rejection sampling ends.
    """

    def child(key: Array) -> Array:
        return jax.random.key_data(
            jax.random.split(jax.random.wrap_key_data(key, impl=_BASE), 1)[0]
        )

    def seed(seed: Array) -> Array:
        return jax.random.key_data(jax.random.key(seed, impl=_BASE))

    def split(key: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(child(key), (*shape, *key.shape))

    def bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
        dtype = jnp.dtype(f"uint{width}")
        one = jax.random.bits(jax.random.wrap_key_data(key, impl=_BASE), (), dtype)
        return jnp.broadcast_to(one, shape)

    return define_prng_impl(
        key_shape=(2,),
        seed=seed,
        split=split,
        random_bits=bits,
        fold_in=lambda key, data: child(key),
        name="alike",
        tag="alike",
    )


_BASE = "threefry2x32"
