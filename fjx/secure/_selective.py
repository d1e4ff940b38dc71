"""Encryption of a part of the contributions, chosen by path."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fjx.secure._halves import Layout
from fjx.secure._protocol import Protocol


class Selective(NamedTuple):
    """A protocol that encrypts a part of the contributions: see :func:`selective`.

    Attributes:
        protocol: protocol that can encrypt a part.
        encrypted: ``(path) -> bool``.
    """

    protocol: Protocol
    encrypted: Callable[[str], bool]

    @property
    def name(self) -> str:
        """The name of the protocol, and that it encrypts a part only."""
        return f"{self.protocol.name}, of some leaves"

    @property
    def hides(self) -> bool:
        """False: the first server sees the leaves that are not encrypted."""
        return False

    def of(self, layout: Layout) -> Protocol:
        """The protocol for the coordinates of a layout.

        Raises:
            ValueError: no coordinate is encrypted.
        """
        mask: list[bool] = []
        leaves = jax.tree_util.tree_leaves_with_path(layout.total)
        for (path, like), goes in zip(leaves, layout.sent, strict=True):
            if goes:
                hides = bool(self.encrypted(jax.tree_util.keystr(path)))
                mask += [hides] * int(np.prod(like.shape))
        if not any(mask):
            pairs = zip(leaves, layout.sent, strict=True)
            names = [jax.tree_util.keystr(path) for (path, _), goes in pairs if goes]
            raise ValueError(
                f"encrypted is False for every leaf that is sent; take one of the paths {names}"
            )
        assert self.protocol.hiding is not None
        return self.protocol.hiding(tuple(mask))


def selective(protocol: Protocol, encrypted: Callable[[str], bool]) -> Selective:
    """A protocol for :func:`run` that encrypts only the leaves whose path is chosen.

    The paths are those of a client's contribution as strings, such as ``"[0][0]['head']"`` for the leaf
    ``head`` of the message of a mean.  :func:`fjx.aggregators.integer_mean` numbers the leaves:
    ``"[0][1]"`` is the second one.  Aggregators that mix leaves, such as
    :func:`fjx.aggregators.rotated`, leave one path.  A function that is always False is refused, and
    the error lists the paths.

    Guarantees:
        - The first server sees each client's numbers in the leaves that are not chosen, as under
          :func:`plain`.  In the chosen ones it sees ciphertexts and their sum.
        - The second server sees the sum of the chosen leaves, and nothing of the others.
        - The sum of the other leaves is exact, for floats but for the rounding of float64.

    An attack may infer chosen leaves from those that are not, such as labels from other layers.

    Args:
        protocol: :func:`bfv` or :func:`ckks`.
        encrypted: ``(path) -> bool``: True for a leaf that is encrypted.

    Returns:
        A :class:`Selective`.

    Raises:
        TypeError: ``protocol`` is not a protocol, or ``encrypted`` not a function.
        ValueError: the protocol cannot encrypt a part; from a run: no leaf is chosen.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, secure
        >>> dataset = fjx.data.from_clients([jnp.array([x]) for x in (1.0, 2.0, 6.0)])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w["a"] + w["b"] - x) ** 2), client_lr=0.25, batch_size=1,
        ...     aggregator=aggregators.mean())
        >>> result = secure.run(
        ...     jax.random.key(0), algorithm, {"a": jnp.array(0.0), "b": jnp.array(0.0)}, dataset,
        ...     sampler=fjx.samplers.full(), rounds=1,
        ...     protocol=secure.selective(secure.ckks(), lambda path: "'b'" in path))
        >>> round(float(result.params["a"]), 4), round(float(result.params["b"]), 4)
        (1.5, 1.5)

    References:
        Jin et al., *FedML-HE: An Efficient Homomorphic-Encryption-Based Privacy-Preserving Federated
        Learning System*, 2023 (arXiv:2303.10837).
    """
    if not isinstance(protocol, Protocol):
        raise TypeError(f"protocol must be a fjx.secure.Protocol, got {protocol!r}")
    if not callable(encrypted):
        raise TypeError(f"encrypted must be a function of a path, got {encrypted!r}")
    if protocol.hiding is None:
        raise ValueError(
            f"the protocol {protocol.name!r} cannot encrypt a part; take secure.bfv() or secure.ckks()"
        )
    return Selective(protocol, encrypted)
