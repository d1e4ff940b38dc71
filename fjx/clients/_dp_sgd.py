"""Example-level privacy: DP-SGD on the client's own examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import (
    Array,
    ClientUpdate,
    ExampleReleases,
    Examples,
    Key,
    Metrics,
    Stateful,
    Steps,
    Tree,
    Turn,
)
from fjx.clients import _optimizer
from fjx.clients._loss import Loss, LossFn, as_loss, value_and_grad
from fjx.privacy import Bound, Contribution, gaussian

_COINS = 256  # coins tossed in one iteration
_WORD = 2**32
_COUNTS = ("unnoised_nonfinite_examples", "unnoised_truncated_examples")


def dp_sgd(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    clip_norm: float | Array | Bound,
    noise_multiplier: float | Array,
    sampling_rate: float,
    steps: int | Array,
    batch_size: float | Array,
    capacity: int,
) -> ClientUpdate:
    r"""Train with clipped and noised gradients of Poisson samples of the client's examples.

    Each of the ``steps`` steps draws every example with probability q = ``sampling_rate``,
    independently of all others.  The optimiser receives

    .. math:: g = (\sum_i \mathrm{clip}(\nabla l(w, x_i)) + N(0, (z C)^2 I)) / L

    with L = ``batch_size``.  The message is therefore private towards each *example*, whoever reads
    it.  :func:`fjx.plan_examples` computes how private from the client that runs, and
    :func:`fjx.privacy.examples_epsilon` from numbers.  L must be a public number, such
    as the expected batch of a typical client.  The size of the sample or of the client would reveal
    something about the examples.

    ``capacity`` is the number of array slots for one sample.  If more examples are drawn, the first
    ones are kept and the others are counted in ``unnoised_truncated_examples``.  The accountant
    pays for the probability of that event.

    Epsilon does *not* cover three things:

    - The metrics.  They are computed from examples *without noise*, as their names say; publishing
      them is not accounted for.
    - A weight that is the client's number of examples, which :func:`fjx.aggregators.mean` uses by
      default.
    - The fact that a client has examples at all: a round of :func:`fjx.compose` leaves an empty
      client out.

    The last two are public under ``"replace_one"``.

    Guarantees:
        - Any example changes the sum of a step by at most C; an example whose gradient is not
          finite does not change it.
        - Noise is added once to each sum, even if no example was drawn and even if the client has
          no examples.
        - The coins, the noise and the randomness of the loss have separate keys.

    Args:
        loss_fn: loss ``(params, batch, key) -> loss`` or ``(loss, metrics)``, evaluated on batches
            of one.
        optimizer: optax transformation of the local steps, as for :func:`local_sgd`.  It is given the
            noised gradient and nothing else: the loss of the batch is not noised, so that
            transformations that need ``value`` are refused.
        clip_norm: bound C on the gradient of one example; may be traced.  Or a
            :class:`fjx.privacy.Bound`.
        noise_multiplier: noise multiplier z, as in :func:`fjx.privacy.gaussian`; may be traced.
        sampling_rate: probability q in [2^-32, 1], rounded to a multiple of 2^-32.
        steps: noised steps in a round; may be traced.
        batch_size: denominator L, positive; may be traced.
        capacity: largest number of examples in a step; it bounds the memory.

    Returns:
        A :class:`fjx.ClientUpdate` without state.

        Its metrics cover all steps of the round.  ``steps`` is their number.  ``unnoised_loss``,
        ``unnoised_*`` (one for each metric of ``loss_fn``) and ``unnoised_clipped_examples`` (the
        fraction that was clipped) are averages over the examples drawn.
        ``unnoised_nonfinite_examples`` and ``unnoised_truncated_examples`` are counts.

    Raises:
        TypeError: ``loss_fn`` is not a function, or is a :class:`fjx.clients.Loss`, which may mix
            examples; the model is a :class:`fjx.Stateful`, whose state mixes examples (when
            traced); an argument has a wrong type.
        ValueError: a number is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import Examples, clients
        >>> client = clients.dp_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, optax.sgd(1.0),
        ...     clip_norm=1.0, noise_multiplier=0.0, sampling_rate=1.0, steps=1,
        ...     batch_size=2, capacity=2)
        >>> examples = Examples(jnp.array([0.5, 9.0]), jnp.int32(0), jnp.int32(2))
        >>> message, _, metrics = client.update(
        ...     jax.random.key(0), jnp.array(0.0), (), examples, fjx.Turn())
        >>> print(message.round(4), metrics["unnoised_clipped_examples"])
        0.75 0.5

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential
        Privacy*, CCS 2016 (arXiv:1607.00133), algorithm 1.
    """
    if isinstance(loss_fn, Loss) or not callable(loss_fn):
        raise TypeError(
            "dp_sgd clips the gradient of each example: loss_fn must be a function "
            "(params, batch, key) -> loss that is a mean over examples, not a Loss, which may mix "
            f"them; got {loss_fn!r}"
        )
    optimizer = _optimizer.as_local(optimizer)
    mechanism = gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    rate = _validate.static_number("sampling_rate", sampling_rate, at_least=1 / _WORD, at_most=1)
    _validate.integer("steps", steps, at_least=1)
    _validate.number("batch_size", batch_size, above=0)
    capacity = _validate.static_integer("capacity", capacity, at_least=1)
    loss = as_loss(loss_fn)

    def exact(gradient: Tree) -> Tree:
        """Whole steps, whose sum is exact; without noise nothing is claimed, and floats are added."""
        silent = _validate.concrete(noise_multiplier) and float(noise_multiplier) == 0
        to_steps = None if silent else mechanism.to_steps
        return gradient if to_steps is None else to_steps(gradient, ())

    def one(model: Tree, example: Tree, key: Key) -> tuple[Contribution, Metrics]:
        """Contribution of one example to the sum of a step, and to the metrics."""
        batch = jax.tree.map(lambda x: x[None], example)
        value, metrics, _, gradient = value_and_grad(loss, model, batch, jnp.ones(1, bool), key)
        wide = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
        bounded = mechanism.clip(wide, jnp.ones(()), ())
        finite = bounded.finite
        share = Contribution(
            exact(bounded.update),
            finite.astype(jnp.int32),
            bounded.clipped.astype(jnp.int32),
            bounded.norm,
        )
        seen = {
            **{f"unnoised_{name}": x for name, x in {**metrics, "loss": value}.items()},
            "unnoised_clipped_examples": share.clipped.astype(jnp.float32),
        }
        lost = {"unnoised_nonfinite_examples": (~finite).astype(jnp.float32)}
        kept = _tree.where(finite, (share, seen), _tree.zeros_like((share, seen)))
        return kept[0], {**kept[1], **lost}

    def observe(
        model: Tree, examples: Examples, t: Array, keys: _Keys
    ) -> tuple[Contribution, Metrics]:
        """Sums of step ``t`` over the examples that are drawn."""
        positions, drawn = poisson_sample(
            jax.random.fold_in(keys.coins, t), examples.size, rate, capacity
        )
        real = jnp.arange(capacity) < drawn
        each = jax.random.split(jax.random.fold_in(keys.loss, t), capacity)
        shares = jax.vmap(one, (None, 0, 0))(model, examples.take(positions), each)
        total, sums = jax.tree.map(lambda x: _masked_sum(real, x), shares)
        sums["unnoised_truncated_examples"] = jnp.maximum(drawn - capacity, 0).astype(jnp.float32)
        return total, {**sums, "drawn": total.clients.astype(jnp.float32)}

    def begin(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Array, _Training]:
        if isinstance(model, Stateful):
            raise TypeError(
                "clients.dp_sgd cannot move mutable state, because it mixes the examples of a "
                "batch; use a model without it, for example GroupNorm in place of BatchNorm"
            )
        keys = _Keys(*jax.random.split(key, 3))
        sums = jax.eval_shape(observe, model, examples, 0, keys)[1]
        optimizer_state = _optimizer.begin(optimizer, model)
        trips = jnp.asarray(steps, jnp.int32)
        return trips, _Training(model, optimizer_state, _tree.zeros_like(sums), keys)

    def step(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn, t: Array, now: _Training
    ) -> _Training:
        total, seen = observe(now.model, examples, t, now.keys)
        noised, _, _ = mechanism.release(jax.random.fold_in(now.keys.noise, t), total, ())
        floats, _ = _tree.split_floats(now.model)
        factor = 1 / jnp.asarray(batch_size, jnp.float32)
        gradient = jax.tree.map(lambda g, p: (factor * g).astype(p.dtype), noised, floats)
        model, optimizer_state = _optimizer.descend(optimizer, gradient, now.optimizer, now.model)
        return _Training(model, optimizer_state, _tree.add(now.sums, seen), now.keys)

    def end(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn, done: _Training
    ) -> tuple[Tree, Tree, Metrics]:
        sums = dict(done.sums)
        drawn = jnp.maximum(sums.pop("drawn"), 1.0)
        counts = {name: sums.pop(name) for name in _COUNTS}
        means = {name: x / drawn for name, x in sums.items()}
        metrics = {**means, **counts, "steps": jnp.asarray(steps).astype(jnp.float32)}
        trained = _optimizer.finish(optimizer, done.optimizer, done.model)
        return _tree.subtract(trained, model), state, metrics

    update = Steps(begin, step, end)
    releases = ExampleReleases(mechanism, rate, steps, capacity, update)
    return ClientUpdate(lambda params: (), update, _tree.like, releases=releases)


class _Keys(NamedTuple):
    """Keys of a client: for the examples it draws, for the noise, and for its loss."""

    coins: Key
    noise: Key
    loss: Key


class _Training(NamedTuple):
    """State of a client's training: model, optimiser state, sums of the metrics, and keys."""

    model: Tree
    optimizer: Any
    sums: dict[str, Array]
    keys: _Keys


