"""Robust rules against their papers in NumPy, their laws, and their proved bounds.

All rules are one program, over a batch of cohorts with their own number f: see :func:`program`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, privacy, secure, theory
from fjx.aggregators._robust import products as kernel
from fjx.aggregators._robust.stack import Stack
from tests.support import robust as oracle

SLOTS, SIZE, BATCH = 7, 5, 48
KEY = jax.random.key(0)
REFERENCE = np.array([1.0, -1.0, 0.5, 0.0, 2.0], np.float32)


def rules(f):
    """The rules by name, for a number f that may be traced."""
    return {
        "median": aggregators.median(),
        "trimmed_mean": aggregators.trimmed_mean(f),
        "mean_around_median": aggregators.mean_around_median(f),
        "krum": aggregators.krum(f),
        "multi_krum": aggregators.multi_krum(f),
        "bulyan": aggregators.bulyan(f),
        "mda_2": aggregators.mda(2),
        "smea_2": aggregators.smea(2),
        "caf": aggregators.caf(f),
        "geometric_median": aggregators.geometric_median(),
        "autogm": aggregators.autogm(turns=2),
        "centered_clipping": aggregators.centered_clipping(2.0, iterations=2),
        "mixed_mean": aggregators.nearest_neighbour_mixing(aggregators.mean(), f),
        "mixed_krum": aggregators.nearest_neighbour_mixing(aggregators.krum(f), f),
        "clipped_mean": aggregators.adaptive_clipping(aggregators.mean(), f),
        "fltrust": aggregators.fltrust(),
        "dnc": aggregators.dnc(f, coordinates=64),
        "sign_guard": aggregators.sign_guard(coordinates=64),
    }


def split(x):
    """A vector of five numbers as a message with a matrix and a scalar."""
    return {"a": x[..., :4].reshape(*x.shape[:-1], 2, 2), "b": x[..., 4]}


def joined(message):
    return jnp.concatenate([message["a"].reshape(4), message["b"][None]])


@functools.cache
def program():
    """``(x, weights, f) -> {rule: (vector, metrics)}`` over a batch of cohorts."""

    def one(x, weights, f):
        found = {}
        for name, rule in rules(f).items():
            state = split(jnp.asarray(REFERENCE)) if name == "fltrust" else None
            key = jax.random.clone(KEY)
            message, _, metrics = aggregators.aggregate(
                key, rule, split(x), weights=weights, state=state
            )
            found[name] = joined(message), metrics
        return found

    return jax.jit(jax.vmap(one))


def run(x, weights=None, f=2):
    """The program on up to ``BATCH`` cohorts ``[b, SLOTS, SIZE]``."""
    x = np.asarray(x, np.float32)
    weights = np.ones(x.shape[:2], np.float32) if weights is None else np.asarray(weights)
    f = np.broadcast_to(np.asarray(f, np.int32), len(x))
    pad = BATCH - len(x)
    filled = (
        np.concatenate([part, np.zeros((pad, *part.shape[1:]), part.dtype)])
        for part in (x, weights.astype(np.float32), f)
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(x)], program()(*filled))


def cohorts():
    """Cohorts by name: messages, weights, and which messages are expected to count."""
    rng = np.random.default_rng(0)
    whole = np.ones(SLOTS, bool)

    def normal():
        return rng.normal(size=(SLOTS, SIZE)).astype(np.float32)

    def ties():
        return rng.integers(-2, 3, size=(SLOTS, SIZE)).astype(np.float32)

    out = {}
    for number in range(3):
        out[f"random {number}"] = normal(), whole, whole
        out[f"ties {number}"] = ties(), whole, whole
    for name, make in {"random": normal, "ties": ties}.items():
        here = whole.copy()
        here[[1, 5]] = False
        out[f"{name}, two absent"] = make(), here, here
        here = whole.copy()
        here[[0, 2, 3, 6]] = False
        out[f"{name}, four absent"] = make(), here, here
    for value in (np.nan, np.inf, -np.inf):
        x, finite = normal(), whole.copy()
        x[4, 3] = value
        finite[4] = False
        out[f"one {value}"] = x, whole, finite
    alone = np.arange(SLOTS) == 3
    out["one client"] = normal(), alone, alone
    out["equal messages"] = np.broadcast_to(normal()[:1], (SLOTS, SIZE)), whole, whole
    x = ties()
    x[3:] = x[0]
    out["a majority of equal messages"] = x, whole, whole
    x = normal()
    x[5:] *= 1e6
    out["far outliers"] = x, whole, whole
    return out


COHORTS = cohorts()
EXACT = [name for name in COHORTS if "random" in name or "one" in name]
"""Cohorts in which no eigenvector is a matter of rounding."""


@functools.cache
def results():
    """By f and cohort: the results of all rules."""
    cases = [(name, f) for name in COHORTS for f in (0, 1, 2)]
    found = {}
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        x, here = (np.stack([COHORTS[name][i] for name, _ in part]) for i in (0, 1))
        answer = run(x, here, [f for _, f in part])
        found.update(
            {case: jax.tree.map(lambda leaf, i=i: leaf[i], answer) for i, case in enumerate(part)}
        )
    return found


def expected(rule, x, f):
    """The oracle of a rule, for the messages that came."""
    f, f4 = min(f, (len(x) - 1) // 2), min(f, max((len(x) - 3) // 4, 0))
    two = min(2, (len(x) - 1) // 2)
    return {
        "median": lambda: oracle.median(x),
        "trimmed_mean": lambda: oracle.trimmed_mean(x, f),
        "mean_around_median": lambda: oracle.mean_around_median(x, f),
        "krum": lambda: oracle.krum(x, f),
        "multi_krum": lambda: oracle.multi_krum(x, f),
        "bulyan": lambda: oracle.bulyan(x, f4),
        "mda_2": lambda: oracle.mda(x, two),
        "smea_2": lambda: oracle.smea(x, two),
        "caf": lambda: oracle.caf(x, f),
        "centered_clipping": lambda: oracle.centered_clipping(x, 2.0, 2, np.zeros(SIZE)),
        "mixed_mean": lambda: oracle.mixed(x, f).mean(0),
        "mixed_krum": lambda: oracle.krum(oracle.mixed(x, f), f),
        "clipped_mean": lambda: oracle.clipped(x, f).mean(0),
        "fltrust": lambda: oracle.fltrust(x, REFERENCE.astype(np.float64)),
    }[rule]()


SPECTRAL = {"smea_2", "caf"}
CHECKED = [
    *("median", "trimmed_mean", "mean_around_median", "krum", "multi_krum", "bulyan", "mda_2"),
    *("smea_2", "caf", "centered_clipping", "mixed_mean", "clipped_mean", "fltrust"),
]


@pytest.mark.ci
@pytest.mark.parametrize("f", [0, 1, 2])
@pytest.mark.parametrize("rule", CHECKED)
def test_rule_is_its_paper_s(rule, f):
    for name, (x, here, counts) in COHORTS.items():
        if rule in SPECTRAL and name not in EXACT:
            continue
        came = x[here & counts].astype(np.float64)
        found = results()[name, f][rule][0]
        scale = np.abs(came).max()
        np.testing.assert_allclose(
            found, expected(rule, came, f), rtol=2e-5, atol=2e-6 * scale, err_msg=name
        )


@pytest.mark.ci
def test_the_geometric_median_is_within_its_tolerance():
    for name, (x, here, counts) in COHORTS.items():
        found, metrics = results()[name, 0]["geometric_median"]
        came = x[here & counts].astype(np.float64)
        lengths = np.sort(np.linalg.norm(came - found, axis=1))
        if lengths[0] > 1e-2 * lengths[len(came) // 2] + 1e-5:  # not at a message
            assert oracle.mean_unit_vector(came, found) < 2e-5, name
        else:  # the pull of the others is weaker than that of the messages there
            there = np.linalg.norm(came - found, axis=1) <= 1e-2 * lengths[-1] + 1e-5
            rest = came[~there]
            pull = oracle.mean_unit_vector(rest, found) * len(rest) if len(rest) else 0
            assert pull <= there.sum() + 1e-3, name
        assert metrics["iterations"] < 1000, name


@pytest.mark.ci
@pytest.mark.parametrize("far", [3.0, 1e6, 1e18])
def test_the_geometric_median_of_a_majority_of_equal_messages_is_that_message(far):
    x = np.full((2, SLOTS, SIZE), 0.5)
    x[0, :3] = np.random.default_rng(9).normal(size=(3, SIZE)) * far
    x[1, [0, 2, 4]] = far
    vectors, metrics = run(x, f=[2, 2])["geometric_median"]
    np.testing.assert_allclose(vectors, 0.5, rtol=1e-6)
    assert metrics["iterations"].max() < 1000


@pytest.mark.ci
def test_the_geometric_median_does_not_rest_on_a_message_beside_far_ones():
    """On a line it is the middle message; Weiszfeld's steps from the mean came to rest on another."""
    lines = [
        [0.536, -0.0875, -76.05, -1066.7, 0.4033, 0.3191, -6.937],
        [-0.0068, -0.7946, -0.0539, -2.2114, -0.0972, -2.3255, -0.0727],
        [3.0, 0.0, 0.0, 0.0, 3.0, 1.0, 0.0],
    ]
    x = np.zeros((len(lines), SLOTS, SIZE))
    x[:, :, 0] = lines
    vectors, _ = run(x, f=[3] * len(lines))["geometric_median"]
    np.testing.assert_allclose(vectors, np.median(x, axis=1), atol=1e-3)


