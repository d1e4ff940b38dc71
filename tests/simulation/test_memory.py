"""What a round needs of memory is known before it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, data, samplers, simulation
from fjx.simulation import _memory

WIDTH = 5000
DATASET = data.from_clients([np.ones((2, 3), np.float32)] * 40)
PARAMS = jnp.zeros((3, WIDTH))
MODEL = 4 * PARAMS.size  # bytes
ALGORITHM = fjx.compose(
    client=clients.local_sgd(
        lambda w, x, key: jnp.mean((x @ w) ** 2), optax.sgd(0.1), epochs=1, batch_size=1
    )
)


def need(executor, clients=40):
    return simulation.memory(
        ALGORITHM, PARAMS, DATASET, sampler=samplers.uniform(clients), executor=executor
    )


@pytest.mark.slow
def test_a_chunk_needs_a_few_models_a_client_whatever_the_cohort():
    two, four, eight = (need(simulation.chunked(k)).temporaries for k in (2, 4, 8))
    each = (four - two) / 2
    assert MODEL <= each <= 8 * MODEL
    assert (eight - four) / 4 == pytest.approx(each, rel=0.1)
    assert need(simulation.chunked(4), 8).temporaries == pytest.approx(four, rel=0.02)
    assert need(simulation.vectorized()).temporaries >= 40 * MODEL


@pytest.mark.slow
def test_the_widest_chunk_fills_the_budget_and_not_more():
    def widest(budget):
        return simulation.widest_chunk(
            ALGORITHM, PARAMS, DATASET, sampler=samplers.uniform(40), budget=budget
        )

    budget = need(simulation.chunked(10)).total
    k = widest(budget)
    assert need(simulation.chunked(k)).total <= budget < need(simulation.chunked(k + 2)).total
    assert widest(2**40) == 40
    with pytest.raises(MemoryError, match=r"one client at a time needs .* kB, more than 999 B"):
        widest(1000 - 1)


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused_and_not_killed():
    population = 10**5
    dataset = data.from_packed(np.ones((population, 3), np.float32), np.ones(population, np.int32))
    params = jnp.zeros((3, 10**6))
    with pytest.raises(MemoryError, match=r"block of rounds needs .* GB .*chunked\(k\)"):
        fjx.simulate(
            jax.random.key(0),
            ALGORITHM,
            params,
            dataset,
            sampler=samplers.full(),
            rounds=1,
            executor=simulation.vectorized(),
        )


def test_a_container_leaves_its_limit_but_for_what_is_used_and_not_cache(tmp_path):
    for name, text in {
        "max": "1000",
        "current": "700",
        "stat": "anon 1\ninactive_file 50\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert _memory._container(tmp_path) == 1000 - 700 + 50
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory._container(tmp_path) is None
    assert _memory._container(tmp_path / "nowhere") is None
