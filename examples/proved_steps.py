"""How much larger than the proved step may a step be?

DoubleSqueeze and EF21-BC compress in both directions.  Their theorems hold for every pair of
contractive codecs, so they let the errors of both codecs be as large as possible in every round.
This script runs the two methods with top-k on the quadratics of ten clients, with the proved step
times 1, 2, 4, ....  It prints the largest factor with which the rounds (2,000) lower the loss.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from fjx import algorithms, compressors, data, samplers, simulation, theory

NUM_CLIENTS, DIMENSION = 10, 20
FACTORS = 2.0 ** np.arange(15)
PROBLEM = data.quadratic_problem(jax.random.key(0))


def double_squeeze(top, delta):
    """The proved step, and the method as a function of its step."""
    bound = theory.double_squeeze(L=PROBLEM.L, L_max=PROBLEM.L_max, mu=PROBLEM.mu, delta=delta)
    return bound.step_size, lambda step: algorithms.double_squeeze(
        PROBLEM.loss, top, learning_rate=step, batch_size=1
    )


def ef21_bc(top, delta):
    """The proved step, and the method as a function of its step."""
    bound = theory.ef21_bc(
        L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, delta=delta, server_delta=delta
    )
    return bound.step_size, lambda step: algorithms.ef21_bc(
        PROBLEM.loss, top, num_clients=NUM_CLIENTS, learning_rate=step, batch_size=1
    )


def largest_factor(proved, method, rounds):
    """The largest of the factors up to which every run ends below the loss at which it began."""

    def loss_after(factor):
        program = simulation.program(
            method(proved * factor), PROBLEM.dataset, sampler=samplers.full(), evaluate_every=rounds
        )
        state, _ = program.run(jax.random.key(1), program.init(jnp.zeros(DIMENSION)), rounds)
        return PROBLEM.loss(state.algorithm.params, PROBLEM.dataset.arrays, None)

    losses = jax.jit(lambda factors: jax.lax.map(loss_after, factors))(FACTORS)
    lower = np.asarray(losses) < 0  # the loss of the first model, zero; false for NaN
    return FACTORS[np.argmin(lower) - 1] if not lower.all() else FACTORS[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    args = parser.parse_args()

    print(f"{'delta':>8}{'DoubleSqueeze':>16}{'EF21-BC':>10}")
    for delta in (0.1, 0.2, 0.5, 0.8):
        top = compressors.top_k(delta)
        factors = [largest_factor(*of(top, delta), args.rounds) for of in (double_squeeze, ef21_bc)]
        print(f"{delta:8}{factors[0]:16.0f}{factors[1]:10.0f}", flush=True)


if __name__ == "__main__":
    main()