@pytest.mark.ci
def test_messages_that_are_not_finite_are_left_out_and_counted():
    for name, (_, here, counts) in COHORTS.items():
        for rule, (_, metrics) in results()[name, 1].items():
            assert metrics["left_out"] == np.sum(here & ~counts), (name, rule)


@pytest.mark.ci
def test_f_is_lowered_to_what_those_who_came_allow_and_counted():
    for (name, f), found in results().items():
        n = int(np.sum(COHORTS[name][1] & COHORTS[name][2]))
        for rule, (_, metrics) in found.items():
            if "f_lowered" in metrics:
                least = 4 * f + 3 if rule == "bulyan" else 2 * f + 1
                asked = f if rule not in ("mda_2", "smea_2") else 2
                least = 2 * asked + 1 if asked != f else least
                times = 2 if rule == "mixed_krum" else 1
                assert metrics["f_lowered"] == times * (asked > 0 and n < least), (name, rule)


@pytest.mark.ci
def test_f_zero_is_the_mean():
    names = {
        "trimmed_mean",
        "mean_around_median",
        "multi_krum",
        "bulyan",
        "caf",
        "mixed_mean",
        "dnc",
    }
    for name, (x, here, counts) in COHORTS.items():
        mean = x[here & counts].astype(np.float64).mean(0)
        for rule in names:
            np.testing.assert_allclose(
                results()[name, 0][rule][0], mean, rtol=1e-5, atol=1e-6 * np.abs(x[counts]).max()
            )


