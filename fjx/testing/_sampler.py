"""The laws of samplers."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Key
from fjx.samplers import (
    BallsInBins,
    Cyclic,
    CyclicPoisson,
    FixedSize,
    Full,
    MinSeparated,
    Poisson,
    Sample,
    Sampler,
    Scheduled,
)
from fjx.testing import _laws
from fjx.testing._laws import SIGMAS, Law, attempt, require

RUNS, ROUNDS = 400, 24


def check_sampler(sampler: Sampler, num_clients: int = 10) -> None:
    """Checks every law of a sampler, up to the first that does not hold.

    The sampler plays 400 runs, with independent keys, of at least 24 rounds each.  The chance that
    ``sampler.subsampling`` declares is what privacy is accounted for: it is tested on these runs, with
    bounds of 6 standard errors.  Keys are fixed: a result does not change from one run to the next.

    Args:
        sampler: the sampler.
        num_clients: population size; a small one says most.

    Raises:
        TypeError: ``sampler`` is not a :class:`fjx.samplers.Sampler`, or ``num_clients`` no integer.
        ValueError: ``num_clients`` is below 2.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> from fjx import samplers, testing
        >>> testing.check_sampler(samplers.uniform(4))
        >>> claimed = samplers.full()._replace(subsampling=samplers.FixedSize(4))
        >>> testing.check_sampler(claimed)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'clients_come_as_often_as_declared' does not hold
    """
    _laws.run(sampler_laws(sampler, num_clients))


def sampler_laws(sampler: Sampler, num_clients: int = 10) -> list[Law]:
    """The laws of a sampler, to be checked one by one.

    Laws of one list share their programs.  The laws of chance are listed if ``sampler.subsampling`` is a
    description that :mod:`fjx.samplers` knows.

    Args:
        sampler: the sampler.
        num_clients: population size.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``sampler`` is not a :class:`fjx.samplers.Sampler`, or ``num_clients`` no integer.
        ValueError: ``num_clients`` is below 2.

    Examples:
        >>> from fjx import samplers, testing
        >>> [law.name for law in testing.sampler_laws(samplers.cyclic(3))][-1]
        'rounds_of_a_client_are_as_declared'
    """
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a fjx.samplers.Sampler, got {sampler!r}")
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=2)
    laws = list(ALWAYS)
    if isinstance(sampler.subsampling, Poisson | FixedSize):
        laws += [
            clients_come_as_often_as_declared,
            pairs_come_as_often_as_declared,
            rounds_are_independent_as_declared,
        ]
    elif isinstance(
        sampler.subsampling, Full | Cyclic | CyclicPoisson | BallsInBins | MinSeparated | Scheduled
    ):
        laws.append(rounds_of_a_client_are_as_declared)
    return _laws.bind(Trial(sampler, num_clients), laws)


class Trial:
    """A sampler, and 400 runs of it."""

    def __init__(self, sampler: Sampler, num_clients: int) -> None:
        self.sampler, self.n = sampler, num_clients
        self.given = f"{num_clients} clients"

    @functools.cached_property
    def capacity(self) -> int:
        with attempt(self.given, "give num_clients= as many as the sampler needs"):
            return self.sampler.capacity(self.n)

    @property
    def rounds(self) -> int:
        """At least 24, and at least three periods."""
        declared = self.sampler.subsampling
        period = max(getattr(declared, name, 1) for name in ("period", "bins", "separation"))
        return max(ROUNDS, 3 * period)

    @functools.cached_property
    def sample(self) -> Any:
        """All rounds of all runs: ``[runs, rounds, slots]``."""
        keys = jax.random.split(jax.random.key(7), RUNS)

        def play(key: Key) -> Any:
            return jax.vmap(lambda t: self.sampler.sample(key, t, self.n))(
                jnp.arange(self.rounds, dtype=jnp.int32)
            )

        with attempt(f"{self.given}, a traced round", TRACED):
            drawn = _laws.jit(jax.vmap(play))(keys)
        require(
            isinstance(drawn, Sample),
            self.given,
            f"sample returns {type(drawn).__name__}",
            "return fjx.samplers.Sample(ids, taking_part, truncated)",
        )
        return _laws.numpy(drawn)

    @functools.cached_property
    def chosen(self) -> np.ndarray:
        """``bool[runs, rounds, clients]``."""
        ids: np.ndarray = self.sample.ids
        return np.asarray((ids[..., None] == np.arange(self.n)).any(2))

    @functools.cached_property
    def alone(self) -> Any:
        """Round 3 of the first run, by a program of its own."""
        key = jax.random.split(jax.random.key(7), RUNS)[0]
        with attempt(f"{self.given}, round 3", TRACED):
            program = _laws.jit(lambda key: self.sampler.sample(key, 3, self.n))
            return _laws.numpy(program(key))

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """The probabilities of 0, 1, ..., n chosen clients, as declared."""
        declared, sizes = self.sampler.subsampling, np.zeros(self.n + 1)
        if isinstance(declared, FixedSize):
            sizes[declared.size] = 1.0
            return sizes
        room = self.n if declared.cap is None else declared.cap
        for k in range(self.n + 1):
            p = math.comb(self.n, k) * declared.rate**k * (1 - declared.rate) ** (self.n - k)
            sizes[min(k, room)] += p
        return sizes


TRACED = (
    "sample runs inside jax.jit and jax.vmap with a traced round: use jax.numpy and a fixed number of "
    "slots, sampler.capacity(num_clients)"
)
DECLARE = (
    "declare in subsampling the chance that sample realises; privacy is accounted for it.  None, or a "
    "description of your own, makes fjx.privacy.epsilon refuse"
)


def has_a_fixed_number_of_slots(trial: Trial) -> None:
    """Capacity is a Python integer of at least 1, and every round has as many slots."""
    remedy = "capacity(num_clients) returns a Python int; sample returns arrays of that length"
    capacity = trial.capacity
    whole = isinstance(capacity, int) and not isinstance(capacity, bool) and capacity >= 1
    require(whole, trial.given, f"capacity is {capacity!r}", remedy)
    for name, wanted in (("ids", np.int32), ("taking_part", np.bool_)):
        found = getattr(trial.sample, name)
        right = found.shape[2:] == (capacity,) and found.dtype == wanted
        words = f"{name} is {found.dtype}{list(found.shape[2:])}, capacity is {capacity}"
        require(right, trial.given, words, f"{remedy}; ids are int32 and taking_part is bool")
    truncated = trial.sample.truncated
    right = truncated.shape[2:] == () and truncated.dtype == np.int32
    words = f"truncated is {truncated.dtype}{list(truncated.shape[2:])}"
    require(right, trial.given, words, "truncated is an int32 scalar: how many did not fit")


def slots_hold_distinct_clients_or_padding(trial: Trial) -> None:
    """Every slot holds a client's id, each client at most once, or ``num_clients`` for padding."""
    ids = trial.sample.ids
    remedy = "fill unused slots with num_clients, and draw without replacement"
    outside = (ids < 0) | (ids > trial.n)
    require(not outside.any(), trial.given, f"an id is {_one(ids, outside)}", remedy)
    twice = trial.chosen.sum(2) != (ids < trial.n).sum(2)
    require(not twice.any(), trial.given, f"ids {_one(ids, twice)} in one round", remedy)


