"""Methods that send now and then: bits in expectation beside what was sent, and curves of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, algorithms, compressors, data, samplers, simulation

PROBLEM = data.quadratic_problem(jax.random.key(0))
N, D, K = 10, 20, 4
WHOLE, SMALL = 32 * D, 32 * K + 64  # which of them is known to all; of rand-k a seed


def simulated(algorithm, rounds, sampler=None):
    return fjx.simulate(
        jax.random.key(3), algorithm, jnp.zeros(D), PROBLEM.dataset,
        sampler=samplers.full() if sampler is None else sampler, rounds=rounds, evaluate_every=100,
        evaluate=lambda x: {"norm": jnp.sum(x**2)}, executor=simulation.vectorized(),
    )  # fmt: skip


def marina(p, differences=None):
    differences = compressors.rand_k(K / D) if differences is None else differences
    return algorithms.marina(PROBLEM.loss, differences, p=p, learning_rate=0.01, batch_size=1)


@pytest.mark.slow
def test_marina_sends_what_it_expects_to_within_standard_errors():
    """400 rounds of which 7 of 10 clients come: one coin a round decides for all of them."""
    p, rounds = 0.2, 400
    ledger = simulated(marina(p), rounds, samplers.uniform(7)).ledger
    wanted = 7 * (WHOLE + (rounds - 1) * (p * WHOLE + (1 - p) * SMALL))
    assert ledger.expected_uplink == pytest.approx(wanted, rel=1e-12)
    error = 7 * (WHOLE - SMALL) * np.sqrt((rounds - 1) * p * (1 - p))
    assert abs(ledger.uplink - ledger.expected_uplink) < 4 * error
    assert ledger.uplink != ledger.expected_uplink
    assert ledger.downlink == rounds * 7 * 2 * 32 * D  # both models, in every round


@pytest.mark.ci
@pytest.mark.parametrize("p", [pytest.param(1e-9, marks=pytest.mark.slow), 1.0])
def test_at_the_ends_expectation_is_what_was_sent(p):
    ledger = simulated(marina(p), 5).ledger
    assert ledger.uplink == 10 * (5 * WHOLE if p == 1 else WHOLE + 4 * SMALL)
    assert ledger.expected_uplink == pytest.approx(ledger.uplink, rel=1e-8)


def test_expectations_are_those_of_the_wire_of_an_aggregator_too():
    expected = marina(0.25, aggregators.perm_k(N)).expected(jnp.zeros(D), 3)
    small = 32 * D // N
    np.testing.assert_allclose(expected, [WHOLE, *[0.25 * WHOLE + 0.75 * small] * 2])


@pytest.mark.slow
def test_what_nobody_foresees_is_not_foretold():
    """Of a lazy client, one that may not be drawn, or a codec whose length depends on its data, there
    is no expectation.
    """
    assert marina(0.5, compressors.rand_p(0.5)).expected(jnp.zeros(D), 3) is None
    some = algorithms.pp_marina(
        PROBLEM.loss, compressors.rand_k(0.5), participants=2, p=0.5, learning_rate=0.01, batch_size=1
    )  # fmt: skip
    assert some.expected(jnp.zeros(D), 3) is None
    lazy = algorithms.clag(
        PROBLEM.loss, compressors.identity(), num_clients=N, learning_rate=0.01, batch_size=1,
        zeta=9.0,
    )  # fmt: skip
    result = simulated(lazy, 100)
    assert result.ledger.expected_uplink is None
    # A byte of everybody in every round, and whole gradients now and then.
    silent = 100 * N * 8
    assert (result.ledger.uplink - silent) % (32 * D) == 0
    assert silent < result.ledger.uplink < silent + 0.9 * 100 * N * 32 * D


@pytest.mark.slow
def test_where_messages_have_one_length_it_is_what_was_sent():
    algorithm = algorithms.fedsgd(PROBLEM.loss, learning_rate=0.01, batch_size=1)
    ledger = simulated(algorithm, 3).ledger
    assert ledger.expected_uplink == ledger.uplink == 3 * N * 32 * D


@pytest.mark.slow
def test_a_curve_is_what_was_evaluated_against_what_was_moved():
    """Also of runs that were vmapped, whose ledgers stay apart."""
    algorithm = marina(0.5)
    program = simulation.program(
        algorithm, PROBLEM.dataset, sampler=samplers.full(), evaluate_every=4,
        evaluate=lambda x: {"norm": jnp.sum(x**2)},
    )  # fmt: skip

    def run(seed):
        return program.run(jax.random.key(seed), program.init(jnp.zeros(D)), 10)[1]

    history = jax.jit(jax.vmap(run))(jnp.arange(3))
    curve = simulation.curve(history, algorithm.traffic(jnp.zeros(D)), "norm")
    sent = 8 * np.asarray(history.rounds["uplink_bytes"], np.int64)
    np.testing.assert_array_equal(curve.bits, np.cumsum(sent, 1)[:, [3, 7, 9]])
    np.testing.assert_array_equal(curve.rounds, [[4, 8, 10]] * 3)
    assert curve.steps is None
    resumed = jax.tree.map(lambda x: x[:, 4:], history.rounds)
    later = simulation.curve(
        history._replace(rounds=resumed, evaluated_at=history.evaluated_at[:, 1:],
                         evaluations={"norm": history.evaluations["norm"][:, 1:]}),
        algorithm.traffic(jnp.zeros(D)), "norm",
    )  # fmt: skip
    np.testing.assert_array_equal(later.bits, np.cumsum(sent[:, 4:], 1)[:, [3, 5]])
    assert len({tuple(row) for row in curve.bits.tolist()}) > 1  # seeds toss coins of their own


def test_a_plot_shows_medians_and_ranges_in_a_panel_for_each_cost():
    pytest.importorskip("matplotlib")
    ten = np.arange(1, 11)
    scores = np.stack([1.0 / ten, 2.0 / ten, 9.0 / ten])
    curves = {
        "three seeds": simulation.Curve(scores, ten, 320 * ten, 5 * ten),
        "no steps": simulation.Curve(1.0 / ten, ten, 32 * ten),
    }
    figure = simulation.plot(curves, score="gap", log=True)
    bits, rounds, _ = figure.axes
    assert [axis.get_xlabel() for axis in figure.axes] == ["bits", "rounds", "steps"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 2, 1]
    np.testing.assert_array_equal(bits.lines[0].get_xdata(), 320 * ten)
    np.testing.assert_allclose(bits.lines[0].get_ydata(), 2.0 / ten)
    outline = rounds.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([outline.min(), outline.max()], [0.1, 9.0])
    assert (bits.get_yscale(), bits.get_ylabel()) == ("log", "gap")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    with pytest.raises(ValueError, match="against"):
        simulation.plot(curves, against=("dollars",))
