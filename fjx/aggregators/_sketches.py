"""Sums of count-sketches: FetchSGD, and means that are estimated from sketches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._kernels.select import largest_magnitudes, share_of
from fjx._kernels.sketch import estimate, sketch
from fjx.aggregators._around import around, require_aggregator
from fjx.aggregators._mean import mean
from fjx.aggregators._vectors import as_vector
from fjx.wire import Seed


def sketched(*, rows: int, columns: int, aggregator: Aggregator | None = None) -> Aggregator:
    """The weighted mean, estimated from the aggregate of the clients' count-sketches.

    Hashes follow from the round's public key, so that sketches can be added.  The coordinates are
    estimated once, by the median over the rows as in :func:`fjx.compressors.count_sketch`.

    Guarantees:
        - Linear, so that rows * columns numbers may be summed in secret.
        - With one row it is unbiased, with E||result - mean||^2 <= (d - 1) / columns ||mean||^2 for any
          number of clients.
        - Messages of at most ``columns`` coordinates give the mean itself, to rounding.

    Bits:
        32 rows * columns, or those of ``aggregator``.

    Args:
        rows: rows of a sketch, at least 1; medians want an odd number.
        columns: columns of a sketch, at least 1.
        aggregator: linear aggregator of vectors of rows * columns numbers; their weighted :func:`mean`
            by default.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves.

    Raises:
        TypeError: an argument is of another kind; a leaf is not floating (from ``init``).
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators
        >>> a = aggregators.sketched(rows=3, columns=16)
        >>> x = jnp.zeros(100).at[42].set(7.0)
        >>> public = fjx.Public.first(a, x, jax.random.key(0))
        >>> a.encode(jax.random.key(1), x, public).shape
        (48,)
        >>> float(aggregators.aggregate(jax.random.key(0), a, x[None])[0][42])
        7.0

    References:
        Ivkin, Rothchild, Ullah, Braverman, Stoica, Arora, *Communication-Efficient Distributed SGD with
        Sketching*, NeurIPS 2019 (arXiv:1903.04488).
    """
    rows, columns = _dimensions(rows, columns)
    inner = mean() if aggregator is None else aggregator
    require_aggregator("sketched", inner)

    def before(vector: Array, public: Public) -> Array:
        table = sketch(public.key, vector.astype(jnp.float32), rows=rows, columns=columns)
        return table.reshape(-1)

    def after(result: Array, public: Public) -> Array:
        return estimate(public.key, result.reshape(rows, columns), public.like.size)

    return as_vector(around(inner, before=before, after=after))


class FetchState(NamedTuple):
    """The server's memory of :func:`fetch_sgd`.

    Attributes:
        seed: the seed of the hashes.  It is drawn in the first round and kept, because
            sketches of one round are added to those of another.
        momentum: ``f32[rows, columns]``, the momentum M.
        error: ``f32[rows, columns]``, the sketch E of the part that the model was not given yet.
    """

    seed: Seed
    momentum: Array
    error: Array


def fetch_sgd(
    ratio: float, *, rows: int, columns: int, momentum: Array | float = 0.9
) -> Aggregator:
    """FetchSGD: momentum and error feedback in the space of sketches, on the server alone.

    With S the sketch of the clients' mean, in each round

        M = rho M + S,  E = E + M,  Delta = the k largest estimates from E,  E = E - sketch(Delta),

    and Delta moves the model.  Clients remember nothing, so that each may come once.  The part that
    top-k leaves for later waits on the server; the price is the error of an estimate.

    Guarantees:
        - Linear in the clients' messages.
        - With one row and at least d columns it is, to rounding, top-k with momentum and error feedback
          of the exact mean.
        - Delta has k coordinates that are not zero.
        - An estimate errs by about ||E|| / sqrt(columns), and the largest estimates are the most wrong:
          with k above a tenth of the columns the model is moved mostly by errors, and the method may
          diverge.

    Bits:
        32 rows * columns.  The broadcast is billed whole.

    Args:
        ratio: share of the coordinates of the whole message that Delta keeps, in (0, 1].
        rows: rows of a sketch, at least 1; medians want an odd number.
        columns: columns of a sketch, at least 1.
        momentum: momentum rho, in [0, 1); may be traced.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums; clients send their
        sketch.

    Raises:
        TypeError: an argument is not a number of its kind; a leaf is not floating (from ``init``).
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.fetch_sgd(0.25, rows=1, columns=8, momentum=0.0)
        >>> x = jnp.array([[1.0, 0.0, -4.0, 2.0]])
        >>> delta, state, _ = aggregators.aggregate(jax.random.key(0), a, x)
        >>> delta.tolist(), float(jnp.sum(jnp.abs(state.error)))
        ([0.0, 0.0, -4.0, 0.0], 3.0)

    References:
        Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora, *FetchSGD:
        Communication-Efficient Federated Learning with Sketching*, ICML 2020 (arXiv:2007.07682).
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)
    rows, columns = _dimensions(rows, columns)
    _validate.number("momentum", momentum, at_least=0, below=1)

    def hashes(public: Public) -> Seed:
        fresh = Seed.of(jax.random.fold_in(public.key, 0))
        return _tree.where(public.round > 0, public.state.seed, fresh)

    def init(vector_like: TreeLike) -> FetchState:
        nothing = jnp.zeros((rows, columns), jnp.float32)
        return FetchState(_tree.zeros_like(Seed.like()), nothing, nothing)

    def encode(key: Key, vector: Array, public: Public) -> Array:
        vector = vector.astype(jnp.float32)
        return sketch(hashes(public).key, vector, rows=rows, columns=columns)

    def contribute(table: Array, weight: Array, public: Public) -> Tree:
        return weight * table, weight

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        state, size = public.state, public.like.size
        seed = hashes(public)
        moving = momentum * state.momentum + _mean(total)
        error = state.error + moving
        found = estimate(seed.key, error, size)
        places = largest_magnitudes(found, share_of(ratio, size))
        delta = jnp.zeros(size, found.dtype).at[places].set(found[places], unique_indices=True)
        error = error - sketch(seed.key, delta, rows=rows, columns=columns)
        return delta, FetchState(seed, moving, error), {}

    return as_vector(Aggregator(init, contribute, finish, SUM, encode))


def _dimensions(rows: int, columns: int) -> tuple[int, int]:
    return (
        _validate.static_integer("rows", rows, at_least=1, at_most=2**10),
        _validate.static_integer("columns", columns, at_least=1, at_most=2**30),
    )


def _mean(total: tuple[Array, Array]) -> Array:
    summed, weight = total
    return summed * (1 / jnp.where(weight > 0, weight, 1.0))
