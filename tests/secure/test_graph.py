"""The graph of SecAgg+ against the table of its production code, and its shape."""

import collections
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import secure
from fjx.secure._graph import circle, harary, neighbours

SIZES = (10, 100, 1000, 10**6)

# google-parfait/federated-compute, fcp/secagg/server/graph_parameter_finder_test.cc
TABLE = {
    (0.33, 0.33, "semi-honest"): [(8, 4), (68, 34), (286, 150), (518, 270)],
    (0.05, 0.33, "semi-honest"): [(4, 2), (28, 6), (72, 24), (102, 34)],
    (0.05, 0.05, "semi-honest"): [(2, 2), (12, 6), (30, 17), (38, 22)],
    (0.05, 0.05, "semi-malicious"): [(2, 2), (16, 11), (52, 37), (74, 52)],
    (0.33, 0.05, "semi-malicious"): [(4, 4), (42, 37), (132, 109), (212, 173)],
    (0.33, 0.0, "semi-honest"): [(4, 4), (26, 25), (38, 36), (50, 47)],
    (0.0, 0.0, "semi-honest"): [(2, 2)] * 4,
}


@pytest.mark.few(4)
@pytest.mark.parametrize(("rates", "row"), [*TABLE.items()])
def test_degree_and_threshold_are_those_of_production(rates, row):
    adversary, dropout, model = rates
    found = [
        secure.graph_parameters(n, adversary_rate=adversary, dropout_rate=dropout, model=model)
        for n in SIZES
    ]
    assert found == row


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((10, 0.5, 0.41, "semi-honest"), "too few honest"),
        ((1000, 0.33, 0.33, "semi-malicious"), "too few honest"),
        ((10, 0.1, 0.41, "semi-malicious"), "too few honest"),
        ((0, 0.1, 0.1, "semi-honest"), "clients"),
        ((10, 1.0, 0.0, "semi-honest"), "adversary_rate"),
        ((10, 0.0, -0.1, "semi-honest"), "dropout_rate"),
        ((10, 0.0, 0.1, "honest"), "model"),
    ],
)
def test_what_cannot_be_promised_is_refused(arguments, match):
    n, adversary, dropout, model = arguments
    with pytest.raises(ValueError, match=match):
        secure.graph_parameters(n, adversary_rate=adversary, dropout_rate=dropout, model=model)


@pytest.mark.parametrize("n", [2, 3, 4, 9, 10])
@pytest.mark.parametrize("degree", [2, 4, 20])
def test_the_graph_is_regular_symmetric_and_connected(n, degree):
    near = harary((*range(1, n), 0), degree)
    assert {len(neighbours) for neighbours in near} == {min(degree, n - 1)}
    assert all(i in near[j] and i != j for i in range(n) for j in near[i])
    reached, new = {0}, {0}
    while new:
        new = {j for i in new for j in near[i]} - reached
        reached |= new
    assert reached == set(range(n))


def test_circles_are_uniform_and_new_for_every_round():
    """6,000 orders of 3: chi-square with 5 degrees of freedom, bound 5 + 6 sqrt(10)."""
    counts = collections.Counter(circle(b"i" * 16, round, 3) for round in range(6000))
    assert len(counts) == 6
    assert sum((c - 1000) ** 2 / 1000 for c in counts.values()) < 5 + 6 * 10**0.5
    assert circle(b"i" * 16, 0, 20) != circle(b"j" * 16, 0, 20)


def test_the_traced_graph_is_that_of_the_parties():
    """Also with slots of nobody between the clients, and degrees of all and more."""
    slots = 11
    traced = jax.jit(neighbours)
    for seed in range(12):
        random = np.random.default_rng(seed)
        invited = random.random(slots) < (1.0 if seed < 3 else 0.6)
        clients, degree, id = (
            np.flatnonzero(invited),
            2 * int(random.integers(1, 6)),
            os.urandom(16),
        )
        near = harary(circle(id, seed, len(clients)), degree)
        expected = np.zeros((slots, slots), bool)
        for i, others in enumerate(near):
            expected[clients[i], clients[[*others, i]]] = True
        words = jnp.asarray(np.frombuffer(id, "<u4"))
        found = traced(words, jnp.int32(seed), jnp.asarray(invited), jnp.int32(degree))
        assert np.array_equal(found, expected)