def test_values_of_the_yardstick():
    """On three messages 1..9; Krum's choice is a tie, which the first wins."""
    x = jnp.arange(1.0, 10.0).reshape(3, 3)
    low = [2.5, 3.5, 4.5]
    known = {
        "median": (aggregators.median(), [4, 5, 6]),
        "trimmed_mean": (aggregators.trimmed_mean(1), [4, 5, 6]),
        "centered_clipping": (aggregators.centered_clipping(), [4, 5, 6]),
        "multi_krum": (aggregators.multi_krum(1), low),
        "mda": (aggregators.mda(1), low),
        "mean_around_median": (aggregators.mean_around_median(1), low),
        "smea": (aggregators.smea(1), low),
        "nearest_neighbour_mixing": (
            aggregators.nearest_neighbour_mixing(aggregators.krum(1), 1),
            low,
        ),
        "krum": (aggregators.krum(1), [1, 2, 3]),
        "geometric_median": (aggregators.geometric_median(), [4, 5, 6]),
    }
    found = jax.jit(
        lambda x: {
            name: aggregators.aggregate(jax.random.clone(KEY), rule, x)[0]
            for name, (rule, _) in known.items()
        }
    )(x)
    for name, (_, value) in known.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


# ---- laws -----------------------------------------------------------------------------------------

BY_NORM = {"clipped_mean", "centered_clipping", "fltrust", "sign_guard"}
"""Rules that look at norms or signs, so they have an origin."""


