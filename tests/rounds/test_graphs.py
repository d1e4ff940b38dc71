"""Graphs as mixing matrices: their spectral gaps against closed forms."""

import numpy as np
import pytest

from fjx import rounds


def cosine(n):
    return np.cos(2 * np.pi / n)


@pytest.mark.parametrize("n", [4, 5, 8, 17, 64])
def test_a_ring(n):
    assert rounds.spectral_gap(rounds.ring(n)) == pytest.approx(2 / 3 * (1 - cosine(n)), rel=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (4, 9), (10, 5)])
def test_a_torus(rows, columns):
    gap = rounds.spectral_gap(rounds.torus(rows, columns))
    assert gap == pytest.approx(2 / 5 * (1 - cosine(max(rows, columns))), rel=1e-9)


@pytest.mark.parametrize("n", [5, 8, 16, 33, 128])
def test_an_exponential_graph(n):
    """Eigenvalues of a circulant are the Fourier transform of its first row."""
    offsets = {s * 2**k % n for k in range(n) if 2**k < n for s in (1, -1)}
    k = np.arange(1, n)
    values = (1 + sum(np.cos(2 * np.pi * k * o / n) for o in offsets)) / (1 + len(offsets))
    gap = rounds.spectral_gap(rounds.exponential(n))
    assert gap == pytest.approx(1 - np.abs(values).max(), rel=1e-9)
    assert gap > 1 / (1 + 2 * np.log2(n))


@pytest.mark.parametrize("n", [2, 4, 16])
def test_one_peer_at_a_time_makes_the_exact_mean_in_a_period(n):
    period = rounds.one_peer_exponential(n)
    assert len(period) == np.log2(n)
    assert ((period > 0).sum(2) == 2).all()
    np.testing.assert_allclose(np.linalg.multi_dot([*period, np.eye(n)]), 1 / n, atol=1e-15)
    assert rounds.spectral_gap(period) > 0.9 ** (1 / len(period))


def test_a_complete_graph_and_none():
    assert rounds.spectral_gap(np.full((7, 7), 1 / 7)) == pytest.approx(1)
    assert rounds.spectral_gap(np.eye(7)) == pytest.approx(0)
    assert rounds.spectral_gap(rounds.metropolis(1 - np.eye(4))) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_graphs(n):
    for w in (rounds.ring(n), rounds.exponential(n), rounds.torus(1, n)):
        np.testing.assert_allclose(w, np.full((n, n), 1 / n))


@pytest.mark.parametrize("seed", range(1, 6))
def test_metropolis_weights_of_random_graphs(seed):
    w = rounds.random_graph(9, probability=0.5, seed=seed)
    edges = (w > 0) & ~np.eye(9, dtype=bool)
    degree = edges.sum(1)
    i, j = np.nonzero(edges)
    np.testing.assert_allclose(w[i, j], 1 / (1 + np.maximum(degree[i], degree[j])))
    np.testing.assert_allclose(w.sum(1), 1)
    np.testing.assert_array_equal(w, w.T)
    assert 0 < rounds.spectral_gap(w) < 1


def test_a_random_graph_is_that_of_its_seed():
    first, second, other = (rounds.random_graph(9, probability=0.5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_arguments():
    with pytest.raises(ValueError, match=r"random_graph: the graph is not connected"):
        rounds.random_graph(9, probability=0.0, seed=0)
    with pytest.raises(ValueError, match="power of two, got 6"):
        rounds.one_peer_exponential(6)
    with pytest.raises(ValueError, match="square"):
        rounds.metropolis(np.ones((2, 3)))
    with pytest.raises(ValueError, match="both directions"):
        rounds.metropolis(np.array([[0, 1], [0, 0]]))
    with pytest.raises(ValueError, match="nodes"):
        rounds.ring(0)
    with pytest.raises(ValueError, match="probability"):
        rounds.random_graph(9, probability=1.5, seed=0)
