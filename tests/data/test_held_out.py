"""Held-out splits: nothing is lost, nothing is in both parts."""

import jax
import numpy as np
import pytest

from fjx import data


def dataset():
    return data.from_clients(
        [np.arange(10 * i, 10 * i + n, dtype=np.float32) for i, n in enumerate((10, 1, 2, 0, 5))],
        test=np.zeros(3),
    )


def test_examples_are_held_out_client_by_client():
    whole = dataset()
    train, held_out = data.split_examples(jax.random.key(0), whole, held_out=0.3)
    assert held_out.sizes.tolist() == [3, 0, 1, 0, 2]
    for i in range(whole.num_clients):
        mine = sorted(train.client(i).tolist() + held_out.client(i).tolist())
        assert mine == whole.client(i).tolist()
    assert train.weights.tolist() == train.sizes.tolist()


@pytest.mark.parametrize(("fraction", "kept"), [(0.01, 9), (0.99, 1)])
def test_a_client_with_two_examples_keeps_one_on_each_side(fraction, kept):
    train, held_out = data.split_examples(jax.random.key(0), dataset(), held_out=fraction)
    assert train.sizes.tolist()[0] == kept
    assert train.sizes.tolist()[2] == held_out.sizes.tolist()[2] == 1


def test_clients_are_held_out_whole():
    whole = dataset().with_weights(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    train, held_out = data.split_clients(jax.random.key(1), whole, held_out=0.4)
    assert (train.num_clients, held_out.num_clients) == (3, 2)
    assert sorted(train.weights.tolist() + held_out.weights.tolist()) == [1, 2, 3, 4, 5]
    rows = train.arrays.tolist() + held_out.arrays.tolist()
    assert sorted(rows) == sorted(whole.arrays.tolist())


def test_take_clients_renumbers_and_keeps_weights():
    chosen = data.take_clients(dataset().with_weights(np.arange(5.0)), [4, 0])
    assert chosen.weights.tolist() == [4.0, 0.0]
    assert chosen.client(0).tolist() == [40.0, 41.0, 42.0, 43.0, 44.0]
    assert chosen.test.shape == (3,)


def test_refusals():
    one = data.from_clients([np.ones(3)])
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="integer indices, got bool"):
        data.take_clients(dataset(), [True, False])
    for call, words in (
        (lambda: data.split_examples(key, one, held_out=0.0), "held_out must be greater than 0"),
        (lambda: data.split_clients(key, one, held_out=0.5), "at least two clients"),
        (lambda: data.take_clients(one, [1]), "distinct and in"),
        (lambda: data.take_clients(dataset(), [1, 1]), "distinct and in"),
        (lambda: data.take_clients(one, []), "at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