def nobody_drops_out_of_padding(trial: Trial) -> None:
    """``taking_part`` is True in padding slots."""
    wrong = (trial.sample.ids == trial.n) & ~trial.sample.taking_part
    require(
        not wrong.any(),
        trial.given,
        "taking_part is False in a slot of padding",
        "taking_part | (ids == num_clients): a drop-out is a client that was chosen",
    )


def truncates_only_if_slots_are_full(trial: Trial) -> None:
    """Clients are turned away only in rounds without a free slot."""
    truncated = trial.sample.truncated
    free = (trial.sample.ids == trial.n).any(2)
    require(
        (truncated >= 0).all() and not (free & (truncated > 0)).any(),
        trial.given,
        f"truncated is {int(truncated.max())}, with slots free, at least {int(truncated.min())}",
        "truncated = jnp.maximum(drawn - capacity, 0)",
    )


def vmap_is_a_loop(trial: Trial) -> None:
    """A round in a batch is the round alone, whether its number is traced or a Python integer."""
    batched = Sample(*(x[0, 3] for x in trial.sample))
    difference = _laws.different(list(trial.alone), list(batched))
    require(difference is None, f"{trial.given}, round 3", f"alone it has {difference}", TRACED)


def is_a_pure_function(trial: Trial) -> None:
    """Every trace of ``sample`` is the same program."""
    _laws.require_one_program(
        "sample",
        lambda key, t: trial.sampler.sample(key, t, trial.n),
        (jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), jnp.int32)),
        "draw from jax.random.fold_in(key, round), never from NumPy or Python",
    )


