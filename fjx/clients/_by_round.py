"""Hyper-parameters of local work that change from round to round."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fjx._base import Array, ClientUpdate, Public, Steps, Tree


def by_round(make: Callable[[Array], ClientUpdate]) -> ClientUpdate:
    """Client update whose hyper-parameters are functions of the round.

    ``make`` is traced with the number of the rounds before this one, so it is 0 in the first round.
    That number is an argument of the compiled round: nothing is compiled again, and a run that is
    resumed goes on with its schedule.  Any number that a client update accepts traced may depend on
    it: learning rates, the strength of a proximal term, ``epochs`` and ``steps``.

    Guarantees:
        - Round t is the round of ``make(t)``.

    Args:
        make: function ``(round) -> client update`` of the round, ``i32[]``.  States and messages of
            all rounds must have the same structure, shapes and dtypes.

    Returns:
        A :class:`fjx.ClientUpdate` with the state and the message of ``make(0)``.

    Raises:
        TypeError: ``make`` is no function, or returns something else.

    Examples:
        A schedule of optax, by rounds.  ``optax.sgd(schedule)`` would begin the schedule anew in
        each round, because a client's optimiser does:

        >>> import jax.numpy as jnp, optax
        >>> from fjx import clients
        >>> schedule = optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.99)
        >>> client = clients.by_round(lambda round: clients.local_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), optax.sgd(schedule(round)),
        ...     epochs=1, batch_size=10))
    """
    if not callable(make):
        raise TypeError(
            f"make must be a function (round) -> client update, got {type(make).__name__}"
        )

    def at(round: Array) -> ClientUpdate:
        with jax.numpy_dtype_promotion("standard"):  # schedules of optax mix integers and floats
            return make(round)

    first = at(jnp.int32(0))
    if not isinstance(first, ClientUpdate):
        raise TypeError(
            f"make must return a fjx.ClientUpdate, such as clients.local_sgd(...), got {first!r}"
        )

    def work(inputs: tuple[Any, ...]) -> Steps:
        _, _, _, _, turn, *_ = inputs
        return Steps.of(at(turn.round).update)

    def on_sent(received: Tree, state: Tree, public: Public) -> Tree:
        follow = at(public.round).on_sent
        assert follow is not None  # as in the first round
        return follow(received, state, public)

    def on_aggregate(aggregate: Tree, state: Tree, public: Public) -> Tree:
        follow = at(public.round).on_aggregate
        assert follow is not None  # as in the first round
        return follow(aggregate, state, public)

    return first._replace(
        update=Steps(
            begin=lambda *inputs: work(inputs).begin(*inputs),
            step=lambda *inputs: work(inputs).step(*inputs),
            end=lambda *inputs: work(inputs).end(*inputs),
        ),
        on_sent=first.on_sent and on_sent,
        on_aggregate=first.on_aggregate and on_aggregate,
    )


@dataclasses.dataclass(frozen=True)
class Listed:
    """Schedule of :func:`listed`.

    Attributes:
        values: value of each round.
    """

    values: tuple[float, ...]

    @property
    def rounds(self) -> int:
        """The number of rounds for which there is a value."""
        return len(self.values)

    def __call__(self, round: Array | int) -> Array:
        """The value of a round."""
        return jnp.asarray(self.values, jnp.float32).at[round].get(mode="clip")


def listed(values: Sequence[float] | np.ndarray) -> Listed:
    """Schedule from a list of the value of each round.

    Guarantees:
        - :func:`fjx.simulate` refuses a run of more rounds than the list has, if a client's step size is
          such a schedule.

    Args:
        values: value of each round, finite and not negative.

    Returns:
        A function ``(round) -> value`` for ``client_lr`` of a recipe.  Past its end it keeps the last
        value.

    Raises:
        ValueError: the list is empty, or a value is not finite or negative.

    Examples:
        >>> from fjx import clients
        >>> schedule = clients.listed([0.1, 0.1, 0.05])
        >>> schedule.rounds, round(float(schedule(2)), 3)
        (3, 0.05)
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(
            f"values must be a list of one number for each round, got shape {numbers.shape}"
        )
    if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
        raise ValueError(f"values must be finite and not negative, got {numbers.tolist()}")
    return Listed(tuple(numbers.tolist()))


def following(
    rate: float | Array | optax.Schedule, make: Callable[[Any], ClientUpdate]
) -> ClientUpdate:
    """``make(rate)``, or by round ``make(rate(round))`` if the rate is a schedule."""
    if not callable(rate):
        return make(rate)
    return by_round(lambda round: make(rate(round)))._replace(rounds=rounds_of(rate))


def rounds_of(rate: Any) -> int | None:
    """The number of rounds for which a schedule is made; None for any number, or no schedule."""
    return rate.rounds if isinstance(rate, Listed) else None
