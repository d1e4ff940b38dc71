"""Attacks against the values of the papers and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import attacks

X = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
KEY = jax.random.key(0)


def lies(options, honest, f=1):
    """What each of some attacks sends, by name, in one program."""

    @jax.jit
    def run(honest):
        view = attacks.View.of(honest, f)
        return {name: attack(jax.random.clone(KEY), view) for name, attack in options.items()}

    return {name: np.asarray(lie) for name, lie in run(honest).items()}


def test_values():
    """ByzFL 0.0.11 on X, and searches among a few scales."""
    mean, deviation = X.mean(0), X.std(0, ddof=1)
    expected = {
        "sign_flip": (attacks.sign_flip(), -mean),
        "ipm": (attacks.ipm(2.0), -2 * mean),
        "alie": (attacks.alie(1.5), np.array([8.5, 9.5, 10.5])),
        "foe": (attacks.foe([0.5, 3.0, 1.0]), -3 * mean),
        "searched": (attacks.line_search(attacks.alie, [-1.0, 2.0]), mean + 2 * deviation),
    }
    found = lies({name: attack for name, (attack, _) in expected.items()}, X)
    for name, (_, value) in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_alie_hides_as_the_paper_says():
    """N = 50, f = 24 (the paper's example): s = 2 supporters of 26, z = Phi^-1(24 / 26) = 1.43."""
    honest = np.random.default_rng(0).normal(size=(26, 4)).astype(np.float32)
    lie = lies({"alie": attacks.alie()}, honest, 24)["alie"]
    z = (lie - honest.mean(0)) / honest.std(0, ddof=1)
    np.testing.assert_allclose(z, 1.4261, atol=1e-3)


def hidden(honest, direction):
    """The distances that min-max and min-sum allow, and the direction, in float64."""
    x = honest.astype(np.float64)
    mean = x.mean(0)
    p = {
        "deviation": -x.std(0, ddof=1),
        "mean": -mean / np.linalg.norm(mean),
        "sign": -np.sign(mean),
    }[direction]
    squares = np.square(x[:, None] - x[None]).sum(-1)
    return x, mean, p, squares.max(), squares.sum(1).max()


def test_hidden_attacks_go_as_far_as_they_may():
    """The step is feasible, along p, and a step of 1.001 times it is not."""
    honest = np.random.default_rng(1).normal(1.0, 2.0, size=(7, 5)).astype(np.float32)
    directions = ("deviation", "mean", "sign")
    options = {
        (make.__name__, direction): make(direction)
        for make in (attacks.min_max, attacks.min_sum)
        for direction in directions
    }
    for (name, direction), lie in lies(options, honest).items():
        x, mean, p, farthest, summed = hidden(honest, direction)
        bound, whole = (farthest, np.max) if name == "min_max" else (summed, np.sum)
        step = lie - mean
        gamma = step @ p / (p @ p)
        np.testing.assert_allclose(step, gamma * p, atol=1e-4)
        assert gamma > 0.1
        for factor, allowed in ((0.999, True), (1.001, False)):
            reached = whole(np.square(mean + factor * gamma * p - x).sum(-1))
            assert (reached <= bound) == allowed


def test_mimic_copies_an_honest_message_on_the_top_direction():
    honest = np.random.default_rng(2).normal(size=(9, 40)).astype(np.float32)
    honest[4] += 30  # far out
    found = lies({"mimic": attacks.mimic()}, honest, 3)["mimic"]
    np.testing.assert_array_equal(found, honest[4])


def test_every_attack_of_nobody_and_of_one():
    """With no honest message there is nothing to know: NaN, which is left out.  With one there is no
    deviation: it is copied, or reversed.
    """
    options = {
        "sign_flip": attacks.sign_flip(),
        "alie": attacks.alie(),
        "min_max": attacks.min_max(),
        "min_sum": attacks.min_sum(),
        "mimic": attacks.mimic(),
    }
    one = np.array([[3.0, -4.0]], np.float32)
    nothing, alone = lies(options, one[:0], 2), lies(options, one)
    for name in options:
        assert np.isnan(nothing[name]).all()
        np.testing.assert_allclose(alone[name], -one[0] if name == "sign_flip" else one[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attacks.ids([0, 10], num_clients=10), r"distinct and in \[0, 10\)"),
        (lambda: attacks.ids([-1], num_clients=10), r"distinct and in \[0, 10\)"),
        (lambda: attacks.ids([2, 2], num_clients=10), "distinct"),
        (lambda: attacks.first(11, num_clients=10), "f must be at least 0 and at most 10"),
        (lambda: attacks.at_random(KEY, 11, num_clients=10), "f must be"),
        (lambda: attacks.ipm(float("nan")), "epsilon must be finite"),
        (lambda: attacks.min_max("up"), "direction must be one of"),
        (lambda: attacks.noise(-1.0), "std must be"),
        (lambda: attacks.foe([]), "at least one number"),
        (lambda: attacks.one_of(0), "at least one attack"),
        (lambda: attacks.partly(2.0, attacks.label_flip(2)), "fraction must be"),
        (lambda: attacks.label_flip(1), "classes must be"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.ci
def test_data_changes():
    batch = {"x": jnp.arange(8.0).reshape(4, 2), "y": jnp.array([0, 9, -1, 4])}
    places = jnp.arange(4)
    flipped = attacks.label_flip(10)(batch, places)
    assert flipped["y"].tolist() == [9, 0, -1, 5]
    np.testing.assert_array_equal(flipped["x"], batch["x"])
    stamped = attacks.backdoor(lambda x: x.at[:, 0].set(99), target=3, fraction=0.5)
    found = stamped(batch, places)
    changed = np.asarray(found["x"])[:, 0] == 99
    np.testing.assert_array_equal(found["y"], np.where(changed, 3, batch["y"]))
    assert changed.tolist() == [True, False, True, False]
    # The fraction is met for any number of examples, to less than two of them.
    for n in (10, 100, 1000):
        for fraction in (0.0, 0.1, 0.5, 1.0):
            some = attacks.partly(fraction, lambda rows, places: rows + 1)
            count = some(jnp.zeros(n), jnp.arange(n)).sum()
            assert abs(float(count) - fraction * n) < 2
    with pytest.raises(ValueError, match=r"batch\['label'\]"):
        attacks.label_flip(10, labels="label")(batch, places)
