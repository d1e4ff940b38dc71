"""What a sampler is, and the plain words in which it says what it ran."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fjx._base import Array, Key


class Sample(NamedTuple):
    """The clients chosen for one round, in a fixed number m of slots.

    Attributes:
        ids: ``i32[m]``, each client at most once; a padding slot holds ``num_clients``.
        taking_part: ``bool[m]``, False for a client that was chosen and then dropped out.  True in
            padding slots, where nobody drops out.
        truncated: ``i32[]``, how many clients were drawn and did not fit.
    """

    ids: Array
    taking_part: Array
    truncated: Array


class Sampler(NamedTuple):
    """Who takes part in a round: a pure function of the run's key and the round's number.

    Attributes:
        sample: ``(key, round, num_clients) -> Sample``; ``key`` is the same in every round of a run, so
            that rounds can agree (on which block a client is in, say), and what a round draws for
            itself comes from ``fold_in(key, round)``; ``round`` (``i32[]``) may be traced,
            ``num_clients`` is a Python int.
        capacity: ``(num_clients) -> int``, the number of slots m of every :class:`Sample`.
        subsampling: what ran, for the accountant: :class:`Poisson`, :class:`CyclicPoisson` or
            :class:`FixedSize`, in whose chance a client hides; :class:`Full`, :class:`Cyclic` or
            :class:`Scheduled`, which only bound how often it takes part.  Of anything else
            :func:`fjx.privacy.epsilon` refuses to account.
    """

    sample: Callable[[Key, Array | int, int], Sample]
    capacity: Callable[[int], int]
    subsampling: Any


class Poisson(NamedTuple):
    """Each client independently with probability ``rate``.

    Attributes:
        rate: the probability that is realised, to the last bit.
        cap: the most clients a round may have; None where the capacity follows from ``overflow``.
        overflow: a bound on the probability that a round's clients do not all fit, even if one more
            client came; zero where ``cap`` is given, because truncation is then accounted exactly.
    """

    rate: float
    cap: int | None
    overflow: float


class FixedSize(NamedTuple):
    """A uniformly random subset of exactly ``size`` clients."""

    size: int


class Cyclic(NamedTuple):
    """Disjoint blocks by turns: every client once in ``period`` consecutive rounds."""

    period: int


class CyclicPoisson(NamedTuple):
    """Disjoint fixed blocks by turns, and in its turn each client independently with ``rate``.

    Attributes:
        period: the number of blocks.
        rate: the probability of taking part in a turn, to the last bit.
        overflow: as that of :class:`Poisson`.
    """

    period: int
    rate: float
    overflow: float


class Scheduled(NamedTuple):
    """Chance or circumstance that bounds how often a client takes part, and that hides nobody.

    It holds whatever is drawn, so a claim based on it needs no chance at all.

    Attributes:
        words: the sampler, for statements.
        separation: between two rounds t < t' of one client there are t' - t >= separation.
        most: ``(rounds) -> int``, the most rounds of a run of so many that one client takes part in.
    """

    words: str
    separation: int
    most: Callable[[int], int]


class Full(NamedTuple):
    """Every client in every round."""