def uses_each_key_once(trial: Trial) -> None:
    """No key is drawn from twice."""
    _laws.require_fresh_keys(lambda key: trial.sampler.sample(key, 3, trial.n))


def one_client_is_enough(trial: Trial) -> None:
    """A population of one client is sampled, or refused with a ValueError."""
    try:
        ids = _laws.jit(lambda key: trial.sampler.sample(key, 0, 1).ids)(jax.random.key(0))
    except ValueError:
        return
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise _laws.Broken(
            "one client", found, "raise a ValueError that says what is needed"
        ) from error
    ids = np.asarray(ids)
    require(
        ((ids == 0) | (ids == 1)).all() and (ids == 0).sum() <= 1,
        "one client",
        f"ids are {ids.tolist()}",
        "the only id is 0, and padding is num_clients = 1",
    )


def clients_come_as_often_as_declared(trial: Trial) -> None:
    """A client is in a round with the declared probability, within 6 standard errors."""
    expected = float(np.arange(trial.n + 1) @ trial.sizes) / trial.n
    often = trial.chosen.reshape(-1, trial.n)
    _require_frequency(trial, often, expected, lambda i: f"client {i}")
    sizes = often.sum(1)
    if isinstance(trial.sampler.subsampling, FixedSize):
        size = trial.sampler.subsampling.size
        found = f"a round has {sizes.min()} to {sizes.max()} clients, declared are {size}"
        require((sizes == size).all(), trial.given, found, DECLARE)


def pairs_come_as_often_as_declared(trial: Trial) -> None:
    """Two clients are in one round with the declared probability, within 6 standard errors."""
    k = np.arange(trial.n + 1)
    expected = float((k * (k - 1)) @ trial.sizes) / (trial.n * (trial.n - 1))
    often = trial.chosen.reshape(-1, trial.n)
    i, j = np.triu_indices(trial.n, 1)
    _require_frequency(
        trial, often[:, i] & often[:, j], expected, lambda p: f"the pair ({i[p]}, {j[p]})"
    )


