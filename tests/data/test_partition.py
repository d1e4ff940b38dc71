"""Partitions: who owns what is exact, and the skew is the one asked for."""

import itertools

import jax
import numpy as np
import pytest

from fjx import data

LABELS = np.random.default_rng(0).integers(0, 10, 1000)

PARTITIONERS = {
    "iid": lambda key, n: data.iid(key, 1000, num_clients=n),
    "dirichlet": lambda key, n: data.dirichlet(key, LABELS, num_clients=n, alpha=0.3),
    "shards": lambda key, n: data.shards(key, LABELS, num_clients=n),
    "lognormal": lambda key, n: data.lognormal_sizes(key, 1000, num_clients=n, sigma=1.0),
}
KEY = jax.random.key(0)
every = pytest.mark.parametrize("name", PARTITIONERS)


@every
@pytest.mark.parametrize("n", [1, 7, 250])
def test_each_example_has_one_owner_and_each_client_an_example(name, n):
    parts = PARTITIONERS[name](jax.random.key(0), n)
    order = np.concatenate(parts)
    assert len(parts) == n
    assert min(map(len, parts)) >= 1
    assert np.unique(order).size == order.size
    left_out = 1000 - order.size
    assert 0 <= left_out < (2 * n if name == "shards" else 1)


@every
def test_the_key_decides(name):
    one, again, other = (PARTITIONERS[name](jax.random.key(seed), 20) for seed in (3, 3, 4))
    assert [part.tolist() for part in one] == [part.tolist() for part in again]
    assert [part.tolist() for part in one] != [part.tolist() for part in other]


def test_iid_is_shuffled_and_even():
    """Contiguous classes: a client's label counts must look drawn without replacement."""
    labels = np.repeat(np.arange(10), 1000)
    parts = data.iid(jax.random.key(0), 10_000, num_clients=10)
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    # Hypergeometric with mean 100 and variance 81: the sum over 100 cells is about chi-square(81).
    chi2 = np.sum((counts - 100) ** 2 / 100)
    assert abs(chi2 - 81) < 6 * np.sqrt(2 * 81)
    assert {len(part) for part in data.iid(jax.random.key(0), 23, num_clients=4)} == {5, 6}


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.3, 100.0])
def test_dirichlet_ends_with_more_clients_than_fit_the_classes(alpha):
    """100 classes on 500 clients, where drawing again until all are large enough never ends."""
    labels = np.arange(10_000) % 100
    parts = data.dirichlet(jax.random.key(0), labels, num_clients=500, alpha=alpha, min_size=10)
    assert min(map(len, parts)) >= 10
    assert sorted(np.concatenate(parts).tolist()) == list(range(10_000))


@pytest.mark.slow
def test_dirichlet_proportions_are_dirichlet():
    """One class: over 400 keys the share of a client has mean 1/K and variance that of Dir(alpha)."""
    alpha, clients, n = 0.5, 4, 5000
    shares = np.array(
        [
            [
                len(part) / n
                for part in data.dirichlet(
                    jax.random.key(seed),
                    np.zeros(n, int),
                    num_clients=clients,
                    alpha=alpha,
                    min_size=0,
                )
            ]
            for seed in range(400)
        ]
    )
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    standard_error = np.sqrt(variance / 400)
    np.testing.assert_allclose(shares.mean(0), 1 / clients, atol=6 * standard_error)
    # The variance of a bounded variable's square is at most 1/4: six standard errors of its mean.
    np.testing.assert_allclose(shares.var(0), variance, atol=6 * np.sqrt(0.25 / 400) / 2)
    assert abs(shares.var(0).mean() / variance - 1) < 0.15


def test_alpha_is_skew():
    dataset = {"y": LABELS.astype(np.int32)}

    def found(alpha):
        parts = data.dirichlet(jax.random.key(0), LABELS, num_clients=10, alpha=alpha)
        split = data.split(dataset, parts)
        return data.statistics(split, split.arrays["y"])

    even, skewed = found(1e4), found(1e-2)
    assert even.label_skew.max() < 0.05
    assert np.median(even.effective_classes) > 9.8
    assert skewed.label_skew.mean() > 0.7
    assert np.median(skewed.effective_classes) < 2.5


@pytest.mark.parametrize("classes", [1, 10, 100])
@pytest.mark.parametrize("clients", [3, 40, 500, 1800])
def test_sizes_grow_more_equal_with_alpha_for_any_number_of_clients(clients, classes):
    """1800 examples: also where a client's share of a class is far below one example."""
    labels = np.arange(1800) % classes

    def sizes(alpha):
        return np.array(
            [
                [len(p) for p in data.dirichlet(key, labels, num_clients=clients, alpha=alpha)]
                for key in jax.random.split(KEY, 3)
            ]
        )

    spreads = [sizes(alpha).std(axis=1).mean() for alpha in (0.1, 1.0, 10.0, 1e3, 1e6, 1e12)]
    # Rounding alone leaves a spread of at most 1/2.
    assert all(b <= max(a, 0.5) for a, b in itertools.pairwise(spreads)), spreads
    assert np.ptp(sizes(np.finfo(float).max), axis=1).max() <= 1


