"""What must not grow: sampling and table access with the population, rounds with their overhead.

python -m benchmarks.scale
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import fjx
from benchmarks import records
from benchmarks.records import Write
from fjx import clients, data, samplers, simulation

COHORT, WIDTH, POPULATIONS = 100, 8, (10_000, 10_000_000)
DRAWS = 200
ROUNDS, SEEDS = 20_000, 64


def best(run: Callable[[], Any], repetitions: int) -> float:
    """The fewest seconds of some runs, after one that compiles."""
    run()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def sampling(write: Write, repetitions: int) -> None:
    """Microseconds to draw a cohort of about 100, by sampler and population."""
    for population in POPULATIONS:
        for name, sampler in {
            "uniform": samplers.uniform(COHORT),
            "poisson": samplers.poisson(COHORT / population),
        }.items():

            @jax.jit
            def draw(key: jax.Array, sampler=sampler, population=population) -> jax.Array:
                def step(total: jax.Array, round: jax.Array) -> tuple[jax.Array, None]:
                    return total ^ sampler.sample(key, round, population).ids, None

                start = jnp.zeros(sampler.capacity(population), jnp.int32)
                return jax.lax.scan(step, start, jnp.arange(DRAWS))[0]

            seconds = best(lambda draw=draw: draw(jax.random.key(0)), repetitions)
            write(
                kind="sampling",
                sampler=name,
                population=population,
                microseconds=1e6 * seconds / DRAWS,
            )


def tables(write: Write, repetitions: int) -> None:
    """Microseconds to gather 100 rows, change them and scatter them back, by population."""
    for population in POPULATIONS:

        def visit(key: jax.Array, table: jax.Array, population=population) -> jax.Array:
            def step(table: jax.Array, round: jax.Array) -> tuple[jax.Array, None]:
                ids = jax.random.randint(jax.random.fold_in(key, round), (COHORT,), 0, population)
                rows = simulation.gather(table, ids)
                return simulation.scatter(table, ids, rows + 1), None

            return jax.lax.scan(step, table, jnp.arange(DRAWS))[0]

        # In place, as simulate has it; else the copy of the table would be all that is timed.
        visit = jax.jit(visit, donate_argnums=1)
        table = simulation.make_table(jnp.zeros(WIDTH), population)

        def run(visit=visit) -> jax.Array:
            nonlocal table
            table = visit(jax.random.key(0), table)
            return table

        seconds = best(run, repetitions)
        write(kind="table", population=population, microseconds=1e6 * seconds / DRAWS)


def quadratics(write: Write, repetitions: int) -> None:
    """Rounds a second of full gradients on 10 quadratics of 20 unknowns, and the cost of 64 runs."""
    problem = data.quadratic_problem(jax.random.key(0), num_clients=10, dim=20)
    algorithm = fjx.compose(
        client=clients.gradient(problem.loss, batch_size=1), server=optax.sgd(0.01)
    )
    program = simulation.program(
        algorithm, problem.dataset, sampler=samplers.full(), evaluate_every=ROUNDS
    )
    keys = jax.random.split(jax.random.key(1), SEEDS)
    # Each from a start of its own, or nothing would depend on the seed.
    starts = jax.random.normal(jax.random.key(2), (SEEDS, 20))

    one = best(lambda: program.run(keys[0], program.init(starts[0]), ROUNDS)[0].params, repetitions)
    write(kind="quadratics", seeds=1, seconds=one, rounds_per_second=ROUNDS / one)

    few = ROUNDS // 10
    program = simulation.program(
        algorithm, problem.dataset, sampler=samplers.full(), evaluate_every=few
    )
    for seeds in (1, SEEDS):
        run = jax.jit(
            jax.vmap(lambda key, start: program.run(key, program.init(start), few)[0].params)
        )
        seconds = best(lambda run=run, n=seeds: run(keys[:n], starts[:n]), repetitions)
        write(kind="seeds", seeds=seeds, seconds=seconds, rounds_per_second=few / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    records.add_out(parser)
    options = parser.parse_args()
    write = records.writer(options.out)
    for measure in (sampling, tables, quadratics):
        measure(write, options.repetitions)


if __name__ == "__main__":
    main()
