"""Example-level privacy: DP-SGD on the client's own examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Steps, Tree, Turn
from fjx.clients._loss import Loss, LossFn, per_example, value_and_grad
from fjx.clients._sgd import descend
from fjx.privacy import Bound, Contribution, gaussian

_COINS = 256  # tossed at a time
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
    r"""Trains with clipped, noised gradients of Poisson samples of the client's own examples.

    In each of ``steps`` steps every example is drawn with probability q = ``sampling_rate``,
    independently of all others, and

    g = (sum_i clip(grad l(w, x_i)) + N(0, (z C)^2 I)) / L,    L = ``batch_size``,

    goes to the optimiser, so what is sent is private towards each *example*, whoever reads it.
    :func:`fjx.privacy.examples_epsilon` says how private.  L is a public number, such as the batch to be
    expected of a typical client: the size of the sample, and of the client, would give examples away.

    Arrays need a fixed number of slots, ``capacity``.  If more are drawn, the first are kept and the
    others counted in ``unnoised_truncated_examples``; the accountant pays for the probability of that.

    The metrics are computed from examples *without noise*, as their names say: epsilon does not cover
    publishing them.  Neither does it cover a weight that is the number of a client's examples, such as
    :func:`fjx.aggregators.mean` takes by default, nor whether a client has any, for a round of
    :func:`fjx.compose` leaves one without examples out; both are public under ``"replace_one"``.

    Guarantees: an example moves the sum of a step by at most C, whatever it is, one with a gradient that
        is not finite by nothing; noise is added once to each sum, also where nobody was drawn and of a
        client without examples; coins, noise and what the loss draws have keys of their own.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, evaluated on batches of one.
        optimizer: any optax transformation; its state begins anew in each round.
        clip_norm: C, of one example's gradient; may be traced.  Or a :class:`fjx.privacy.Bound`.
        noise_multiplier: z, as of :func:`fjx.privacy.gaussian`; may be traced.
        sampling_rate: q in [2^-32, 1], rounded to a multiple of 2^-32.
        steps: noised steps in a round; may be traced.
        batch_size: L, positive; may be traced.
        capacity: the most examples of a step; bounds memory.

    Returns:
        A :class:`fjx.ClientUpdate` without state.  Its metrics are ``steps`` and, over all steps,
        ``unnoised_loss`` and ``unnoised_*`` for what ``loss_fn`` reports (averages over the examples
        drawn), ``unnoised_clipped_examples`` (the fraction of them that was), and the counts
        ``unnoised_nonfinite_examples`` and ``unnoised_truncated_examples``.

    Raises:
        TypeError: ``loss_fn`` is not a function, or a :class:`fjx.clients.Loss`, which may mix examples;
            (when traced) the model is a :class:`fjx.Stateful`, whose state would; a wrong type.
        ValueError: a number is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
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
            "dp_sgd clips the gradient of each example and needs a function (params, batch, key) -> "
            f"loss that is a mean over examples, not a Loss that may mix them; got {loss_fn!r}"
        )
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}")
    mechanism = gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    rate = _validate.static_number("sampling_rate", sampling_rate, at_least=1 / _WORD, at_most=1)
    _validate.integer("steps", steps, at_least=1)
    _validate.number("batch_size", batch_size, above=0)
    capacity = _validate.static_integer("capacity", capacity, at_least=1)
    loss = per_example(loss_fn)

    def one(model: Tree, example: Tree, key: Key) -> tuple[Contribution, Metrics]:
        """What one example adds to the sum of a step, and to the metrics."""
        batch = jax.tree.map(lambda x: x[None], example)
        value, metrics, _, gradient = value_and_grad(loss, model, batch, jnp.ones(1, bool), key)
        wide = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
        bounded = mechanism.clip(wide, jnp.ones(()), ())
        finite = bounded.finite
        share = Contribution(
            bounded.update,
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
        """The sums of step ``t`` over the examples that are drawn."""
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
                "clients.dp_sgd cannot move mutable state, which mixes the examples of a batch; "
                "use a model without, GroupNorm in place of BatchNorm say"
            )
        keys = _Keys(*jax.random.split(key, 3))
        sums = jax.eval_shape(observe, model, examples, 0, keys)[1]
        optimizer_state = optimizer.init(_tree.split_floats(model)[0])
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
        model, optimizer_state = descend(optimizer, gradient, now.optimizer, now.model)
        return _Training(model, optimizer_state, _tree.add(now.sums, seen), now.keys)

    def end(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn, done: _Training
    ) -> tuple[Tree, Tree, Metrics]:
        sums = dict(done.sums)
        drawn = jnp.maximum(sums.pop("drawn"), 1.0)
        counts = {name: sums.pop(name) for name in _COUNTS}
        means = {name: x / drawn for name, x in sums.items()}
        metrics = {**means, **counts, "steps": jnp.asarray(steps).astype(jnp.float32)}
        return _tree.subtract(done.model, model), state, metrics

    return ClientUpdate(lambda params: (), Steps(begin, step, end), _tree.like)


class _Keys(NamedTuple):
    """What a client draws from: which examples, the noise, and what its loss needs."""

    coins: Key
    noise: Key
    loss: Key


class _Training(NamedTuple):
    """Where a client's training is: its model, optimiser and metrics, summed; and its keys."""

    model: Tree
    optimizer: Any
    sums: dict[str, Array]
    keys: _Keys


def poisson_sample(key: Key, size: Array, rate: float, capacity: int) -> tuple[Array, Array]:
    """Positions below ``size``, each with probability ``rate``, and how many were drawn.

    The first ``capacity`` of them in order; slots past the number drawn hold zero.  ``size`` is traced,
    so coins are tossed in blocks, and of each block those that fell are written where there is room.

    Returns:
        ``i32[capacity]`` and ``i32[]``, which may be more.
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
    """The sum over the first axis of those in ``mask``; what the others hold does not matter."""
    mask = mask.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, x, jnp.zeros_like(x)), axis=0)