@functools.cache
def transformed():
    """Results on random cohorts, and on the same ones shuffled, moved and scaled."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, SLOTS, SIZE)).astype(np.float32)
    x[5:, :2] *= 30
    order, shift = rng.permutation(SLOTS), rng.normal(size=SIZE).astype(np.float32)
    found = run(np.concatenate([x, x[:, order], x + shift, 4 * x]), f=1)
    parts = [jax.tree.map(lambda leaf, i=i: leaf[10 * i : 10 * i + 10], found) for i in range(4)]
    return x, shift, parts


@pytest.mark.ci
@pytest.mark.parametrize("rule", [rule for rule in rules(1) if rule != "bulyan"])
def test_the_order_of_messages_does_not_matter(rule):
    _, _, (base, shuffled, _, _) = transformed()
    np.testing.assert_allclose(shuffled[rule][0], base[rule][0], rtol=1e-4, atol=2e-4)


@pytest.mark.ci
@pytest.mark.parametrize("rule", [rule for rule in rules(1) if rule not in BY_NORM])
def test_a_shift_of_all_messages_shifts_the_result(rule):
    _, shift, (base, _, moved, _) = transformed()
    np.testing.assert_allclose(moved[rule][0], base[rule][0] + shift, rtol=1e-4, atol=5e-4)


@pytest.mark.ci
@pytest.mark.parametrize("rule", [r for r in rules(1) if r not in ("centered_clipping", "fltrust")])
def test_a_factor_of_all_messages_is_one_of_the_result(rule):
    _, _, (base, _, _, scaled) = transformed()
    np.testing.assert_allclose(scaled[rule][0], 4 * base[rule][0], rtol=1e-4, atol=2e-3)


KAPPA = {
    "median": theory.kappa_median,
    "trimmed_mean": theory.kappa_trimmed_mean,
    "mean_around_median": theory.kappa_mean_around_median,
    "krum": theory.kappa_krum,
    "multi_krum": theory.kappa_krum,
    "mda_2": theory.kappa_mda,
    "smea_2": theory.kappa_smea,
    "geometric_median": theory.kappa_geometric_median,
    "mixed_krum": lambda n, f: theory.kappa_nearest_neighbour_mixing(theory.kappa_krum(n, f), n, f),
}


def worst_ratios(x, found, f):
    """By rule: for each cohort, the largest squared error over the variance of n - f messages."""
    subsets = np.array(list(itertools.combinations(range(SLOTS), SLOTS - f)))
    honest = x[:, subsets].astype(np.float64)  # [b, subsets, n - f, d]
    mean = honest.mean(2)
    variance = ((honest - mean[:, :, None]) ** 2).sum(-1).mean(-1)
    return {
        rule: (((found[rule][0][:, None] - mean) ** 2).sum(-1) / variance).max(1) for rule in KAPPA
    }


def attacked(rng, number):
    """Cohorts in which two messages are anywhere, from near the others to very far."""
    x = rng.normal(size=(number, SLOTS, SIZE))
    x[:, 1] = np.where(rng.random((number, 1)) < 0.5, x[:, 0], x[:, 1])  # colluding
    scale = 10 ** rng.uniform(-1, 3, size=(number, 1, 1))
    x[:, :2] = x[:, :2] * scale + rng.normal(size=(number, 1, SIZE))
    return x.astype(np.float32)


@pytest.mark.ci
def test_no_attack_is_beyond_the_proved_coefficient():
    """About 500 random cohorts, every subset being the honest one."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        x = attacked(rng, BATCH)
        for rule, ratios in worst_ratios(x, run(x, f=2), 2).items():
            assert ratios.max() <= KAPPA[rule](SLOTS, 2) * 1.001, rule
            # Half of the messages are no outlier for anybody: no rule is better than the bound.
            assert ratios.max() >= theory.kappa_lower_bound(SLOTS, 2) / 4, rule


@pytest.mark.ci
def test_no_rule_is_better_than_the_lower_bound():
    """On the cohort of the proof, zeros and ones."""
    x = np.zeros((1, SLOTS, SIZE), np.float32)
    x[:, :2] = 1
    found = run(x, f=2)
    for rule in KAPPA:
        zeros = np.abs(found[rule][0]).max()
        assert zeros < 1e-3, rule  # the five zeros may be the honest ones
    assert theory.kappa_lower_bound(SLOTS, 2) == pytest.approx((2 / 5) ** 2 / (2 / 5 * 3 / 5))


ROBUST = [*KAPPA, "bulyan", "caf", "autogm", "dnc", "sign_guard", "clipped_mean"]


@pytest.mark.ci
def test_up_to_f_messages_cannot_carry_the_result_away_and_a_majority_can():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, SLOTS, SIZE)) + 1
    x[0, :1] = 1e5
    x[1, :1] = 1e12  # fourth powers overflow
    x[2, -1:] = 1e12
    x[3, -1:] = 1e18  # the largest that is not left out
    x[4, :4] = 1e5
    found = run(x, f=[1, 1, 1, 1, 1])
    for rule in ROBUST:
        *few, many = np.linalg.norm(found[rule][0], axis=1)
        assert max(few) < 20, rule
        assert many > 1e3, rule


# ---- refusals -------------------------------------------------------------------------------------

WITH_F = {
    **{
        name: getattr(aggregators, name)
        for name in ("trimmed_mean", "mean_around_median", "krum", "multi_krum")
    },
    **{name: getattr(aggregators, name) for name in ("bulyan", "mda", "smea", "caf", "dnc")},
    **{
        name: lambda f, name=name: getattr(aggregators, name)(aggregators.mean(), f)
        for name in ("nearest_neighbour_mixing", "adaptive_clipping")
    },
}


