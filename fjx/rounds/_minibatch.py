"""Stochastic gradients for methods that are written with whole ones."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Algorithm, Array, Cohort, Examples, Executor, Key, Metrics, Tree
from fjx._kernels.permutation import shuffle
from fjx.clients._sgd import batch_at


def minibatch(algorithm: Algorithm, batch_size: int) -> Algorithm:
    """In each round a client of ``algorithm`` has a random batch of its examples, and no others.

    So the gradient over all of a client's examples, which EF21, DIANA, MARINA and their kin compress,
    becomes a stochastic one, and every gradient of a round is of the same batch: those at two points
    whose difference MARINA sends, and those of several local steps.

    Guarantees: batches are uniform, without replacement, independent between clients and rounds; a
        client's depends on the round key and its id alone; weights stay those of all of a client's
        examples; where ``batch_size`` is no less than what any client has, a round with whole gradients
        differs by rounding.

    Args:
        algorithm: any; its own ``batch_size`` is then the examples at a time within a batch.
        batch_size: b, the examples in a batch; a client with fewer has them all.

    Returns:
        An :class:`fjx.Algorithm` with the same states, traffic and aggregator, so that
        :class:`fjx.Plan` finds what it accounts for: a client whose message is clipped may do
        what it likes.  Claims about single examples (:func:`fjx.privacy.examples_epsilon`) do not hold:
        one example more exchanges another in a batch of b.  A round gathers the batches of its cohort,
        m b examples, at once.

    Raises:
        TypeError: ``algorithm`` is none; ``batch_size`` is not a Python integer.
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
        Gorbunov, Burlachenko, Li, Richtarik, *MARINA*, ICML 2021 (arXiv:2102.07845), of which this makes
        the online VR-MARINA, with batches of one size; Fatkhullin, Sokolov, Gorbunov, Li, Richtarik,
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

    return algorithm._replace(round=play)
