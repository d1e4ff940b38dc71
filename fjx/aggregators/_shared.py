"""Aggregators whose clients share a rotation, a mask or a permutation."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._kernels.hadamard import rotate, unrotate
from fjx._kernels.permutation import permute
from fjx._kernels.select import share_of
from fjx.aggregators._around import around, require_aggregator
from fjx.aggregators._mean import mean
from fjx.aggregators._vectors import as_vector
from fjx.wire._payload import padded_size


def rotated(aggregator: Aggregator, *, rounds: int = 2, block: int | None = None) -> Aggregator:
    """An aggregator in random coordinates that all clients of the round share.

    The message as one vector x is padded with zeros to d' coordinates, and Rx is aggregated.  R is the
    randomised Hadamard transform of :func:`fjx.compressors.rotated`, whose signs follow from the
    round's public key.  R^T is applied once, to the result.  If each client had a seed of its own, the
    server would be sent n seeds and undo n rotations.

    Guarantees:
        - R is orthogonal: the result is that of ``aggregator`` in other coordinates, with its error,
          and unbiased if ``aggregator`` is.
        - Errors of clients that round alike in shared coordinates need not be independent.  If a codec
          is unbiased only because of the rotation (DRIVE, EDEN), its errors do not average out.

    Bits:
        Those of ``aggregator`` for d' coordinates.  The rotation is free.

    Args:
        aggregator: linear aggregator of vectors of float32, such as
            ``compressed(compressors.k_level(levels=4))``.
        rounds: number of times that signs and Hadamard transform are applied, at least 1.
        block: number of coordinates that are rotated together, a power of two; None for all.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves.

    Raises:
        TypeError: ``aggregator`` is something else, or ``rounds`` or ``block`` is not an integer; a
            leaf of the message is not floating (from ``init``).
        ValueError: ``rounds`` is less than 1, or ``block`` is not a power of two.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, compressors, wire
        >>> a = aggregators.rotated(aggregators.compressed(compressors.k_level(levels=2)))
        >>> x = {"w": jnp.arange(60.0).reshape(6, 10), "b": jnp.ones(4)}
        >>> public = fjx.Public.first(a, x, jax.random.key(0))
        >>> wire.bits(a.encode(jax.random.key(1), x, public))
        128

    References:
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*,
        ICML 2017 (arXiv:1611.00429), section 3; Ben Basat, Portnoy, Einziger, Ben-Itzhak,
        Mitzenmacher, Vargaftik, *QUIC-FL*, ICML 2024 (arXiv:2205.13341), for one inverse rotation.
    """
    require_aggregator("rotated", aggregator)
    rounds = _validate.static_integer("rounds", rounds, at_least=1, at_most=64)
    if block is not None:
        block = _validate.static_integer("block", block, at_least=1, at_most=2**30)
        if block & (block - 1):
            raise ValueError(f"block must be a power of two, such as 4096, got {block}")

    def together(size: int) -> int:
        return max(min(padded_size(size), block or padded_size(size)), 1)

    def before(vector: Array, public: Public) -> Array:
        size = together(vector.size)
        padded = jnp.pad(vector, (0, -vector.size % size)).astype(jnp.float32)
        return rotate(public.key, padded, rounds=rounds, block=size)

    def after(result: Array, public: Public) -> Array:
        size = public.like.size
        return unrotate(public.key, result, rounds=rounds, block=together(size))[:size]

    return as_vector(around(aggregator, before=before, after=after))


def shared_rand_k(ratio: float, aggregator: Aggregator | None = None) -> Aggregator:
    """The aggregate of k = ceil(ratio d) random coordinates that are the same for all, scaled by d/k.

    The coordinates follow from the round's public key: no position and no seed is sent.  k numbers are
    summed, and put in their places once.

    Guarantees:
        - Unbiased, with E||result - mean||^2 = (d/k - 1) ||mean||^2, exactly.
        - There is no gain from many clients: a mask for each client would leave 1/n of
          (d/k - 1) mean ||x_i||^2.  But it is linear, so that k numbers may be summed in secret.
        - With another aggregator the result is d/k times its result on the k coordinates.  The scaling
          cannot enlarge a message that ``aggregator`` bounds.

    Bits:
        32 k, or those of ``aggregator``.

    Args:
        ratio: share of the coordinates of the whole message, in (0, 1].
        aggregator: linear aggregator of vectors of k coordinates; their weighted :func:`mean` by
            default.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves.

    Raises:
        TypeError: ``ratio`` is not a Python number, or ``aggregator`` is something else; a leaf is not
            floating (from ``init``).
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, wire
        >>> a = aggregators.shared_rand_k(0.25)
        >>> public = fjx.Public.first(a, jnp.ones(8), jax.random.key(0))
        >>> wire.bits(a.encode(jax.random.key(1), jnp.ones(8), public))
        64
        >>> sorted(aggregators.aggregate(jax.random.key(0), a, jnp.ones((2, 8)))[0].tolist())
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0]

    References:
        Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, *Federated Learning: Strategies for Improving
        Communication Efficiency*, 2016 (arXiv:1610.05492), with random masks of each client's own.
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)
    inner = mean() if aggregator is None else aggregator
    require_aggregator("shared_rand_k", inner)

    def places(size: int, public: Public) -> Array:
        k = share_of(ratio, size)
        return permute(public.key, jnp.arange(k, dtype=jnp.int32), size)

    def before(vector: Array, public: Public) -> Array:
        return vector[places(vector.size, public)]

    def after(result: Array, public: Public) -> Array:
        size = public.like.size
        values = size / max(result.size, 1) * result
        nothing = jnp.zeros(size, result.dtype)
        return nothing.at[places(size, public)].set(values, unique_indices=True)

    return as_vector(around(inner, before=before, after=after))


