"""The graph of SecAgg+: the number of neighbours, the threshold, and the neighbours of each client."""

import functools
import math
import struct
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array
from fjx._kernels import chacha
from fjx.secure._crypto import Stream

SECURITY = 40
"""The server sees one client's vector with a probability of at most 2^-40."""

CORRECTNESS = 20
"""A round with as many dropouts as assumed aborts with a probability of at most 2^-20."""


def graph_parameters(
    clients: int,
    *,
    adversary_rate: float,
    dropout_rate: float,
    model: str = "semi-honest",
) -> tuple[int, int]:
    """Degree and threshold of the graph of SecAgg+.

    Each client shares its secrets with ``degree`` neighbours, and ``threshold`` of their shares give
    them back.  The degree is the smallest even number for which both promises can be kept.

    Guarantees:
        - With a probability of at least 1 - 2^-40 no client has ``threshold`` neighbours that are
          corrupt, and the clients that are neither corrupt nor dropped stay connected.
        - With a probability of at least 1 - 2^-20 every client keeps ``threshold`` neighbours.

    Args:
        clients: number of clients.
        adversary_rate: largest share of clients that collude with the server.
        dropout_rate: largest share of clients that drop out.
        model: ``"semi-honest"`` for a server that follows the protocol, ``"semi-malicious"`` for one
            that lies about who has dropped out.

    Returns:
        The pair ``(degree, threshold)``.

    Raises:
        TypeError: ``clients`` is not an integer, or a rate is not a number.
        ValueError: a rate is outside of [0, 1), the rates leave too few honest clients, the model is
            unknown, or no degree keeps the promises.

    Examples:
        >>> from fjx import secure
        >>> secure.graph_parameters(100, adversary_rate=0.05, dropout_rate=0.05)
        (12, 6)

    References:
        Bell, Bonawitz, Gascon, Lepoint, Raykova, *Secure Single-Server Aggregation with
        (Poly)Logarithmic Overhead*, CCS 2020 (eprint 2020/704).
    """
    clients = _validate.static_integer("clients", clients, at_least=1)
    adversary = _validate.static_number("adversary_rate", adversary_rate, at_least=0, below=1)
    dropout = _validate.static_number("dropout_rate", dropout_rate, at_least=0, below=1)
    if model not in ("semi-honest", "semi-malicious"):
        raise ValueError(f'model must be "semi-honest" or "semi-malicious", got {model!r}')
    lying = model == "semi-malicious"
    if adversary + (2 if lying else 1) * dropout > 0.9:
        raise ValueError(
            f"adversary_rate={adversary} and dropout_rate={dropout} leave too few honest clients in "
            f"the {model} model: adversary_rate + {2 if lying else 1} * dropout_rate must be at most "
            "0.9"
        )
    return _search(clients, adversary, dropout, lying)


@functools.lru_cache(maxsize=256)
def _search(n: int, adversary: float, dropout: float, lying: bool) -> tuple[int, int]:
    slack = 1e-14  # 0.05 * 100 is a little above 5 in floating point
    corrupt = math.floor(adversary * n + slack)
    bad = corrupt + math.floor(dropout * n + slack)
    staying = math.ceil((1 - dropout) * n - slack)

    def keeps(degree: int) -> int | None:
        """The threshold for a degree, or None if it does not keep the promises."""
        if degree <= bad and not _connected(n, bad, degree):
            return None
        above = -(SECURITY + 1) * math.log(2) - math.log(n)
        below = -CORRECTNESS * math.log(2) - math.log(n)
        most = _least(n, corrupt, degree, lambda tail, head: tail <= above)
        if lying:
            most = math.ceil((most + degree - 1.25) / 2)
        fewest = _least(n, staying, degree, lambda tail, head: head >= below)
        return max(most + 1, 2) if most + 1 <= fewest else None

    low = 2
    while low < n:
        threshold = keeps(low)
        if threshold is not None:
            return low, threshold
        low += 2
    if n <= 2:
        return 2, 2
    raise ValueError(
        f"no graph of {n} clients keeps its promises with adversary_rate={adversary} and "
        f"dropout_rate={dropout}; assume lower rates, or take secure.bonawitz()"
    )