def rounds_are_independent_as_declared(trial: Trial) -> None:
    """A client is in two rounds in a row with the product of the probabilities."""
    p = float(np.arange(trial.n + 1) @ trial.sizes) / trial.n
    even = trial.chosen[:, 0 : 2 * (trial.rounds // 2) : 2]
    odd = trial.chosen[:, 1 : 2 * (trial.rounds // 2) : 2]
    both = (even & odd).reshape(-1, trial.n)
    _require_frequency(trial, both, p**2, lambda i: f"client {i}, in two rounds in a row,")


def rounds_of_a_client_are_as_declared(trial: Trial) -> None:
    """A client's rounds are as far apart, and as many, as the description says."""
    declared, chosen = trial.sampler.subsampling, trial.chosen

    def say(holds: Any, found: str) -> None:
        require(holds, f"{trial.given}, {trial.rounds} rounds", f"{declared}, but {found}", DECLARE)

    times = np.arange(trial.rounds)
    if isinstance(declared, Full):
        say(chosen.all(), "a client is missing in a round")
    if isinstance(declared, Cyclic):
        windows = np.lib.stride_tricks.sliding_window_view(chosen, declared.period, axis=1)
        say((windows.sum(-1) == 1).all(), "a client is not once in each period")
    if isinstance(declared, CyclicPoisson | BallsInBins):
        period = declared.period if isinstance(declared, CyclicPoisson) else declared.bins
        turns = np.stack([chosen[:, times % period == r].any(1) for r in range(period)], 1)
        say((turns.sum(1) <= 1).all(), "two rounds of a client are no multiple of the period apart")
    if isinstance(declared, CyclicPoisson):
        own = np.stack(
            [chosen[:, times % period == r] for r in range(period)], 2
        )  # [K, turns, r, n]
        mine = own.transpose(3, 2, 0, 1).reshape(trial.n, period, -1)
        mine = np.stack([m[m.any(1).argmax()] for m in mine], 1)
        _require_frequency(trial, mine, declared.rate, lambda i: f"in its turn client {i}")
    if isinstance(declared, BallsInBins):
        say((chosen[:, :period].sum(1) == 1).all(), "a client is not once in each period")
        for r in range(period):
            _require_frequency(
                trial, chosen[:, r], 1 / period, lambda i, r=r: f"client {i}, in bin {r},"
            )
    if isinstance(declared, MinSeparated):
        phases = np.arange(declared.period)[:, None] + times
        places = (phases % declared.period < declared.places) / declared.places
        for later in times[1:]:
            # Places of different periods are independent; one period has one place.
            apart = phases[:, later] // declared.period > phases[:, 0] // declared.period
            _require_frequency(
                trial,
                (chosen[:, 0] & chosen[:, later]).reshape(-1, 1),
                float((places[:, 0] * places[:, later] * apart).mean()),
                lambda i, later=later: f"a client in both rounds 0 and {later}",
            )
        for t in range(trial.rounds):
            _require_frequency(
                trial, chosen[:, t], 1 / declared.period, lambda i, t=t: f"client {i} in round {t}"
            )
    if isinstance(declared, Scheduled | MinSeparated):
        for gap in range(1, min(declared.separation, trial.rounds)):
            say(
                not (chosen[:, gap:] & chosen[:, :-gap]).any(),
                f"two rounds of a client are {gap} apart",
            )
        for rounds in (1, trial.rounds // 2, trial.rounds):
            found, most = int(chosen[:, :rounds].sum(1).max()), declared.most(rounds)
            say(
                found <= most,
                f"a client is in {found} of {rounds} rounds, most({rounds}) is {most}",
            )


def _require_frequency(trial: Trial, hits: np.ndarray, expected: float, words: Any) -> None:
    """Counts over the leading axis, for each column."""
    error = math.sqrt(expected * (1 - expected) / len(hits))
    off = np.abs(hits.mean(0) - expected)
    i = int(off.argmax())
    require(
        off[i] <= SIGMAS * error + 1e-9,
        f"{trial.given}, {RUNS} runs",
        f"{words(i)} comes with frequency {hits.mean(0)[i]:.4f}, declared is {expected:.4f} "
        f"(standard error {error:.2g})",
        DECLARE,
    )


def _one(ids: np.ndarray, where: np.ndarray) -> Any:
    """The first of those that are wrong."""
    return next(iter(ids[where].tolist()), None)


ALWAYS = (
    has_a_fixed_number_of_slots,
    slots_hold_distinct_clients_or_padding,
    nobody_drops_out_of_padding,
    truncates_only_if_slots_are_full,
    vmap_is_a_loop,
    is_a_pure_function,
    uses_each_key_once,
    one_client_is_enough,
)

LAWS = (
    *ALWAYS,
    clients_come_as_often_as_declared,
    pairs_come_as_often_as_declared,
    rounds_are_independent_as_declared,
    rounds_of_a_client_are_as_declared,
)
"""Every law of a sampler, in the order in which they are checked."""