def perm_k(clients: int) -> Aggregator:
    """The mean of messages of which each client sends another part, by a permutation that all share.

    With n clients and b = ceil(d / n), the client of rank i sends the b coordinates at the places
    i b, ..., i b + b - 1 of a random permutation, and they count n times.  With more clients than
    coordinates each client sends one coordinate, and a coordinate that c of them send counts n / c.

    Guarantees:
        - Unbiased: C_i has omega = n - 1.
        - The mean of n equal messages is exact, to rounding, for every d and n.
        - E||mean C_i(x_i) - mean||^2 = A (mean ||x_i||^2 - ||mean||^2), with A = 1 for d >= n, and
          A = (d - 1) / (n - 1) if d divides n.
        - Every client that takes part counts alike.
        - If some of the n clients are missing, the result is an unbiased estimate of the mean of those
          who came.
        - Clients of rank n and above are left out, and counted in the metric ``surplus``.

    Bits:
        32 b.

    Args:
        clients: cohort size n, at least 1.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums.

    Raises:
        TypeError: ``clients`` is not an integer; a leaf is not floating (from ``init``).
        ValueError: ``clients`` is less than 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.tile(jnp.arange(6.0), (4, 1))
        >>> aggregators.aggregate(jax.random.key(0), aggregators.perm_k(4), x)[0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    References:
        Szlendak, Tyurin, Richtarik, *Permutation Compressors for Provably Faster Distributed Nonconvex
        Optimization*, ICLR 2022 (arXiv:2110.03300).
    """
    n = _validate.static_integer("clients", clients, at_least=1, at_most=2**30)

    def part(size: int, public: Public) -> tuple[Array, Array]:
        """The coordinates of a client and their factors, ``[b]`` each.

        A coordinate beyond the message has the factor zero.
        """
        block = -(-size // n)
        slots = block * n
        own = jnp.minimum(public.rank, n - 1) * block + jnp.arange(block, dtype=jnp.int32)
        slot = permute(jax.random.fold_in(public.key, 0), own, slots)
        if size >= n:
            return slot, jnp.where(slot < size, jnp.float32(n), 0.0)
        # Slot s stands for coordinate s mod d, so that the first n mod d have one client more.
        coordinate = slot % size
        sharing = n // size + (coordinate < n % size).astype(jnp.float32)
        return coordinate, n / sharing

    def init(vector_like: TreeLike) -> Tree:
        return ()

    def encode(key: Key, vector: Array, public: Public) -> Array:
        if not vector.size:
            return vector
        coordinates, _ = part(vector.size, public)
        return vector.at[coordinates].get(mode="fill", fill_value=0)

    def contribute(values: Array, weight: Array, public: Public) -> Tree:
        counts = (weight > 0) & (public.rank < n)
        surplus = ((weight > 0) & (public.rank >= n)).astype(jnp.int32)
        spread = jnp.zeros(public.like.size, values.dtype)
        if spread.size:
            coordinates, factor = part(spread.size, public)
            scaled = jnp.where(counts, factor.astype(values.dtype) * values, 0.0)
            spread = spread.at[coordinates].add(scaled, mode="drop")
        return spread, counts.astype(jnp.int32), surplus

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        summed, count, surplus = total
        mean = _tree.divide(summed, jnp.maximum(count, 1))
        return mean, public.state, {"surplus": surplus}

    return as_vector(Aggregator(init, contribute, finish, SUM, encode))
