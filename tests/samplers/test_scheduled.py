"""Samplers that promise how often and how far apart: the promise on long runs, the chances by count."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjx import privacy, samplers

CLIENTS, ROUNDS, RUNS = 8, 32, 1000
TRACE = np.random.default_rng(0).random((7, CLIENTS)) < 0.5


def half(key, round, num_clients):
    return jax.random.bernoulli(jax.random.fold_in(key, round), 0.5, (num_clients,))


SAMPLERS = {
    "cyclic poisson": samplers.cyclic_poisson(3, rate=0.4),
    "balls in bins": samplers.balls_in_bins(4),
    "one bin": samplers.balls_in_bins(1),
    "min separation": samplers.min_separation(3, period=5),
    "rigid": samplers.min_separation(4, period=4),
    "loose": samplers.min_separation(1, period=3),
    "check-in": samplers.random_check_in(2, window=4),
    "available": samplers.available(half, 3),
    "available by turns": samplers.available(half, 3, separation=2),
    "a trace": samplers.available(TRACE, CLIENTS),
    "a trace by turns": samplers.available(TRACE, 3, separation=3),
}


VARIANTS = {"one bin", "rigid", "loose", "available", "a trace by turns"}


def several(*names):
    """Names of samplers, those that are variants of another being slow evidence."""
    marks = [[pytest.mark.slow] if name in VARIANTS else [] for name in names]
    return [pytest.param(name, marks=mark) for name, mark in zip(names, marks, strict=True)]


@functools.cache
def runs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Who took part in many short runs, ``[runs, rounds, clients]``, and how many did not fit."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(keys):
        def one(key, round):
            sample = SAMPLERS[name].sample(key, round, CLIENTS)
            slots = jnp.zeros(CLIENTS, jnp.int32).at[sample.ids]
            return slots.add(sample.taking_part.astype(jnp.int32), mode="drop"), sample.truncated

        rounds = jnp.arange(ROUNDS)
        return jax.vmap(lambda key: jax.vmap(lambda t: one(key, t))(rounds))(keys)

    slots, truncated = map(np.asarray, run(jax.random.split(jax.random.key(11), RUNS)))
    assert slots.max() == 1  # nobody is in two
    return slots > 0, truncated


def assert_frequency(hits: np.ndarray, probability: float) -> None:
    """Counts over the leading axis agree with ``probability`` within five standard errors."""
    error = np.sqrt(probability * (1 - probability) / len(hits))
    assert np.abs(hits.mean(0) - probability).max() <= 5 * error


# --------------------------------------------------------------------------------------------------
# The promise, which privacy rests on
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.few(3)
@pytest.mark.parametrize("name", several(*SAMPLERS))
def test_no_client_takes_part_more_often_or_sooner_than_promised(name):
    taking_part, _ = runs(name)
    so_far = taking_part.cumsum(1).max((0, 2))
    promised = [privacy.participation(SAMPLERS[name], rounds=t + 1) for t in range(ROUNDS)]
    assert (so_far <= [often.most for often in promised]).all()
    separation = promised[-1].separation
    for gap in range(1, separation):
        assert not (taking_part[:, gap:] & taking_part[:, :-gap]).any()
    # And the promise is kept to the letter: somebody does come as soon again.
    assert (taking_part[:, separation:] & taking_part[:, :-separation]).any()


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name",
    several("balls in bins", "min separation", "rigid", "loose", "check-in", "a trace"),
)
def test_the_promised_number_is_reached(name):
    """In every length of run somebody does take part so often: the bound cannot be lowered."""
    so_far = runs(name)[0].cumsum(1).max((0, 2))
    promised = [privacy.participation(SAMPLERS[name], rounds=t + 1).most for t in range(ROUNDS)]
    # Where it takes a chain of rare draws, up to a few rounds.
    assert (so_far[:12] == promised[:12]).all()


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 20, 21])
def test_a_trace_is_counted(length):
    played = np.concatenate([TRACE] * 3)[:length]
    sampler = samplers.available(TRACE, 2)
    assert privacy.participation(sampler, rounds=length).most == played.sum(0).max()


@pytest.mark.slow
@pytest.mark.parametrize(("separation", "period"), [(1, 1), (2, 7), (5, 9), (13, 16)])
def test_separation_over_ten_thousand_rounds(separation, period):
    sampler = samplers.min_separation(separation, period=period)
    key = jax.random.key(5)
    ids = jax.jit(jax.vmap(lambda t: sampler.sample(key, t, 200).ids))(jnp.arange(10_000))
    taking_part = (np.asarray(ids)[:, :, None] == np.arange(200)).any(1)
    gaps = np.concatenate([np.diff(np.flatnonzero(one)) for one in taking_part.T])
    assert (gaps.min(), gaps.max()) == (separation, 2 * period - separation)
    most = privacy.participation(sampler, rounds=10_000).most
    assert most - 1 <= taking_part.sum(0).max() <= most


# --------------------------------------------------------------------------------------------------
# The chances
# --------------------------------------------------------------------------------------------------


def kept(rate: float, size: int) -> float:
    """P[a client comes and is among the ``size`` kept], the others coming independently."""
    others = np.arange(CLIENTS)
    return float(
        rate * stats.binom.pmf(others, CLIENTS - 1, rate) @ np.minimum(1, size / (1 + others))
    )


CHANCES = {
    "balls in bins": 1 / 4,
    "one bin": 1.0,
    "min separation": 1 / 5,
    "rigid": 1 / 4,
    "loose": 1 / 3,
    "check-in": kept(1 / 4, 2),
    "available": kept(1 / 2, 3),
    "available by turns": kept(1 / 4, 3),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", several(*CHANCES))
def test_clients_take_part_with_the_same_chance_in_every_round(name):
    assert_frequency(runs(name)[0], CHANCES[name])


def test_cyclic_poisson_tosses_a_coin_in_a_clients_turn():
    taking_part, _ = runs("cyclic poisson")
    turn = np.arange(ROUNDS)[:, None] % 3 == np.arange(CLIENTS) % 3
    assert not taking_part[:, ~turn].any()
    assert_frequency(taking_part[:, turn], 0.4)
    first, second = taking_part[:, 0, 0], taking_part[:, 3, 0]
    assert_frequency((first & second)[:, None], 0.16)


@pytest.mark.ci
@pytest.mark.parametrize("name", several("balls in bins", "min separation", "loose"))
def test_clients_come_independently(name):
    taking_part, truncated = runs(name)
    assert not truncated.any()
    pairs = [
        taking_part[..., i] & taking_part[..., j] for i, j in itertools.combinations(range(8), 2)
    ]
    assert_frequency(np.stack(pairs, -1), CHANCES[name] ** 2)


def test_bins_do_not_change():
    taking_part, _ = runs("balls in bins")
    assert (taking_part[:, 4:] == taking_part[:, :-4]).all()
    assert (taking_part[:, :4].sum(1) == 1).all()


def test_check_ins_choose_anew_in_every_window_and_the_rest_is_counted():
    taking_part, truncated = runs("check-in")
    came = taking_part.sum(2) + truncated
    # Everybody comes once in a window, and min(came, 2) are taken.
    assert (came.reshape(RUNS, -1, 4).sum(2) == CLIENTS).all()
    assert (taking_part.sum(2) == np.minimum(came, 2)).all()
    for number, probability in enumerate(stats.binom.pmf(np.arange(6), CLIENTS, 1 / 4)):
        assert_frequency(came == number, probability)
    again = taking_part[:, 0, 0] & taking_part[:, 4, 0]
    assert_frequency(again[:, None], kept(1 / 4, 2) ** 2)


def test_gaps_are_those_of_two_places_in_a_turn():
    """The gap is L + p' - p, with p and p' uniform on the first L - b + 1 = 3 places."""
    taking_part, _ = runs("min separation")
    gaps = np.array(
        [
            np.diff(np.flatnonzero(one))[2]
            for one in taking_part.transpose(0, 2, 1).reshape(-1, ROUNDS)
        ]
    )
    for gap, weight in zip(range(3, 8), (1, 2, 3, 2, 1), strict=True):
        assert_frequency((gaps == gap)[:, None], weight / 9)


def test_the_available_are_asked_and_nobody_else():
    taking_part, truncated = runs("a trace")
    assert (taking_part == np.concatenate([TRACE] * 7)[:ROUNDS]).all()
    assert not truncated.any()


@pytest.mark.slow
def test_the_available_are_asked_in_their_turn():
    assert (runs("a trace by turns")[0] <= np.concatenate([TRACE] * 7)[:ROUNDS]).all()


def test_capacities():
    assert samplers.balls_in_bins(100).capacity(1000) == samplers.poisson(0.01).capacity(1000)
    assert samplers.min_separation(3, period=100).capacity(1000) == 40
    assert samplers.random_check_in(7, window=9).capacity(1000) == 7
    assert samplers.cyclic_poisson(10, rate=0.1).capacity(1000) == samplers.poisson(0.1).capacity(
        100
    )


# --------------------------------------------------------------------------------------------------
# What they cost
# --------------------------------------------------------------------------------------------------

MECHANISM = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)


def epsilon(sampler, rounds):
    return privacy.epsilon(MECHANISM, sampler, rounds=rounds, delta=1e-5, method="rdp")


@pytest.mark.parametrize(
    ("sampler", "rounds", "releases", "words"),
    [
        (
            samplers.random_check_in(2, window=4),
            9,
            3,
            "in a random round of every 4, not amplified",
        ),
        (samplers.available(half, 3), 9, 9, "at most 3 of those available, not amplified"),
        (samplers.available(half, 3, separation=2), 9, 5, "each in one of 2 turns, not amplified"),
    ],
)
def test_they_cost_their_participations(sampler, rounds, releases, words):
    claim = epsilon(sampler, rounds)
    assert claim == pytest.approx(float(epsilon(samplers.full(), releases)), rel=1e-12)
    assert words in str(claim)
    assert "An absent client counts as one whose update is zero" in claim.caveats


def test_cyclic_poisson_costs_the_rounds_of_one_block():
    for rounds, turns in ((1, 1), (10, 1), (11, 2), (100, 10)):
        blocks = epsilon(samplers.cyclic_poisson(10, rate=0.1), rounds)
        assert float(blocks) == float(epsilon(samplers.poisson(0.1), turns))
        assert blocks.rounds == rounds
    assert "Poisson rate 0.1 in one of 10 blocks by turns" in str(blocks)
    correlated = MECHANISM._replace(correlation=lambda often: often.most**0.5)
    claim = privacy.epsilon(
        correlated, samplers.cyclic_poisson(10, rate=0.1), rounds=100, delta=1e-5, method="rdp"
    )
    assert claim == pytest.approx(float(epsilon(samplers.full(), 10)), rel=1e-9)
    assert "by turns, not amplified" in str(claim)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: samplers.balls_in_bins(0), ValueError, "bins must be at least 1"),
        (lambda: samplers.min_separation(5, period=4), ValueError, "period must be at least 5"),
        (lambda: samplers.min_separation(0, period=4), ValueError, "separation must be at least 1"),
        (lambda: samplers.random_check_in(0, window=4), ValueError, "size must be at least 1"),
        (lambda: samplers.random_check_in(1, window=0), ValueError, "window must be at least 1"),
        (lambda: samplers.available(half, 0), ValueError, "size must be at least 1"),
        (
            lambda: samplers.available(TRACE[0], 1),
            TypeError,
            r"bool\[rounds, clients\], got bool\[8\]",
        ),
        (lambda: samplers.available(TRACE * 1.0, 1), TypeError, "got float64"),
        (lambda: samplers.available(TRACE[:0], 1), ValueError, "must have rounds and clients"),
        (lambda: samplers.cyclic_poisson(0, rate=0.1), ValueError, "num_blocks must be at least 1"),
        (lambda: samplers.cyclic_poisson(2, rate=0.0), ValueError, "rate must be at least"),
        (
            lambda: samplers.available(TRACE, 1).sample(jax.random.key(0), 0, 5),
            ValueError,
            "a column for each of 8 clients, and there are 5",
        ),
        (lambda: samplers.balls_in_bins(2).sample(0, 0, 4), TypeError, "key must be a typed key"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()
