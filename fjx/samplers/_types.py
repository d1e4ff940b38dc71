"""The type of a sampler, and the descriptions of subsampling that accounting reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fjx._base import Array, Key


class Sample(NamedTuple):
    """Clients chosen for one round, in a fixed number m of slots.

    Attributes:
        ids: ``i32[m]``, each client at most once; a padding slot holds ``num_clients``.
        taking_part: ``bool[m]``, False for a client that was chosen and then dropped out; True in
            padding slots.
        truncated: ``i32[]``, number of clients that were drawn and did not fit.
    """

    ids: Array
    taking_part: Array
    truncated: Array


class Sampler(NamedTuple):
    """Choice of the clients of a round: a pure function of the run's key and the round's number.

    Attributes:
        sample: ``(key, round, num_clients) -> Sample``.  ``key`` is the same in every round of a
            run, so that rounds can agree, for example on the blocks of clients; randomness of one
            round comes from ``fold_in(key, round)``.  ``round`` (``i32[]``) may be traced;
            ``num_clients`` is a Python int.
        capacity: ``(num_clients) -> int``, the number of slots m of every :class:`Sample`.
        subsampling: description for the accountant.  :class:`Poisson`, :class:`CyclicPoisson`,
            :class:`BallsInBins`, :class:`MinSeparated` and :class:`FixedSize` amplify privacy by
            chance.  :class:`Full`, :class:`Cyclic` and :class:`Scheduled` only bound the number of
            rounds of a client.  :func:`fjx.privacy.epsilon` refuses to account for anything else.
        inner: the sampler whose clients these are, some of whom drop out; None if there is none.
    """

    sample: Callable[[Key, Array | int, int], Sample]
    capacity: Callable[[int], int]
    subsampling: Any
    inner: "Sampler | None" = None


class Poisson(NamedTuple):
    """Each client independently with probability ``rate``.

    Attributes:
        rate: probability that is realised, to the last bit.
        cap: most clients of a round; None if the capacity follows from ``overflow``.
        overflow: bound on the probability that the clients of a round, and one more, do not fit.  It is
            zero if ``cap`` is given, because truncation is then accounted exactly.
    """

    rate: float
    cap: int | None
    overflow: float


class FixedSize(NamedTuple):
    """Uniformly random subset of exactly ``size`` clients.

    Attributes:
        size: number of clients of every round.
    """

    size: int


class Cyclic(NamedTuple):
    """Disjoint blocks in turn: every client once in ``period`` consecutive rounds.

    Attributes:
        period: number of blocks.
    """

    period: int


class CyclicPoisson(NamedTuple):
    """Fixed disjoint blocks in turn; in its turn each client independently with probability ``rate``.

    Attributes:
        period: number of blocks.
        rate: probability of taking part in a turn, to the last bit.
        overflow: bound on truncation as in :class:`Poisson`.
    """

    period: int
    rate: float
    overflow: float


class BallsInBins(NamedTuple):
    """Each client in one random bin, and the bins in turn; the bin of a client is its secret.

    Attributes:
        bins: number of bins.
        overflow: bound on truncation as in :class:`Poisson`.
    """

    bins: int
    overflow: float


class MinSeparated(NamedTuple):
    """One random round in each period of a client's own clock, and a pause after the last such round.

    The clock of a client is ahead by a random phase, which no claim takes for a secret.  The round in a
    period is drawn anew for each period, and is the client's secret.

    Attributes:
        separation: minimum separation b; the last b - 1 rounds of a period are the pause.
        period: period L.
        overflow: bound on truncation as in :class:`Poisson`.
    """

    separation: int
    period: int
    overflow: float

    @property
    def places(self) -> int:
        """Number of rounds of a period in which the client may come, L - b + 1."""
        return self.period - self.separation + 1

    def most(self, rounds: int) -> int:
        """Return the largest number of rounds of one client in a run of that many rounds."""
        # k rounds of a client span at least (k - 1) L - (L - b) + 1.
        return (rounds + self.places - 2) // self.period + 1 if rounds else 0


class Scheduled(NamedTuple):
    """Schedule that bounds the number of rounds of each client and does not amplify privacy.

    The bounds hold for every outcome of the sampler, so a claim based on them relies on no chance.

    Attributes:
        words: description of the sampler, for statements.
        separation: bound t' - t >= separation for any two rounds t < t' of one client.
        most: ``(rounds) -> int``, most rounds of one client in a run of that many rounds.
    """

    words: str
    separation: int
    most: Callable[[int], int]


class Full(NamedTuple):
    """Every client in every round."""
