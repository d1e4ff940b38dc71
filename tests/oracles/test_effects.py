"""Recipes for clients that differ: what each reduces to, and the effect that it is for.

Problems are quadratics f_i(w) = a_i (w - c_i)^2 / 2 of one coordinate, whose optima and fixed points
have closed forms.  A client with n examples has n copies of one, so that with batches of one it makes n
steps an epoch along its full gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import aggregators, algorithms, clients, data, rounds, samplers, simulation
from fjx.rounds._selecting import inclusion_probabilities
from tests.support import tables

uniform = aggregators.uniform(aggregators.mean())
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def quadratics(a, c, sizes=None):
    sizes = np.ones(len(a), int) if sizes is None else sizes
    return data.from_clients(
        [
            {"a": np.full(n, x, np.float32), "c": np.full(n, y, np.float32)}
            for x, y, n in zip(a, c, sizes, strict=True)
        ]
    )


def quadratic(w, batch, key):
    return jnp.mean(batch["a"] * (w - batch["c"]) ** 2) / 2


def models(recipe, dataset, length, start=0.0, cohort=None):
    """The models of ``length`` rounds of all clients, as a function of the recipe's tracers."""

    def run(*hyper):
        algorithm = recipe(*hyper)
        w, n = jnp.full((), start, jnp.float32), dataset.num_clients
        state = algorithm.init(w), simulation.make_table(algorithm.init_client(w), n)

        def one(carry, t):
            ids = jnp.arange(n, dtype=jnp.int32)
            here = dataset.cohort(ids, None if cohort is None else cohort[t])
            key = jax.random.fold_in(jax.random.key(0), t)
            server, rows, _ = algorithm.round(key, *carry, here)
            return (server, rows), server.params

        return jax.lax.scan(one, state, jnp.arange(length))[1]

    return run


# ------------------------------------------------------------------------------------- reductions

LOCAL = {"client_lr": 0.05, "batch_size": 2, "epochs": 2}
WHOLE = {**LOCAL, "batch_size": max(tables.SIZES)}
N, a, f = len(tables.SIZES), algorithms, functools.partial

REDUCTIONS = {
    "fednova of equal steps": (f(a.fednova, **WHOLE), f(a.fedavg, **WHOLE)),
    "fedshuffle of equal steps": (
        f(a.fedshuffle, **{**WHOLE, "client_lr": 0.1}),
        f(a.fedavg, **WHOLE),
    ),
    "fedexp of large epsilon": (f(a.fedexp, epsilon=1e9, **LOCAL), f(a.fedavg, **LOCAL)),
    "fedsam of radius 0": (f(a.fedsam, rho=0.0, **LOCAL), f(a.fedavg, **LOCAL)),
    "fedprox_adaptive of change 0": (
        f(a.fedprox_adaptive, mu=2.0, change=0.0, **LOCAL),
        f(a.fedprox, mu=2.0, **LOCAL),
    ),
    "feddyn of alpha 0": (
        f(a.feddyn, num_clients=N, alpha=0.0, **LOCAL),
        f(a.fedavg, aggregator=uniform, **LOCAL),
    ),
    "moon of mu 0": (f(a.moon, features=tables._features, mu=0.0, **LOCAL), f(a.fedavg, **LOCAL)),
    "mimelite of plain SGD": (
        f(a.mimelite, optimizer=optax.sgd, **LOCAL),
        f(a.fedavg, aggregator=uniform, **LOCAL),
    ),
    "qffl of q 0": (f(a.qffl, q=0.0, **LOCAL), f(a.fedavg, aggregator=uniform, **LOCAL)),
    "afl of fixed weights": (
        f(a.afl, num_clients=N, weights_lr=0.0, **LOCAL),
        f(a.fedavg, aggregator=uniform, **LOCAL),
    ),
    "term of tilt 0": (f(a.term, tilt=0.0, **LOCAL), f(a.fedavg, **LOCAL)),
    "superquantile of all": (f(a.superquantile, fraction=1.0, **LOCAL), f(a.fedavg, **LOCAL)),
    "power_of_choice of all": (f(a.power_of_choice, cohort_size=N, **LOCAL), f(a.fedavg, **LOCAL)),
}