def _connected(n: int, bad: int, degree: int) -> bool:
    """True if the good clients stay connected but for a probability of 2^-41.

    They fall apart only if there are two gaps of degree / 2 neighbours in a row that are all bad, and
    there are n (n - degree - 1) / 2 pairs of places for them.
    """
    if n - degree - 1 <= 0:
        return True
    log = (
        math.log(n)
        + math.log(n - degree - 1)
        - math.log(2)
        + math.lgamma(bad + 1)
        + math.lgamma(n - degree + 1)
        - math.lgamma(n + 1)
        - math.lgamma(bad - degree + 1)
    )
    return log < -(SECURITY + 1) * math.log(2)


def _least(n: int, marked: int, drawn: int, enough: Callable[[float, float], bool]) -> int:
    """The least x for which ``enough(log P[H > x], log P[H <= x])``, H hypergeometric."""

    def choose(total: int, some: int) -> float:
        return math.lgamma(total + 1) - math.lgamma(some + 1) - math.lgamma(total - some + 1)

    first, last = max(0, drawn - (n - marked)), min(marked, drawn)
    logs = [
        choose(marked, x) + choose(n - marked, drawn - x) - choose(n, drawn)
        for x in range(first, last + 1)
    ]
    tails, tail = [], -math.inf  # log P[H > x], summed from its smallest terms
    for value in reversed(logs):
        tails.append(tail)
        tail = _add(tail, value)
    head = -math.inf
    for x, (value, tail) in enumerate(zip(logs, reversed(tails), strict=True), start=first):
        head = _add(head, value)
        if enough(tail, head):
            return x
    return last


def _add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def harary(order: tuple[int, ...], degree: int) -> tuple[tuple[int, ...], ...]:
    """Neighbours of each client, by its number: those at most degree / 2 places away on a circle.

    Args:
        order: clients in the order of the circle, a random permutation of 0 to n - 1.
        degree: number of neighbours, even; from n - 1 on everybody is a neighbour of everybody.
    """
    n, reach = len(order), min(degree // 2, len(order) // 2)
    near: list[tuple[int, ...]] = [()] * n
    for place, client in enumerate(order):
        around = {order[(place + step) % n] for step in range(-reach, reach + 1)}
        near[client] = tuple(sorted(around - {client}))
    return tuple(near)


def circle(session_id: bytes, round: int, clients: int) -> tuple[int, ...]:
    """The random order of clients on the circle of a session and round.

    Everybody may know it, but nobody before it is known who colludes with the server.  Each client draws
    64 bits from ChaCha20, and they stand in the order of these.
    """
    stream = Stream(session_id + struct.pack("<IIII", round, 0, 0, 0))
    words = np.frombuffer(stream.take(8 * clients), "<u4").reshape(clients, 2)
    return tuple(np.lexsort((words[:, 1], words[:, 0])).tolist())


def neighbours(session_id: Array, round: Array, invited: Array, degree: Array) -> Array:
    """The graph of :func:`circle` and :func:`harary` in a compiled round.

    Args:
        session_id: ``u32[4]``, the words of the id.
        round: number of the round.
        invited: ``bool[m]``, true for slots of clients, which are numbered in order.
        degree: number of neighbours.

    Returns:
        ``bool[m, m]``, true for neighbours, and for a client and itself.
    """
    numbers, count = jnp.cumsum(invited) - 1, jnp.sum(invited)
    tail = jnp.zeros(4, jnp.uint32).at[0].set(jnp.asarray(round).astype(jnp.uint32))
    key = jnp.concatenate([session_id, tail])
    words = chacha.words(key, 2 * len(invited)).reshape(-1, 2)[numbers]
    order = jnp.lexsort((words[:, 1], words[:, 0], ~invited))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    away = jnp.abs(place[:, None] - place[None, :])
    near = jnp.minimum(away, count - away) <= degree // 2
    return near & invited[:, None] & invited[None, :]