def poisson_sample(key: Key, size: Array, rate: float, capacity: int) -> tuple[Array, Array]:
    """Poisson sample of the positions below ``size``, and the number of positions drawn.

    Each position is drawn with probability ``rate``.  The sample holds the first ``capacity`` of
    them in order; slots past the number drawn hold zero.

    ``size`` is traced, so coins are tossed in blocks; the positions that a block draws are written
    as long as there is room.

    Returns:
        ``i32[capacity]`` and ``i32[]``, which may be larger than ``capacity``.
    """
    last = jnp.uint32(round(rate * _WORD) - 1)

    def toss(block: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        slots, drawn = found
        positions = block * _COINS + jnp.arange(_COINS, dtype=jnp.int32)
        words = jax.random.bits(jax.random.fold_in(key, block), (_COINS,), jnp.uint32)
        chosen = (words <= last) & (positions < size)
        rank = drawn + jnp.cumsum(chosen, dtype=jnp.int32) - 1
        slots = slots.at[jnp.where(chosen, rank, capacity)].set(positions, mode="drop")
        return slots, rank[-1] + 1

    start = jnp.zeros(capacity, jnp.int32), jnp.int32(0)
    return jax.lax.fori_loop(0, -(-size // _COINS), toss, start)


def _masked_sum(mask: Array, x: Array) -> Array:
    """Sum over the first axis of the rows in ``mask``; the other rows may hold anything."""
    mask = mask.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, x, jnp.zeros_like(x)), axis=0)