@pytest.mark.parametrize("name", WITH_F)
def test_f_is_checked(name):
    make = WITH_F[name]
    with pytest.raises(ValueError, match=f"{name}: f must be at least 0, got -1"):
        make(-1)
    for wrong in (1.0, True, None):
        with pytest.raises(TypeError, match=f"{name}: f must be an integer"):
            make(wrong)
    with pytest.raises(
        ValueError, match=f"{name}: f must be at most .* for a cohort of 4 slots, got 2"
    ):
        jax.eval_shape(
            lambda x: aggregators.aggregate(jax.random.key(0), make(2), x), jnp.ones((4, 3))
        )


def test_too_many_subsets_are_refused_with_a_remedy():
    x = jax.ShapeDtypeStruct((40, 3), jnp.float32)
    for name in ("mda", "smea"):
        with pytest.raises(ValueError, match=r"658008 subsets.*nearest_neighbour_mixing"):
            jax.eval_shape(
                lambda x, name=name: aggregators.aggregate(
                    jax.random.key(0), getattr(aggregators, name)(5), x
                ),
                x,
            )


def test_a_mixer_needs_messages_that_it_can_read():
    for make in (
        lambda inner: aggregators.nearest_neighbour_mixing(inner, 1),
        lambda inner: aggregators.bucketing(inner, 2),
        lambda inner: aggregators.adaptive_clipping(inner, 1),
    ):
        with pytest.raises(ValueError, match="must not have an encode"):
            make(aggregators.majority_vote())
        with pytest.raises(TypeError, match=r"needs a fjx.Aggregator"):
            make(None)


@pytest.mark.ci
def test_a_plan_refuses_a_robust_rule():
    for rule in (
        lambda mechanism, denominator: aggregators.median(),
        lambda mechanism, denominator: aggregators.bucketing(
            aggregators.private(mechanism, denominator), 2
        ),
    ):
        with pytest.raises(ValueError, match=r"claim is for one release.*norm_bounding"):
            fjx.plan(
                num_clients=100,
                rounds=10,
                cohort_size=10,
                delta=1e-5,
                clip_norm=1.0,
                noise_multiplier=1.0,
                aggregator=rule,
            )


def test_a_secure_sum_refuses_a_robust_rule_and_says_what_is_possible():
    algorithm = fjx.algorithms.fedavg(
        lambda w, x, key: jnp.mean((w - x) ** 2),
        client_lr=0.5,
        batch_size=1,
        aggregator=aggregators.median(),
    )
    dataset = fjx.data.from_clients([jnp.array([x]) for x in (1.0, 2.0, 6.0)])
    with pytest.raises(ValueError, match="norm_bounding"):
        secure.run(
            jax.random.key(0),
            algorithm,
            jnp.array(0.0),
            dataset,
            sampler=fjx.samplers.full(),
            rounds=1,
            protocol=secure.secagg_plus(),
        )


@pytest.mark.ci
def test_norm_bounding_sums_and_keeps_a_claim():
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    bounded = aggregators.norm_bounding(aggregators.private(mechanism, denominator=4), 0.5)
    assert bounded.combine is fjx.SUM
    assert bounded.mechanisms == (mechanism,)
    coded = aggregators.norm_bounding(aggregators.integer_mean(0.01, bits=16, clients=3), 1.0)
    x = jnp.array([[3.0, 4.0], [0.3, 0.4], [-6.0, -8.0]])
    found = aggregators.aggregate(jax.random.key(0), coded, x)[0]
    np.testing.assert_allclose(found, [0.1, 0.4 / 3], atol=0.01)


# ---- distances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, kernel.COLUMNS, 2 * kernel.COLUMNS + 5])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_are_exact_among_near_messages_whatever_is_far(size, offset):
    """Messages far from zero with a small spread, beside outliers of 1e12."""
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(SLOTS, size)) + offset).astype(np.float32)
    x[5:] = rng.normal(size=(2, size)).astype(np.float32) * 1e12
    x[1] = x[0]
    found = jax.jit(lambda x: kernel.products(Stack({"x": x}, jnp.ones(SLOTS, bool))).squares)(x)
    exact = oracle.squares(x.astype(np.float64)) if size < 10 else _squares(x)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * exact[0, 2])


def _squares(x):
    x = x.astype(np.float64)
    return np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
