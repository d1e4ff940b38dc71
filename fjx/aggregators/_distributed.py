"""Sums to which every client adds its own share of the noise."""

from typing import NamedTuple

import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.aggregators._around import releasing
from fjx.aggregators._vectors import as_vector
from fjx.privacy import DistributedMechanism
from fjx.wire import Codes, Observed, SideInformation


class _Seen(NamedTuple):
    """Facts about one client's message that are not sent: only a simulation knows them."""

    finite: Array
    clipped: Array
    norm: Array
    saturated: Array


class _Share(NamedTuple):
    """One client's codes, and counts."""

    codes: Array
    clients: Array
    surplus: Array
    seen: _Seen | None


def distributed(mechanism: DistributedMechanism, denominator: Array | float) -> Aggregator:
    r"""The sum of integers mod 2^b that carry their own noise, over a fixed number.

    With c_i the clipped, rounded and noised message of client i, the result is

    .. math:: \mathrm{decode}\left(\sum_i c_i \bmod 2^b\right) / \text{denominator}

    Put it within :func:`rotated`: rotated messages are flat, and lose nothing to the range::

        aggregators.rotated(aggregators.distributed(mechanism, denominator=100))
        aggregators.rotated(aggregators.shared_rand_k(0.1, aggregators.distributed(...)))

    Simulation only: the result of a secure sum is computed in the open, and nothing is secured.  The
    metrics ``unnoised_clipped``, ``unnoised_norm`` and ``unnoised_saturated`` are computed from the
    clients' messages without noise: epsilon does not cover publishing them.  The first two are means,
    and NaN if nobody counts.

    Guarantees:
        - Messages are clipped *here*, after the transforms around it: no rotation, mask or sketch can
          enlarge the part that a client adds.
        - Integers are added, exactly mod 2^b for any wrap, order and number of clients.
        - A client without a message (no examples, or a message that is not finite) adds zeros with its
          noise, so that neither the noise nor an abort depends on data.
        - In a round of :func:`fjx.compose` a client that drops out adds nothing.
        - Clients of rank ``mechanism.clients`` and above are left out, and counted in ``surplus``.
        - Nothing is released from fewer than ``mechanism.least`` clients, whose noise would not be
          enough: the message is zero, and ``aborted`` is 1.

    Bits:
        d * b.

    Args:
        mechanism: distributed mechanism, such as :func:`fjx.privacy.distributed_gaussian`.
        denominator: public number, positive; may be traced.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums.  Its metric ``noise_std``
        is the standard deviation of the noise in each coordinate of the result.

    Raises:
        TypeError: ``mechanism`` is something else; a leaf of the message is not floating (from
            ``init``).
        ValueError: ``denominator`` is not positive; there are more coordinates than the mechanism was
            made for (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, privacy, wire
        >>> mechanism = privacy.distributed_gaussian(clip_norm=4.0, noise_multiplier=0.0,
        ...     granularity=0.5, bits=8, clients=2, dimension=2)
        >>> a = aggregators.distributed(mechanism, denominator=2)
        >>> x = jnp.array([1.5, -2.0])
        >>> public = fjx.Public.first(a, x, jax.random.key(0), size=2)
        >>> payload = jax.jit(a.encode)(jax.random.key(1), x, public)
        >>> payload.sent.codes.tolist(), wire.bits(payload)
        ([3, 252], 16)
        >>> aggregators.aggregate(jax.random.key(0), a, jnp.stack([x, x]))[0].tolist()
        [1.5, -2.0]

    References:
        Kairouz, Liu, Steinke, ICML 2021 (arXiv:2102.06387), algorithms 1 and 2; Agarwal, Kairouz, Liu,
        NeurIPS 2021 (arXiv:2110.04995).
    """
    if not isinstance(mechanism, DistributedMechanism):
        raise TypeError(
            "distributed needs a fjx.privacy.DistributedMechanism such as "
            f"privacy.distributed_gaussian(...), got {mechanism!r}"
        )
    denominator = _validate.scalar("denominator", denominator, above=0)

    def init(vector_like: TreeLike) -> Tree:
        if vector_like.size > mechanism.dimension:
            raise ValueError(
                f"the mechanism is accounted for {mechanism.dimension} coordinates and the message has "
                f"{vector_like.size}, padded; make it with dimension={vector_like.size}"
            )
        return ()

    bits = mechanism.bits
    narrow = jnp.uint8 if bits <= 8 else jnp.uint16 if bits <= 16 else jnp.uint32

    def encode(key: Key, vector: Array, public: Public) -> Observed:
        own = mechanism.encode(key, vector)
        seen = _Seen(
            finite=own.finite.astype(jnp.int32),
            clipped=own.clipped.astype(jnp.int32),
            norm=jnp.where(own.finite, own.norm, 0.0),
            saturated=own.saturated,
        )
        return Observed(Codes(own.codes.astype(narrow), bits), SideInformation(seen))

    def contribute(payload: Observed, weight: Array, public: Public) -> _Share:
        # A client whose weight is zero sent zeros with its noise, and they are added: otherwise its
        # participation would reveal something about its data.
        fits, counts, seen = public.rank < mechanism.clients, weight > 0, payload.seen.value
        share = _Share(
            codes=payload.sent.codes.astype(jnp.uint32),
            clients=jnp.ones((), jnp.int32),
            surplus=jnp.zeros((), jnp.int32),
            seen=None if seen is None else _tree.where(counts, seen, _tree.zeros_like(seen)),
        )
        share = _tree.where(fits, share, _tree.zeros_like(share))
        return share._replace(surplus=(~fits).astype(jnp.int32))

    def finish(key: Key, total: _Share, public: Public) -> tuple[Tree, Tree, Metrics]:
        factor = 1 / jnp.asarray(denominator, jnp.float32)
        enough = total.clients >= mechanism.least
        message = jnp.where(enough, mechanism.decode(total.codes, total.clients) * factor, 0.0)
        present = total.clients.astype(jnp.float32)
        metrics = {
            "surplus": total.surplus,
            "aborted": (~enough).astype(jnp.int32),
            "noise_std": jnp.sqrt(present * mechanism.variance) * factor,
        }
        if total.seen is not None:
            metrics |= {
                "unnoised_clipped": _tree.mean_of(total.seen.clipped, total.seen.finite),
                "unnoised_norm": _tree.mean_of(total.seen.norm, total.seen.finite),
                "unnoised_saturated": total.seen.saturated,
            }
        return message, public.state, metrics

    return as_vector(releasing(Aggregator(init, contribute, finish, SUM, encode), mechanism))
