"""Samplers that bound the number of rounds of each client."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key
from fjx._remembered import remembered
from fjx.samplers._slots import OVERFLOW, into_slots, numbers, slots_for
from fjx.samplers._types import BallsInBins, MinSeparated, Sample, Sampler, Scheduled

Choose = Callable[[Key, Array, int], Array]
"""``(key of the run, round, num_clients) -> bool[num_clients]``, the clients that come."""


@remembered
def balls_in_bins(bins: int, *, overflow: float = OVERFLOW) -> Sampler:
    """Random bins in turn: each client takes part in a random one of every ``bins`` rounds.

    A client's bin is fixed for the run, so it takes part in the same one of every ``bins`` rounds.
    This is like shuffled blocks, but without a fixed size: a round has Binomial(n, 1 / bins)
    clients, and the capacity is that of :func:`poisson` of this rate.

    Guarantees:
        - Two rounds of a client are a multiple of ``bins`` apart.
        - Bins of different clients are independent.
        - As long as nothing is truncated, every client takes part once in ``bins`` rounds.

    Args:
        bins: number of bins, which is also the period, at least 1.
        overflow: as in :func:`poisson`.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``BallsInBins(bins, overflow)``.  If the noise is
        independent between rounds, privacy is amplified, see :func:`fjx.privacy.epsilon`.

    Raises:
        TypeError: ``bins`` is not a Python integer.
        ValueError: ``bins`` is below 1.

    Examples:
        >>> import jax
        >>> sampler = balls_in_bins(3)
        >>> first, again = (sampler.sample(jax.random.key(0), t, 9).ids for t in (1, 4))
        >>> sorted(first.tolist()) == sorted(again.tolist())
        True

    References:
        Chua, Ghazi, Harrison, Leeman, Kamath, Kumar, Manurangsi, Sinha, Zhang, *Balls-and-Bins Sampling
        for DP-SGD*, AISTATS 2025 (arXiv:2412.16802).
    """
    bins = _validate.static_integer("bins", bins, at_least=1)
    overflow = _validate.static_number("overflow", overflow, at_least=1e-250, at_most=1e-3)

    def choose(key: Key, round: Array, num_clients: int) -> Array:
        return numbers(key, num_clients, bins) == round % bins

    return _sampler(
        choose,
        lambda num_clients: slots_for(num_clients, 1 / bins, overflow),
        BallsInBins(bins, overflow),
    )


@remembered
def min_separation(separation: int, *, period: int, overflow: float = OVERFLOW) -> Sampler:
    """Minimum separation: one random round in each period, and never two within ``separation`` rounds.

    A client has a random phase, fixed for the run.  On its own clock, t + phase, it takes part once in
    each L = ``period`` rounds, at a random one of the first L - b + 1 of them, with b = ``separation``.
    No history is stored: time and memory are O(n).

    Guarantees:
        - Gaps between two rounds of a client are b to 2 L - b.
        - A client is in a given round with probability 1 / L.
        - Clients are independent.
        - The capacity is that of :func:`poisson` of this rate.

    Args:
        separation: minimum separation b, at least 1.
        period: period L, at least b.  With L = b the rounds of a client are exactly L apart.
        overflow: as in :func:`poisson`.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``MinSeparated(separation, period, overflow)``.
        Privacy is amplified, also with correlated noise, because the round in each period is secret;
        see :func:`fjx.privacy.epsilon`.

    Raises:
        TypeError: an argument is not a Python integer.
        ValueError: ``separation`` is below 1 or above ``period``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import privacy
        >>> sampler = min_separation(3, period=5)
        >>> rounds = jax.vmap(lambda t: sampler.sample(jax.random.key(0), t, 4).ids)
        >>> ids = jax.jit(rounds)(jnp.arange(20))
        >>> jnp.flatnonzero((ids == 0).any(1)).tolist()  # the rounds of client 0
        [6, 10, 16, 19]
        >>> privacy.participation(sampler, rounds=20)
        Participation(rounds=20, separation=3, most=5)

    References:
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization: A Unified Approach to Private Training*, NeurIPS 2023 (arXiv:2306.08153), for
        b-min-separated participation.
    """
    separation = _validate.static_integer("separation", separation, at_least=1)
    period = _validate.static_integer("period", period, at_least=separation)
    overflow = _validate.static_number("overflow", overflow, at_least=1e-250, at_most=1e-3)
    described = MinSeparated(separation, period, overflow)

    def choose(key: Key, round: Array, num_clients: int) -> Array:
        key_phase, key_place = (jax.random.fold_in(key, i) for i in range(2))
        time = round + numbers(key_phase, num_clients, period)
        turn = round // period

        def place(turn: Array) -> Array:
            return numbers(jax.random.fold_in(key_place, turn), num_clients, described.places)

        own = jnp.where(time // period == turn, place(turn), place(turn + 1))
        return time % period == own

    return _sampler(
        choose, lambda num_clients: slots_for(num_clients, 1 / period, overflow), described
    )


@remembered
def random_check_in(size: int, *, window: int) -> Sampler:
    """Random check-ins: clients come in a random round of each window, and ``size`` of them are used.

    If more than ``size`` clients come, a uniformly random subset is used.  The others are counted in
    ``truncated`` and come again in the next window.

    Guarantees:
        - A client takes part at most once in each window.  Windows begin at multiples of ``window``.
        - Clients need no coordination: the round of a client does not depend on other clients.

    Args:
        size: most clients of a round, at least 1.
        window: number of rounds in a window, at least 1.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Scheduled``, with one release for each window.
        Privacy is not amplified.  (The amplification in the paper is for noise that
        clients add themselves.)

    Raises:
        TypeError: an argument is not a Python integer.
        ValueError: an argument is below 1.

    Examples:
        >>> import jax
        >>> sampler = random_check_in(2, window=5)
        >>> sample = sampler.sample(jax.random.key(0), 0, 20)
        >>> sample.ids.tolist(), int(sample.truncated)
        ([5, 6], 1)

    References:
        Balle, Kairouz, McMahan, Thakkar, Thakurta, *Privacy Amplification via Random Check-Ins*,
        NeurIPS 2020 (arXiv:2007.06605).
    """
    size = _validate.static_integer("size", size, at_least=1)
    window = _validate.static_integer("window", window, at_least=1)

    def choose(key: Key, round: Array, num_clients: int) -> Array:
        turn = jax.random.fold_in(key, round // window)
        return numbers(turn, num_clients, window) == round % window

    words = f"at most {size} of those who come, each in a random round of every {window}"
    return _sampler(
        choose, lambda num_clients: size, Scheduled(words, 1, lambda rounds: -(-rounds // window))
    )


@remembered
def available(schedule: Choose | Array | np.ndarray, size: int, *, separation: int = 1) -> Sampler:
    """Random subset of at most ``size`` of the clients that are available.

    Availability depends on the time of day, on batteries and on habits.  It is no chance in which
    privacy could hide.  The fact that a client was available therefore counts as public; no epsilon
    covers it.

    With ``separation`` b > 1 a client has a random one of b turns, fixed for the run, and is asked
    in its turn only.

    Guarantees:
        - Only available clients take part: all of them if they are at most ``size``, else a uniformly
          random subset.
        - With ``separation`` b the rounds of a client are multiples of b apart.

    Args:
        schedule: a trace ``bool[rounds, clients]``, which starts again after its last round; or a
            function ``(key of the run, round, num_clients) -> bool[num_clients]``, which is traced.
        size: most clients of a round, at least 1.
        separation: minimum separation b, at least 1.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Scheduled``.  It counts the turns of a
        client, or the rounds in which its trace says that it is available, whichever are fewer.
        Privacy is not amplified.

    Raises:
        TypeError: a number is not a Python integer; or ``schedule`` is neither a function nor an array
            of bools.
        ValueError: a number is below 1; the trace is empty; or, from sampling, the trace has another
            number of clients.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import privacy
        >>> trace = np.array([[True, True, False], [False, True, True]])
        >>> sampler = available(trace, 2)
        >>> [sorted(sampler.sample(jax.random.key(0), t, 3).ids.tolist()) for t in range(3)]
        [[0, 1], [1, 2], [0, 1]]
        >>> privacy.participation(sampler, rounds=3)
        Participation(rounds=3, separation=1, most=3)

    References:
        Bonawitz et al., *Towards Federated Learning at Scale: System Design*, MLSys 2019
        (arXiv:1902.01046); Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, *Practical and Private (Deep)
        Learning Without Sampling or Shuffling*, ICML 2021 (arXiv:2103.00039).
    """
    size = _validate.static_integer("size", size, at_least=1)
    separation = _validate.static_integer("separation", separation, at_least=1)
    trace = None if callable(schedule) else _trace(schedule)
    there: Any = schedule if trace is None else _played(trace)

    def choose(key: Key, round: Array, num_clients: int) -> Array:
        key_turn, key_there = (jax.random.fold_in(key, i) for i in range(2))
        present = there(key_there, round, num_clients)
        if separation == 1:
            return present
        return present & (numbers(key_turn, num_clients, separation) == round % separation)

    def most(rounds: int) -> int:
        if trace is None:
            return rounds
        times, rest = divmod(rounds, len(trace))
        return int((times * trace.sum(0) + trace[:rest].sum(0)).max(initial=0))

    words = f"at most {size} of those available"
    if separation > 1:
        words += f", each in one of {separation} turns"
    sampler = _sampler(choose, lambda num_clients: size, Scheduled(words, separation, most))

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        # A client that was available but not used counts as not drawn, hence not as truncated.
        drawn = sampler.sample(key, round, num_clients)
        return drawn._replace(truncated=jnp.zeros((), jnp.int32))

    return sampler._replace(sample=sample)


def _sampler(choose: Choose, slots: Callable[[int], int], subsampling: Any) -> Sampler:
    """Sampler of the clients that ``choose`` selects."""

    def capacity(num_clients: int) -> int:
        return slots(_validate.static_integer("num_clients", num_clients, at_least=1))

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        key_choose, key_keep = (jax.random.fold_in(key, i) for i in range(2))
        chosen = choose(key_choose, jnp.asarray(round, jnp.int32), num_clients)
        everybody = jnp.arange(num_clients, dtype=jnp.int32)
        key_keep = jax.random.fold_in(key_keep, round)
        return into_slots(key_keep, everybody, chosen, capacity(num_clients), num_clients)

    return Sampler(sample, capacity, subsampling)


def _trace(schedule: Array | np.ndarray) -> np.ndarray:
    """Trace as a NumPy array, after a check of its shape and dtype."""
    trace = np.array(schedule)  # a copy that the caller cannot change
    if trace.ndim != 2 or trace.dtype != bool:
        raise TypeError(
            "schedule must be a function or an array bool[rounds, clients], got "
            f"{trace.dtype}{list(trace.shape)}"
        )
    if not trace.size:
        raise ValueError(
            f"schedule must have rounds and clients, one at least, got shape {trace.shape}"
        )
    return trace


def _played(trace: np.ndarray) -> Choose:
    """Function that plays a trace in an endless loop."""

    def there(key: Key, round: Array, num_clients: int) -> Array:
        if num_clients != trace.shape[1]:
            raise ValueError(
                f"schedule has a column for each of {trace.shape[1]} clients, and there are "
                f"{num_clients}; give a trace with {num_clients} columns"
            )
        return jnp.asarray(trace)[round % len(trace)]

    return there