def test_a_client_gets_its_share_of_each_class():
    """Counts of a class are its drawn shares, rounded, although sizes are kept near their sums too."""
    labels = np.arange(3000) % 3
    parts = data.dirichlet(KEY, labels, num_clients=20, alpha=2.0, min_size=0)
    rng, owed = np.random.default_rng(np.asarray(jax.random.key_data(KEY)).astype(np.uint32)), 0
    for label in range(3):
        rng.permutation(1000)
        share = 1000 * rng.dirichlet(np.full(20, 2.0))
        counts = np.array([(labels[part] == label).sum() for part in parts])
        assert np.abs(counts - share).max() < 2
        owed = owed + share - counts
        assert np.abs(owed).max() < 1


def test_extreme_skew_does_not_overflow():
    """Where a sum of gamma draws, or the largest of exp(sigma z), would pass the largest float."""
    even = data.dirichlet(KEY, np.zeros(100, int), num_clients=8, alpha=1e308)
    assert {len(part) for part in even} == {12, 13}
    skewed = data.dirichlet(KEY, LABELS, num_clients=8, alpha=1e-300, min_size=0)
    assert all(len(set(LABELS[part]) & set(LABELS[other])) == 0
               for i, part in enumerate(skewed) for other in skewed[:i])  # fmt: skip
    one_has_all = data.lognormal_sizes(KEY, 100, num_clients=5, sigma=1e6)
    assert sorted(len(part) for part in one_has_all) == [1, 1, 1, 1, 96]


@pytest.mark.parametrize("min_size", [1, 5])
def test_no_client_is_smaller_than_asked(min_size):
    lognormal = data.lognormal_sizes(KEY, 1000, num_clients=200, sigma=4.0, min_size=min_size)
    dirichlet = data.dirichlet(KEY, LABELS, num_clients=200, alpha=1e-3, min_size=min_size)
    assert min(map(len, lognormal)) == min(map(len, dirichlet)) == min_size
    assert sum(map(len, lognormal)) == sum(map(len, dirichlet)) == 1000


def test_shards_hold_few_classes():
    labels = np.repeat(np.arange(10), 600)
    parts = data.shards(jax.random.key(0), labels, num_clients=100, shards_per_client=2)
    assert {len(part) for part in parts} == {60}
    # 200 shards of 30 divide classes of 600 exactly, so a shard has one class.
    assert max(len(set(labels[part])) for part in parts) <= 2


def test_lognormal_sizes_have_the_spread_asked_for():
    parts = data.lognormal_sizes(jax.random.key(0), 10**6, num_clients=400, sigma=0.5)
    spread = np.log([len(part) for part in parts]).std()
    assert abs(spread - 0.5) < 6 * 0.5 / np.sqrt(2 * 400)
    even = data.lognormal_sizes(jax.random.key(0), 100, num_clients=4, sigma=0.0)
    assert [len(part) for part in even] == [25] * 4


def test_by_id_keeps_order():
    parts, names = data.by_id(np.array(["b", "a", "b", "c", "a"]))
    assert names.tolist() == ["a", "b", "c"]
    assert [part.tolist() for part in parts] == [[1, 4], [0, 2], [3]]


@pytest.mark.parametrize("part", [np.array([True, False]), np.array([0.7])], ids=["mask", "floats"])
def test_indices_are_integers(part):
    """A mask or scores in their place would be truncated to some."""
    with pytest.raises(TypeError, match="integer indices"):
        data.split(np.arange(2), [part])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: data.iid(KEY, 3, num_clients=4), "need 4 examples, got 3; lower num_clients$"),
        (lambda: data.iid(KEY, 3, num_clients=0), "num_clients must be at least 1, got 0"),
        (lambda: data.dirichlet(KEY, LABELS, num_clients=5, alpha=0.0), "alpha must be greater"),
        (
            lambda: data.dirichlet(KEY, LABELS, num_clients=5, alpha=1.0, min_size=201),
            "lower num_clients or min_size",
        ),
        (lambda: data.shards(KEY, LABELS, num_clients=501), "need 1002 .* or shards_per_client"),
        (lambda: data.lognormal_sizes(KEY, 9, num_clients=3, sigma=-1.0), "sigma must be at least"),
        (lambda: data.by_id(np.zeros((2, 2))), "ids must be a vector"),
        (lambda: data.split(np.arange(3), []), "at least one client"),
        (lambda: data.split(np.arange(3), [[0], [3]]), r"indices in \[0, 3\)"),
        (lambda: data.split(np.arange(3), [[-1], [0]]), "got -1 to 0"),
        (lambda: data.split(np.float32(3), [[0]]), "one leading axis"),
        (lambda: data.split(np.arange(3), [[0], [0]]), "an index occurs twice"),
        (lambda: data.split({"x": np.arange(3), "y": np.arange(2)}, [[0]]), "one leading axis"),
    ],
)
def test_errors_name_the_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_legacy_keys_are_refused():
    with pytest.raises(TypeError, match="typed key"):
        data.iid(jax.numpy.zeros(2, "uint32"), 3, num_clients=1)
