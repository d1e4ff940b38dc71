"""The steps that ``fjx.theory`` proves: whether closed forms solve what the proofs ask of them."""

import inspect
import itertools

import jax
import numpy as np
import pytest

from fjx import algorithms, data, theory

PROBLEM = data.quadratic_problem(jax.random.key(0))
A, B = (np.asarray(PROBLEM.dataset.arrays[name], np.float64) for name in ("A", "b"))
N, D = B.shape
CONVEX = {"L": PROBLEM.L, "L_max": PROBLEM.L_max, "mu": PROBLEM.mu}
PL = {"L": PROBLEM.L, "L_tilde": PROBLEM.L_tilde, "mu": PROBLEM.mu}


def square(x):
    return np.square(x).sum(-1)


def corrected(eps):
    """How S shrinks, and the weight K, from the two inequalities for S^+ and G."""
    nu = 1 - eps + eps / 6
    shrinks, grows = 1 - nu * (1 + eps / 2), 1 + eps / 6 + nu * (1 + 2 / eps)
    return shrinks, 4 + 8 * grows / shrinks


def local_errors(eta, omega, n, steps, L_max):
    """The q and v of FedCOM."""
    u = eta * L_max * (steps - 1) / 2
    return (eta * L_max) ** 2 * (steps - 1) * (2 * steps - 1) / 6, u * (1 + u) + omega / n


def test_gradient_steps_do_not_enlarge_gradients_nor_leave_their_neighbourhood():
    """The three inequalities of local steps, of the quadratics, up to eta = 2 / L_max."""
    rng = np.random.default_rng(0)
    for eta, steps in itertools.product(np.array([0.05, 0.5, 2.0]) / PROBLEM.L_max, (2, 5, 20)):
        x = PROBLEM.optimum + rng.standard_normal((100, D))
        y, mean = np.repeat(x[:, None], N, 1), 0.0
        first = np.einsum("nij,cnj->cni", A, y) - B
        for _ in range(steps):
            at_y = np.einsum("nij,cnj->cni", A, y) - B
            y, mean = y - eta * at_y, mean + at_y / steps
        q, _ = local_errors(eta, 0.0, N, steps, PROBLEM.L_max)
        u = eta * PROBLEM.L_max * (steps - 1) / 2
        assert (square(mean) <= square(first) * (1 + 1e-9)).all()
        assert (square(mean - first) <= u**2 * square(first)).all()
        away = x - PROBLEM.optimum
        gap = np.einsum("ci,ij,cj->c", away, A.mean(0), away) / 2
        inner = np.einsum("cni,ci->c", mean, away) / N
        assert (inner >= gap - q / (2 * PROBLEM.L_max) * square(first).mean(-1)).all()


GRID = tuple(itertools.product((0.1, 0.7, 1.0), (1e-3, 0.3, 1.0)))  # of L / L_max and mu / L


@pytest.mark.parametrize("name", ["ef14", "double_squeeze"])
def test_the_step_is_as_small_as_the_proof_of_error_feedback_asks(name):
    """In it gamma mu <= theta holds by itself, and 4 L gamma <= 1."""
    for (L, mu), delta in itertools.product(GRID, (1e-6, 0.01, 0.5, 0.97, 0.999999, 1.0)):
        gamma = getattr(theory, name)(L=L, L_max=1.0, mu=mu * L, delta=delta).step_size
        assert gamma * mu * L <= 1 - np.sqrt(1 - delta)
        assert 4 * L * gamma <= 1 + 1e-12


