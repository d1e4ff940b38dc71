"""Stochastic gradients for methods that are written with full gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Algorithm, Array, Cohort, Examples, Executor, Key, Metrics, Runs, Tree
from fjx._kernels.permutation import shuffle
from fjx.clients._sgd import batch_at


def minibatch(algorithm: Algorithm, batch_size: int) -> Algorithm:
    """The algorithm on a random batch of each client's examples in each round.

    EF21, DIANA, MARINA and their kin compress the gradient over all of a client's examples.  This makes
    it a stochastic gradient.  All gradients of a round are of the same batch: those at the two points
    whose difference MARINA sends, and those of several local steps.

    Guarantees:
        - Batches are uniform, without replacement, and independent between clients and rounds.
        - A client's batch depends on the round key and its id alone.
        - Weights stay those of all of a client's examples.
        - If every client has at most ``batch_size`` examples, a round differs from one with full
          gradients by rounding only.
        - States, traffic and aggregator stay the same, so that :class:`fjx.Plan` finds the aggregator
          that it accounts for: a client whose message is clipped may do any local work.
        - Claims about single examples (:func:`fjx.privacy.examples_epsilon`) do not hold: one example
          more exchanges another in a batch of b.

    Args:
        algorithm: any algorithm; its own ``batch_size`` is then the number of examples at a time within
            a batch.
        batch_size: number b of examples in a batch; a client with fewer has them all.

    Returns:
        An :class:`fjx.Algorithm`.  A round gathers the batches of its cohort, m b examples, at once.

    Raises:
        TypeError: ``algorithm`` is not an algorithm; ``batch_size`` is not a Python integer.
        ValueError: ``batch_size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms, compressors, rounds
        >>> def loss_fn(w, x, key):
        ...     return jnp.mean((w - x) ** 2)
        >>> ef21 = algorithms.ef21(
        ...     loss_fn, compressors.top_k(0.01), num_clients=100, learning_rate=0.1, batch_size=32)
        >>> algorithm = rounds.minibatch(ef21, batch_size=32)

    References:
        Gorbunov, Burlachenko, Li, Richtarik, *MARINA*, ICML 2021 (arXiv:2102.07845), for its online
        VR-MARINA, here with batches of one size; Fatkhullin, Sokolov, Gorbunov, Li, Richtarik,
        *EF21 with Bells & Whistles*, 2021 (arXiv:2110.03294), EF21-SGD.
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be an fjx.Algorithm, got {type(algorithm).__name__}")
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)

    def play(
        key: Key,
        state: Any,
        rows: Tree,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[Any, Tree, Metrics]:
        _validate.key("key", key)
        key_batches = jax.random.fold_in(key, 2**32 - 1)  # apart from all that a round splits off

        def draw(id: Array, offset: Array, size: Array) -> tuple[Tree, Array]:
            examples = Examples(cohort.examples.arrays, offset, size)
            order = shuffle(jax.random.fold_in(key_batches, id))
            batch, mask = batch_at(order, examples, jnp.int32(0), batch_size)
            return batch, jnp.sum(mask, dtype=jnp.int32)

        batches, sizes = jax.vmap(draw)(cohort.ids, cohort.examples.offset, cohort.examples.size)
        packed = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
        offsets = batch_size * jnp.arange(sizes.size, dtype=jnp.int32)
        drawn = cohort._replace(examples=Examples(packed, offsets, sizes))
        return algorithm.round(key, state, rows, drawn, executor=executor)

    aggregator = algorithm.aggregator
    if aggregator is None or not algorithm.runs_its_aggregator:
        return algorithm._replace(round=play, runs=None)
    return algorithm._replace(round=play, runs=Runs(aggregator, play))
