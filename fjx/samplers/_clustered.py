"""Cohorts with clients of every cluster."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key
from fjx._kernels.permutation import permute
from fjx.samplers._types import Sample, Sampler, Scheduled


def clustered(clusters: Sequence[int] | np.ndarray, *, each: int = 1) -> Sampler:
    r"""Random clients of every cluster: stratified sampling.

    Clusters may be of similar data, similar updates or similar sizes.  Each round has ``each`` clients
    of each cluster, drawn uniformly without replacement.

    Guarantees:
        - Every cluster has ``each`` clients in each round.  A client of a cluster of size s comes with
          probability ``each`` / s.
        - If all clusters have one size, every client comes alike: the weighted sum over the cohort,
          times s / ``each``, is unbiased for that over all clients, and its variance is that within
          clusters alone.  So is the uniform mean.
        - If sizes differ, a mean over the cohort is biased towards small clusters, unless weights are
          multiplied by s (:meth:`fjx.data.FederatedData.with_weights`) and summed by
          :func:`fjx.aggregators.weighted_sum`.

    Args:
        clusters: number of the cluster of each client, from 0 on, without gaps.
        each: number of clients of each cluster in a round.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Scheduled``: privacy is not amplified.

    Raises:
        TypeError: ``clusters`` is not a list of integers.
        ValueError: a cluster is empty, or has fewer than ``each`` clients; or, from sampling, there is
            another number of clients.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import samplers
        >>> sampler = samplers.clustered([0, 0, 0, 1, 1, 1])
        >>> ids = sampler.sample(jax.random.key(0), 0, 6).ids
        >>> sorted(np.array([0, 0, 0, 1, 1, 1])[ids].tolist())
        [0, 1]

    References:
        Fraboni, Vidal, Kameni, Lorenzi, *Clustered Sampling: Low-Variance and Improved Representativity
        for Clients Selection in Federated Learning*, ICML 2021 (arXiv:2105.05883), section 3.
    """
    labels = np.array(clusters)  # a copy that the caller cannot change
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TypeError(
            "clusters must be a list of one integer for each client, got "
            f"{labels.dtype}{list(labels.shape)}"
        )
    each = _validate.static_integer("each", each, at_least=1)
    if labels.size and labels.min() < 0:
        raise ValueError(f"clusters must be numbered from 0 on, got {labels.min()}")
    sizes = np.bincount(labels)
    if not labels.size or sizes.min() < each:
        few = int(np.argmin(sizes)) if labels.size else 0
        raise ValueError(
            f"every cluster must have {each} clients or more, got {sizes.tolist()}: cluster {few} has "
            "too few; merge clusters, number them without gaps, or lower each"
        )
    members = np.argsort(labels, kind="stable").astype(np.int32)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def capacity(num_clients: int) -> int:
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        if num_clients != labels.size:
            raise ValueError(
                f"clusters has {labels.size} clients, and there are {num_clients}; give the cluster of "
                "each client"
            )
        return each * sizes.size

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        slots = capacity(num_clients)
        key = jax.random.fold_in(key, round)

        def of_one(cluster: Array, start: Array, size: Array) -> Array:
            own = jax.random.fold_in(key, cluster)
            return start + permute(own, jnp.arange(each, dtype=jnp.int32), size)

        numbers = jnp.arange(sizes.size, dtype=jnp.int32)
        places = jax.vmap(of_one)(numbers, *(jnp.asarray(x, jnp.int32) for x in (first, sizes)))
        ids = jnp.asarray(members)[places.reshape(-1)]
        return Sample(ids, jnp.ones(slots, bool), jnp.zeros((), jnp.int32))

    words = f"{each} random clients of each of {sizes.size} clusters"
    return Sampler(sample, capacity, Scheduled(words, 1, lambda rounds: rounds))