@functools.cache
def both(name):
    """Two rounds of a recipe, and of the one that it generalises."""

    def play(recipe):
        algorithm, dataset = recipe(tables.squared_error), tables.federated()
        params = tables.weights()
        state, rows = (
            algorithm.init(params),
            simulation.make_table(algorithm.init_client(params), N),
        )

        def one(t, carry):
            comes = jnp.arange(N) != t
            cohort = dataset.cohort(jnp.arange(N, dtype=jnp.int32), comes)
            key = jax.random.fold_in(jax.random.key(3), t)
            return algorithm.round(key, *carry, cohort)[:2]

        return jax.lax.fori_loop(0, 2, one, (state, rows))[0].params

    return jit(lambda: [play(recipe) for recipe in REDUCTIONS[name]])()


@pytest.mark.ci
@pytest.mark.few(3)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_recipe_reduces_to_the_one_that_it_generalises(name):
    special, general = both(name)
    for x, y in zip(jax.tree.leaves(special), jax.tree.leaves(general), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


# ---------------------------------------------------------------------------------- unequal steps

SIZES = np.array([1, 2, 4, 16])
CENTRES = np.array([1.0, 0.0, -1.0, 2.0])
SHARES = SIZES / SIZES.sum()


def steps_of(recipe):
    """Recipe on clients that make as many steps as they have examples."""
    return lambda lr: recipe(quadratic, client_lr=lr, batch_size=1)


@pytest.mark.ci
def test_fednova_removes_the_inconsistency_of_unequal_steps():
    """As the step size vanishes: FedAvg stops where clients count by n_i^2, FedNova at the optimum."""
    dataset, lrs = quadratics(np.ones(4), CENTRES, SIZES), jnp.array([0.1, 0.01])

    def ends(recipe):
        run = jit(jax.vmap(models(steps_of(recipe), dataset, 150, start=0.5)))
        return np.asarray(run(lrs))[:, -1]

    def fixed_point(weights):
        return (weights * CENTRES).sum(-1) / weights.sum(-1)

    moved = 1 - (1 - np.asarray(lrs, np.float64)[:, None]) ** SIZES
    optimum = SHARES @ CENTRES
    np.testing.assert_allclose(ends(a.fedavg), fixed_point(SHARES * moved), atol=2e-3)
    np.testing.assert_allclose(ends(a.fednova), fixed_point(SHARES * moved / SIZES), atol=2e-3)
    wrong = abs(fixed_point(SHARES * SIZES) - optimum)
    assert abs(ends(a.fedavg)[1] - optimum) > 0.8 * wrong > 0.2
    assert abs(ends(a.fednova)[1] - optimum) < 0.1 * wrong


SKEWED = np.array([1] * 9 + [200])


def fednova_factor(lr):
    """The factor by which the distance from FedNova's fixed point is multiplied in a round."""
    p = SKEWED / SKEWED.sum()
    return 1 - (p @ SKEWED) * (p * (1 - (1 - lr) ** SKEWED) / SKEWED).sum()


@pytest.mark.slow
def test_fednova_collapses_under_quantity_skew_by_its_definition():
    """Of ten clients nine have one example and one has 200.

    tau_eff is 191, so that a client of one step is extrapolated 191 times.  At a rate that suits
    gradient descent on each client, 0.3, the factor of a round is below -1.  FedAvg and FedShuffle
    converge, and so does FedNova with a server step size that makes up for tau_eff.
    """
    dataset, lr = quadratics(np.ones(10), np.linspace(-1, 1, 10), SKEWED), 0.3
    assert fednova_factor(lr) < -1.3
    assert abs(fednova_factor(0.05)) < 1
    runs = {
        "nova": lambda: a.fednova(quadratic, client_lr=lr, batch_size=1),
        "small": lambda: a.fednova(quadratic, client_lr=0.05, batch_size=1),
        "damped": lambda: a.fednova(quadratic, client_lr=lr, batch_size=1, server_lr=0.5),
        "avg": lambda: a.fedavg(quadratic, client_lr=lr, batch_size=1),
        "shuffle": lambda: a.fedshuffle(quadratic, client_lr=0.9, batch_size=1),
    }
    path = jit(lambda: {name: models(make, dataset, 60)() for name, make in runs.items()})()
    w = {name: np.asarray(x, np.float64) for name, x in path.items()}
    steps = np.diff(w["nova"])
    np.testing.assert_allclose(steps[1:6] / steps[:5], fednova_factor(lr), rtol=1e-3)
    assert abs(w["nova"][-1]) > 1e4
    for name in ("small", "damped", "avg", "shuffle"):
        assert abs(w[name][-1] - w[name][-2]) < 1e-3
        assert abs(w[name][-1]) < 1


# ------------------------------------------------------------------------------- drift corrections

CURVATURES = np.array([1.0, 2.0, 4.0, 8.0])
OPTIMUM = CURVATURES @ CENTRES / CURVATURES.sum()
DRIFTING = {"client_lr": 0.05, "batch_size": 1, "epochs": 10}

CORRECTED = {
    "feddyn": (f(a.feddyn, num_clients=4, alpha=3.0), 200),
    "fedadmm": (f(a.fedadmm, rho=3.0), 200),
    "mime": (f(a.mime, optimizer=optax.sgd), 200),
    "scaffold": (f(a.scaffold, num_clients=4), 200),
}


@pytest.mark.slow
def test_corrected_methods_reach_the_optimum_that_fedavg_misses():
    dataset = quadratics(CURVATURES, CENTRES)
    recipes = {"fedavg": (a.fedavg, 200), **CORRECTED}

    def all_of_them():
        return {
            name: models(lambda r=recipe: r(quadratic, **DRIFTING), dataset, length)()[-1]
            for name, (recipe, length) in recipes.items()
        }

    ends = jit(all_of_them)()
    moved = 1 - (1 - 0.05 * CURVATURES) ** 10
    fixed_point = moved @ CENTRES / moved.sum()
    assert float(ends["fedavg"]) == pytest.approx(fixed_point, abs=1e-4)
    assert abs(fixed_point - OPTIMUM) > 0.3
    for name in CORRECTED:
        assert float(ends[name]) == pytest.approx(OPTIMUM, abs=1e-4), name


@pytest.mark.slow
def test_stale_controls_cost_rounds_and_do_not_collapse():
    """SCAFFOLD with 100 clients of one curvature, of whom all, 10 or 5 come to a round.

    Where all controls are as old as the round it stops at float32's rounding.  The fewer come, the older
    controls are and the slower it is; but c stays the mean of all c_i, and it never leaves the range
    of the clients' optima, as a collapse would.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=100)
    dataset = quadratics(np.ones(100), centres)

    def error(size):
        comes = np.stack([rng.permutation(100) < size for _ in range(300)])
        recipe = f(a.scaffold, num_clients=100, client_lr=0.1, batch_size=1, epochs=30)
        run = models(lambda: recipe(quadratic), dataset, 300, cohort=jnp.asarray(comes))
        path = np.asarray(jit(run)(), np.float64)
        assert np.abs(path).max() < np.abs(centres).max()
        return np.abs(path[-20:] - centres.mean()).mean()

    everybody, some, few = error(100), error(10), error(5)
    assert everybody < 1e-6 < some < few < 0.1


# ---------------------------------------------------------------------------------------- fairness


@pytest.mark.slow
def test_fair_methods_trade_the_mean_for_the_worst():
    """Two clients agree at 0 and one is alone at 2; 0.1 is added so that losses are positive."""
    centres = np.array([0.0, 0.0, 2.0])
    dataset = quadratics(np.ones(3), centres)

    def positive(w, batch, key):
        return quadratic(w, batch, key) + 0.1

    one = {"client_lr": 0.1, "batch_size": 1}
    recipes = {
        "fedavg": f(a.fedavg, **one),
        "qffl": f(a.qffl, q=2.0, **one),
        "more": f(a.qffl, q=8.0, **one),
        "term": f(a.term, tilt=2.0, **one),
        "superquantile": f(a.superquantile, fraction=1 / 3, **{**one, "client_lr": 0.02}),
        "afl": f(a.afl, num_clients=3, weights_lr=0.02, **{**one, "client_lr": 0.05}),
        "fedmgda": f(a.fedmgda, epsilon=1.0, server_lr=0.05, **one),
    }
    ends = jit(
        lambda: {
            name: models(lambda r=r: r(positive), dataset, 400, start=-1.0)()[-1]
            for name, r in recipes.items()
        }
    )()
    w = {name: float(x) for name, x in ends.items()}
    losses = {name: (x - centres) ** 2 / 2 for name, x in w.items()}
    assert w["fedavg"] == pytest.approx(2 / 3, abs=1e-3)
    # More fairness: less variance and a smaller worst loss, for a larger mean.
    for less, more in (("fedavg", "qffl"), ("qffl", "more"), ("fedavg", "term")):
        assert np.var(losses[more]) < np.var(losses[less])
        assert np.max(losses[more]) < np.max(losses[less])
        assert np.mean(losses[more]) > np.mean(losses[less])
    # The worst client is as well off as can be where both losses are equal, at 1.
    assert w["superquantile"] == pytest.approx(1, abs=0.05)
    assert w["afl"] == pytest.approx(1, abs=0.05)
    # From -1 all clients want to go up, until the first two arrive: there it hurts them to go on.
    assert w["fedmgda"] == pytest.approx(0, abs=0.06)


# --------------------------------------------------------------------------------------- selection

SCORES = np.array([9.0, 3.0, 1.0, 0.5, 2.0, 0.1, 4.0, 0.4], np.float32)
WEIGHTS = np.array([1.0, 2.0, 3.0, 1.0, 0.0, 2.0, 1.0, 4.0], np.float32)


def test_inclusion_probabilities_sum_to_the_size():
    sizes = SCORES * WEIGHTS
    for size in (1, 2, 3, 5, 7, 8):
        pi = np.asarray(inclusion_probabilities(jnp.asarray(sizes), size), np.float64)
        assert pi.max() <= 1
        assert pi.sum() == pytest.approx(min(size, (sizes > 0).sum()), rel=1e-5)
        free = (pi < 1) & (sizes > 0)
        if free.any():  # in proportion, and the certain ones would exceed one
            c = pi[free] / sizes[free]
            np.testing.assert_allclose(c, c[0], rtol=1e-5)
            assert (c[0] * sizes[pi == 1] >= 1 - 1e-5).all()


def test_choice_by_importance_is_unbiased():
    """20,000 draws; the mean of each weight within 4.5 standard errors of w_k / W."""
    draws, size = 20_000, 3
    choose = jax.vmap(f(rounds.proportional, size=size), in_axes=(0, None, None))
    keys = jax.random.split(jax.random.key(0), draws)
    slots, weights = map(np.asarray, jit(choose)(keys, jnp.asarray(SCORES), jnp.asarray(WEIGHTS)))
    assert (np.diff(np.sort(slots, axis=1), axis=1) > 0).all()  # distinct
    given = np.zeros((draws, len(SCORES)))
    np.put_along_axis(given, slots, weights, axis=1)
    error = given.std(0) / np.sqrt(draws)
    assert (np.abs(given.mean(0) - WEIGHTS / WEIGHTS.sum()) <= 4.5 * error + 1e-6).all()
    # For updates as long as the scores it varies less than a uniform choice of as many.
    there = np.flatnonzero(WEIGHTS)
    estimate = given @ SCORES
    rng = np.random.default_rng(0)
    alike = np.stack([rng.permutation(there)[:size] for _ in range(2000)])
    plain = (WEIGHTS[alike] * SCORES[alike]).sum(1) * len(there) / size / WEIGHTS.sum()
    assert estimate.mean() == pytest.approx(plain.mean(), rel=0.05)
    assert estimate.var() < 0.2 * plain.var()


@pytest.mark.ci
def test_fewer_candidates_than_asked_for_are_all_chosen_once():
    scores = jnp.array([-jnp.inf, 2.0, -jnp.inf, 1.0])
    slots, weights = rounds.proportional(
        jax.random.key(0), scores, jnp.array([0.0, 1.0, 0.0, 3.0]), 3
    )
    assert sorted(slots[weights > 0].tolist()) == [1, 3]
    assert len(set(slots.tolist())) == 3
    assert sorted(weights.tolist()) == pytest.approx([0, 0.25, 0.75])


@pytest.mark.slow
def test_a_round_by_importance_is_unbiased():
    """2,000 rounds of five clients, of whom two are chosen; within 4.5 standard errors of all five."""
    dataset = quadratics(np.ones(5), [1.0, -2.0, 0.5, 4.0, 0.1], [1, 3, 2, 1, 2])
    hyper = {"client_lr": 0.5, "batch_size": 3}
    chosen = rounds.selecting(
        a.fedavg(quadratic, aggregator=aggregators.weighted_sum(), **hyper),
        clients.gradient_norm(quadratic, batch_size=3),
        choose=rounds.proportional,
        size=2,
    )
    cohort, w = dataset.cohort(jnp.arange(5)), jnp.zeros(())

    def one(algorithm, key):
        rows = simulation.make_table(algorithm.init_client(w), 5)
        return algorithm.round(key, algorithm.init(w), rows, cohort)[0].params

    keys = jax.random.split(jax.random.key(2), 2000)
    ends = np.asarray(jit(jax.vmap(f(one, chosen)))(keys), np.float64)
    expected = float(jit(f(one, a.fedavg(quadratic, **hyper)))(jax.random.key(0)))
    assert abs(ends.mean() - expected) < 4.5 * ends.std() / np.sqrt(2000)
    assert ends.std() > 0.01


def test_clusters_of_one_size_are_unbiased_and_vary_less():
    clusters = np.repeat([0, 1, 2], 4)
    values = clusters * 10.0 + np.tile([-1.0, 1.0, 2.0, -2.0], 3)
    sampler = samplers.clustered(clusters, each=1)
    draw = jax.vmap(lambda t: sampler.sample(jax.random.key(0), t, 12).ids)
    means = values[np.asarray(jit(draw)(jnp.arange(5000)))].mean(1)
    assert abs(means.mean() - values.mean()) < 4.5 * means.std() / np.sqrt(5000)
    assert means.var() == pytest.approx(
        2.5 / 3, rel=0.1
    )  # that within clusters, over three of them


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.clustered([0, 2]), "without gaps"),
        (lambda: samplers.clustered([0, 0, 1], each=2), "cluster 1 has too few"),
        (lambda: samplers.clustered([-1, 0]), "from 0 on"),
        (lambda: samplers.clustered([0.5]), "one integer for each client"),
        (lambda: samplers.clustered([0, 0]).capacity(3), "give the cluster of each"),
        (lambda: a.qffl(quadratic, q=-1.0, client_lr=0.1, batch_size=1), "q must be at least 0"),
        (
            lambda: a.superquantile(quadratic, fraction=0.0, client_lr=0.1, batch_size=1),
            "fraction must be greater than 0",
        ),
        (
            lambda: a.moon(quadratic, features="z", client_lr=0.1, batch_size=1),
            "features must be a function",
        ),
        (
            lambda: a.mimelite(quadratic, optimizer=optax.sgd(0.1), client_lr=0.1, batch_size=1),
            "function of the step size",
        ),
        (
            lambda: a.scaffold(
                quadratic, num_clients=2, client_lr=0.1, batch_size=1, aggregator=uniform
            ),
            "scaffold takes no aggregator",
        ),
        (
            lambda: rounds.selecting(
                a.dp_fedavg(
                    quadratic,
                    clip_norm=1.0,
                    noise_multiplier=1.0,
                    cohort_size=2,
                    client_lr=0.1,
                    batch_size=1,
                ),
                clients.mean_loss(quadratic, batch_size=1),
                choose=rounds.highest,
                size=1,
            ),
            "choose clients by a sampler",
        ),
    ],
)
def test_bad_input_is_refused_with_the_remedy(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_too_few_candidates_are_an_error():
    algorithm = a.power_of_choice(quadratic, cohort_size=3, client_lr=0.1, batch_size=1)
    dataset, w = quadratics([1.0, 1.0], [0.0, 1.0]), jnp.zeros(())
    rows = simulation.make_table(algorithm.init_client(w), 2)
    with pytest.raises(ValueError, match="let the sampler draw more"):
        jax.eval_shape(
            algorithm.round,
            jax.random.key(0),
            algorithm.init(w),
            rows,
            dataset.cohort(np.arange(2)),
        )


@pytest.mark.ci
def test_candidates_are_billed_and_unchosen_ones_rest():
    """Of five candidates with examples one has a broken loss, and two are chosen."""
    dataset = quadratics(np.ones(6), [0.0, 5.0, np.nan, 1.0, 4.0, 9.0], [1, 1, 1, 1, 1, 0])
    algorithm = rounds.selecting(
        a.scaffold(quadratic, num_clients=6, client_lr=0.1, batch_size=1),
        clients.mean_loss(quadratic, batch_size=1),
        choose=rounds.highest,
        size=2,
    )
    w = jnp.zeros(())
    rows = simulation.make_table(algorithm.init_client(w), 6)
    _, after, metrics = jit(algorithm.round)(
        jax.random.key(0), algorithm.init(w), rows, dataset.cohort(jnp.arange(6))
    )
    counted = {n: int(metrics[n]) for n in ("invited", "participants", "nonfinite", "uplink_bytes")}
    # Scores of five clients, and two messages of two floats.
    assert counted == {
        "invited": 6, "participants": 2, "nonfinite": 1, "uplink_bytes": 4 * 5 + 2 * 8,
    }  # fmt: skip
    assert np.flatnonzero(after.client).tolist() == [1, 4]
    assert algorithm.traffic(w).uplink == 2 * 32 + 32


@pytest.mark.slow
def test_the_choice_depends_neither_on_the_order_of_slots_nor_on_padding():
    dataset = quadratics(np.ones(5), [1.0, 2.0, 0.5, 4.0, 0.1], [1, 3, 2, 1, 2])
    algorithm = rounds.selecting(
        a.fedavg(quadratic, client_lr=0.5, batch_size=3),
        clients.gradient_norm(quadratic, batch_size=3),
        choose=rounds.proportional,
        size=2,
    )
    w = jnp.zeros(())

    def ends(ids):
        rows = simulation.make_table(algorithm.init_client(w), len(ids))
        cohort = dataset.cohort(jnp.array(ids))
        play = jax.vmap(lambda key: algorithm.round(key, algorithm.init(w), rows, cohort)[0].params)
        return np.asarray(jit(play)(jax.random.split(jax.random.key(0), 20)))

    plain = ends([0, 1, 2, 3, 4])
    assert np.ptp(plain) > 0.1
    np.testing.assert_allclose(ends([3, 1, 4, 0, 2]), plain, atol=1e-6)
    np.testing.assert_allclose(ends([5, 0, 1, 5, 2, 3, 4]), plain, atol=1e-6)