def test_the_closed_form_of_the_local_step_solves_what_the_proof_asks():
    """2 (1 + u) gamma L + K (q + gamma v L_max) <= 1, and u (1 + u) <= eps / 6 or u <= 1 / 4."""
    grid = itertools.product(GRID, (0.0, 0.5, 0.99), (1, 1000), (1, 2, 50), (0.3, 1.0, 30.0))
    for (L, mu), omega, n, steps, s in grid:
        told = {"L": L, "L_max": 1.0, "mu": mu * L, "omega": omega, "n": n, "steps": steps}
        for name, k in (("fedcom", 4.0), ("fedcomgate", corrected(1 - omega)[1])):
            eta = getattr(theory, name)(**told, server_lr=s).step_size
            q, v = local_errors(eta, omega, n, steps, 1.0)
            u, gamma = eta * (steps - 1) / 2, eta * steps * max(s, 1)
            asked = 2 * (1 + u) * gamma * L + k * (q + gamma * v)
            assert asked <= 1 + 1e-12
            assert asked > 0.4
            assert u * (1 + u) <= ((1 - omega) / 6 if name == "fedcomgate" else 0.3)


def test_the_step_of_mcm_is_the_largest_of_its_proof():
    for (L, mu), omega, n in itertools.product(GRID, (0.0, 1.0, 100.0), (1, 50)):
        bound = theory.mcm(L=L, L_max=1.0, mu=mu * L, omega=omega, n=n)
        k, smooth = 16 * L * omega * (1 + omega) ** 2, L + 6 * omega / n
        gamma = bound.step_size
        assert np.isclose(gamma * (1 + gamma * k) * smooth, 1)


