"""Byzantine clients: which of them lie, as a function of a client's turn in the round."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key, Turn

Byzantine = Callable[[Turn], Array]
"""A function ``(turn) -> bool[]``: true for a Byzantine client.

A :class:`fjx.Turn` has the number of the round, the client's id and its rank in the cohort.  So any
predicate will do: ``lambda turn: (turn.id < 3) & (turn.round >= 50)`` sleeps for 50 rounds.
"""


def ids(these: Sequence[int], *, num_clients: int) -> Byzantine:
    """The clients with these ids.

    Args:
        these: ids of the Byzantine clients.
        num_clients: number of clients in the population.

    Returns:
        A :data:`Byzantine` predicate.

    Raises:
        TypeError: an id is not an integer.
        ValueError: an id is out of range or occurs twice.

    Examples:
        >>> import fjx
        >>> from fjx import attacks
        >>> bad = attacks.ids([0, 7], num_clients=10)
        >>> bool(bad(fjx.Turn(id=7))), bool(bad(fjx.Turn(id=8)))
        (True, False)
    """
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    if isinstance(these, np.ndarray | jax.Array):
        these = these.tolist()
    for number in these:
        _validate.static_integer("ids", number)
    wrong = [number for number in these if not 0 <= number < num_clients]
    if wrong or len(set(these)) < len(these):
        raise ValueError(
            f"ids must be distinct and in [0, {num_clients}), the ids of {num_clients} clients; got "
            f"{list(these)}"
        )
    liars = jnp.asarray(np.asarray(these, np.int32))
    return lambda turn: jnp.any(liars == turn.id)


def first(f: int | Array, *, num_clients: int) -> Byzantine:
    """The f clients with the smallest ids.

    f may be traced, so that one program runs several numbers of attackers under ``jax.vmap``.

    Args:
        f: number of Byzantine clients, 0 to ``num_clients``.
        num_clients: number of clients in the population.

    Returns:
        A :data:`Byzantine` predicate.

    Raises:
        TypeError: ``f`` is not an integer.
        ValueError: there are more attackers than clients.

    Examples:
        >>> import fjx
        >>> from fjx import attacks
        >>> bad = attacks.first(2, num_clients=10)
        >>> [bool(bad(fjx.Turn(id=i))) for i in range(3)]
        [True, True, False]
    """
    _require_count(f, num_clients)
    return lambda turn: jnp.asarray(turn.id) < f


def at_random(key: Key, f: int | Array, *, num_clients: int) -> Byzantine:
    """Some f clients, drawn once and uniformly by a key; the same in every round.

    For others in each round write a predicate of ``turn.round``.

    Args:
        key: key of the draw.
        f: number of Byzantine clients, 0 to ``num_clients``; may be traced.
        num_clients: number of clients in the population.

    Returns:
        A :data:`Byzantine` predicate.

    Raises:
        TypeError: ``f`` is not an integer; ``key`` is not a typed key.
        ValueError: there are more attackers than clients.

    Examples:
        >>> import fjx, jax
        >>> from fjx import attacks
        >>> bad = attacks.at_random(jax.random.key(0), 3, num_clients=10)
        >>> sum(bool(bad(fjx.Turn(id=i))) for i in range(10))
        3
    """
    _validate.key("key", key)
    _require_count(f, num_clients)
    order = jax.random.permutation(key, num_clients)
    # Padding has the id num_clients, and is never a liar.
    return lambda turn: order.at[turn.id].get(mode="fill", fill_value=num_clients) < f


def _require_count(f: int | Array, num_clients: int) -> None:
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    _validate.integer("f", f, at_least=0, at_most=num_clients)


def require_byzantine(byzantine: object) -> None:
    """Raise TypeError unless ``byzantine`` is a predicate of turns.

    Raises:
        TypeError: it is something else, such as a list of ids; or its result is not boolean.
    """
    remedy = "make one with attacks.ids([0, 3], num_clients=20), attacks.first or attacks.at_random"
    if not callable(byzantine):
        raise TypeError(
            f"byzantine must be a function (fjx.Turn) -> bool, got {byzantine!r}; {remedy}"
        )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    said = jax.eval_shape(lambda *turn: jnp.asarray(byzantine(Turn(*turn))), *[number] * 3)
    if said.shape != () or said.dtype != bool:
        raise TypeError(
            "byzantine must return one bool for one client, got "
            f"{said.dtype}{list(said.shape)}; {remedy}"
        )