TOLD = {
    "ef14": (CONVEX, {"delta": 0.2}),
    "double_squeeze": (CONVEX, {"delta": 0.2}),
    "ef21_sgdm": (PL | {"eta": 0.3}, {"delta": 0.2}),
    "mcm": (CONVEX | {"n": 10}, {"omega": 4.0}),
    "fedcom": (CONVEX | {"n": 10, "steps": 5, "server_lr": 3.0}, {"omega": 4.0}),
    "fedpaq": (CONVEX | {"n": 10, "steps": 5}, {"omega": 4.0}),
    "fedcomgate": (CONVEX | {"n": 10, "steps": 5, "server_lr": 3.0}, {"omega": 0.5}),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_better_codec_never_has_a_smaller_step_nor_a_worse_rate(name):
    told, codec = TOLD[name]
    theorem, ((kind, value),) = getattr(theory, name), codec.items()
    values = np.linspace(0, value, 9)[::-1] if kind == "omega" else np.linspace(value, 1, 9)
    bounds = [theorem(**told, **{kind: float(v)}) for v in values]
    assert hasattr(algorithms, name)
    assert all(0 < b.rate < 1 for b in bounds)
    assert all(a.step_size <= b.step_size for a, b in itertools.pairwise(bounds))
    assert bounds[0].step_size < bounds[-1].step_size
    assert all(a.rate >= b.rate for a, b in itertools.pairwise(bounds))
    wrong = -0.1 if kind == "omega" else 0.0
    with pytest.raises(ValueError, match=kind):
        theorem(**told, **{kind: wrong})


def test_an_exact_codec_leaves_gradient_descent_to_a_constant():
    """1 / L, a half or a quarter of it; and averages of one gradient are those of EF21 to a factor."""
    L = PROBLEM.L
    for name, share in (("ef14", 4), ("double_squeeze", 4)):
        exact = getattr(theory, name)(**CONVEX, delta=1.0)
        assert np.isclose(exact.step_size * L * share, 1)
        assert exact.noise == 0
    assert np.isclose(theory.ef21_sgdm(**PL | {"mu": 0.1}, delta=1.0, eta=1.0).step_size * L, 1)
    assert np.isclose(theory.mcm(**CONVEX, omega=0.0, n=N).step_size * L, 1)
    for name in ("fedcom", "fedpaq", "fedcomgate"):
        exact = getattr(theory, name)(**CONVEX, omega=0.0, n=N, steps=1)
        assert np.isclose(exact.step_size * 2 * L, 1)
        assert exact.noise == 0
    for delta in (0.01, 0.5):
        one, other = (
            theory.ef21(**PL, delta=delta).step_size,
            theory.ef21_sgdm(**PL, delta=delta, eta=1.0).step_size,
        )
        assert one / 2 <= other <= one
    with pytest.raises(ValueError, match="omega"):
        theory.fedcomgate(**CONVEX, omega=1.0, n=N, steps=1)


IDEAL = {"L": 1.0, "L_max": 1.0, "L_tilde": 1.0, "L_hat": 1.0, "mu": 1e-30, "omega": 1.0, "n": 4}
OTHERS = {
    "delta": 0.5, "server_delta": 0.5, "server_omega": 1.0, "eta": 0.5, "zeta": 1.0, "p": 0.5,
    "participants": 2, "steps": 3, "owners": 2,
}  # fmt: skip
RANGES = {
    "delta": (1e-60, 0.5), "server_delta": (1e-60, 0.5), "omega": (1e-60, 1e60),
    "server_omega": (1e-60, 1e60), "eta": (1e-30, 0.5), "zeta": (1e-60, 1e60), "p": (1e-60, 0.5),
    "mu": (1e-60, 0.5),
}  # fmt: skip
OTHERS_THAN_STEPS = {"Theory", "choco_gossip"}
THEOREMS = sorted(
    name for name in set(theory.__all__) - OTHERS_THAN_STEPS if not name.startswith("kappa_")
)


def constants_of(name):
    """Constants of a theorem, in the middle of their ranges."""
    wanted = inspect.signature(getattr(theory, name)).parameters
    found = {key: value for key, value in (IDEAL | OTHERS).items() if key in wanted}
    return found | ({"omega": 0.5} if name == "fedcomgate" else {})


@pytest.mark.parametrize("name", THEOREMS)
def test_a_small_change_of_a_constant_is_a_small_change_of_the_step(name):
    """No formula cancels: the elasticity of a step size is at most 5 over the whole range."""
    found = constants_of(name)
    for key in RANGES.keys() & found.keys():
        least, most = RANGES[key]
        if (name, key) == ("fedcomgate", "omega"):
            most = 0.2  # the step vanishes at one
        for value in np.geomspace(least, most / 1.01, 200):
            told = [{**found, key: float(value) * by} for by in (1.0, 1.001)]
            one, other = (getattr(theory, name)(**t).step_size for t in told)
            assert abs(np.log(other / one)) <= 5e-3, f"{key} = {value}"


@pytest.mark.parametrize("name", THEOREMS)
def test_codecs_that_lose_nothing_are_within_the_range(name):
    exact = {"delta": 1.0, "server_delta": 1.0, "omega": 0.0, "server_omega": 0.0}
    found = constants_of(name)
    assert getattr(theory, name)(**found | {k: exact[k] for k in exact if k in found}).step_size > 0


def test_the_step_of_ef21_for_a_tiny_delta():
    """Theta = delta / 2 and gamma = theta / sqrt(2), to first order."""
    for delta in (1e-9, 1e-15, 1e-17, 1e-100):
        gamma = theory.ef21(L=1.0, L_tilde=1.0, mu=1e-200, delta=delta).step_size
        assert gamma == pytest.approx(delta / 2 / np.sqrt(2), rel=1e-7)


def test_ef_bv_of_a_codec_that_loses_nothing_is_gradient_descent():
    told = {"L": 2.0, "L_tilde": 3.0, "mu": 0.1, "n": 5}
    assert theory.ef_bv(**told, omega=0.0) == (0.5, 0.95, 1.0, 0.0)
    assert theory.ef_bv(**told, omega=1e-12).step_size == pytest.approx(0.5, rel=1e-5)


def test_constants_that_no_problem_has_are_refused():
    """A mean is as smooth as its terms: L <= L_max, and L <= L_tilde, L_hat by Jensen's inequality."""
    for name in THEOREMS:
        found = constants_of(name)
        for large in {"L_max", "L_tilde", "L_hat"} & found.keys():
            if "L" in found:
                with pytest.raises(ValueError, match=f"L must be at most {large}"):
                    getattr(theory, name)(**found | {large: 0.5})
    with pytest.raises(ValueError, match="beyond the range of float64"):
        theory.double_squeeze(L=1.0, L_max=1.0, mu=0.1, delta=1e-200)
