"""Compressed methods against each other: which gets farthest on how many bits of uplink.

Ten clients minimise three functions together: a quadratic, a logistic regression, and the training
loss of a small network on digits.  All clients take part in every round with their whole gradient.
Sparse messages keep a tenth of the coordinates; quantised ones have 4 bits for each.

Every method runs with nine step sizes: the one that its theorem proves (or 1/64, where there is no
theorem) times 1, 2, ..., 256.  The one with the lowest curve counts.

For each task the script prints a table.  A row is a method; a column is a budget, counted in whole
gradients that a client may send; an entry is the distance from the least loss (1e-6 is rounding),
and on digits, which are not convex, the training loss.  A method that sends less than the budget is
shown where it ends.  The last line names the first method of each budget.  The curves are drawn
into quadratics.png, logistic.png and digits.png.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import algorithms, compressors, data, models, samplers, simulation, theory, wire

NUM_CLIENTS = 10
SEEDS = jnp.arange(2)
BUDGETS = (1, 3, 10, 30)  # whole gradients a client may send
FACTORS = 2.0 ** jnp.arange(9)  # the step sizes that are tried, relative to the first
KEY = jax.random.key(0)

RATIO = 0.1  # of the coordinates, that top-k and rand-k keep
top = compressors.top_k(RATIO)  # contractive: delta = RATIO
rand = compressors.rand_k(RATIO)  # unbiased: omega = 1 / RATIO - 1
four_bits = compressors.quantize(bits=4)
exact = compressors.identity()
OMEGA = 1 / RATIO - 1


class Method(NamedTuple):
    """A method to compare, and what a theorem says of it."""

    algorithm: Callable  # (loss, learning_rate=, batch_size=) -> Algorithm
    theorem: Callable  # (problem) -> Theory, with the step size that is proved


METHODS = {
    "gradient descent": Method(
        lambda loss, **step: algorithms.compressed_gd(loss, exact, **step),
        lambda p: theory.compressed_gd(L=p.L, L_max=p.L_max, mu=p.mu, omega=0.0, n=NUM_CLIENTS),
    ),
    "rand-k": Method(
        lambda loss, **step: algorithms.compressed_gd(loss, rand, **step),
        lambda p: theory.compressed_gd(L=p.L, L_max=p.L_max, mu=p.mu, omega=OMEGA, n=NUM_CLIENTS),
    ),
    "top-k, EF14": Method(
        lambda loss, **step: algorithms.ef14(loss, top, **step),
        lambda p: theory.ef14(L=p.L, L_max=p.L_max, mu=p.mu, delta=RATIO),
    ),
    "top-k, EF21": Method(
        lambda loss, **step: algorithms.ef21(loss, top, num_clients=NUM_CLIENTS, **step),
        lambda p: theory.ef21(L=p.L, L_tilde=p.L_tilde, mu=p.mu, delta=RATIO),
    ),
    "top-k, EF21-BC": Method(
        lambda loss, **step: algorithms.ef21_bc(loss, top, num_clients=NUM_CLIENTS, **step),
        lambda p: theory.ef21_bc(
            L=p.L, L_tilde=p.L_tilde, mu=p.mu, delta=RATIO, server_delta=RATIO
        ),
    ),
    "rand-k, DIANA": Method(
        lambda loss, **step: algorithms.diana(
            loss, rand, num_clients=NUM_CLIENTS, lam=RATIO, **step
        ),
        lambda p: theory.diana(L_max=p.L_max, mu=p.mu, omega=OMEGA, n=NUM_CLIENTS),
    ),
    "4 bits, DIANA": Method(
        lambda loss, **step: algorithms.diana(
            loss, four_bits, num_clients=NUM_CLIENTS, lam=0.5, **step
        ),
        lambda p: theory.diana(L_max=p.L_max, mu=p.mu, omega=1.0, n=NUM_CLIENTS),
    ),
    "rand-k, Artemis": Method(
        lambda loss, **step: algorithms.artemis(
            loss, rand, num_clients=NUM_CLIENTS, lam=RATIO, **step
        ),
        lambda p: theory.artemis(
            L_max=p.L_max, mu=p.mu, omega=OMEGA, server_omega=OMEGA, n=NUM_CLIENTS
        ),
    ),
    "rand-k, MARINA": Method(
        lambda loss, **step: algorithms.marina(loss, differences=rand, p=RATIO, **step),
        lambda p: theory.marina(L=p.L, L_hat=p.L_hat, mu=p.mu, omega=OMEGA, n=NUM_CLIENTS, p=RATIO),
    ),
    "rand-k, DASHA": Method(
        lambda loss, **step: algorithms.dasha(
            loss, rand, num_clients=NUM_CLIENTS, momentum=RATIO / (2 - RATIO), **step
        ),
        lambda p: theory.dasha(L=p.L, L_hat=p.L_hat, mu=p.mu, omega=OMEGA, n=NUM_CLIENTS),
    ),
    "Scaffnew": Method(
        lambda loss, **step: algorithms.scaffnew(loss, p=0.2, **step),
        lambda p: theory.scaffnew(L_max=p.L_max, mu=p.mu),
    ),
    "TAMUNA": Method(
        lambda loss, **step: algorithms.tamuna(
            loss,
            num_clients=NUM_CLIENTS,
            clients_per_round=NUM_CLIENTS,
            owners=2,
            p=0.2,
            **step,
        ),
        lambda p: theory.tamuna(L_max=p.L_max, mu=p.mu, n=NUM_CLIENTS, owners=2, p=0.2),
    ),
}


class Task(NamedTuple):
    """A function to minimise; ``problem`` has its constants, where they are known."""

    loss: Callable
    dataset: data.FederatedData
    start: object
    problem: data.Problem | None


def make_tasks():
    quadratics = data.quadratic_problem(KEY)
    logistic = data.logistic_problem(KEY)
    network = models.mlp(features=64, hidden=(32,), classes=10)
    digits = data.digits(num_clients=NUM_CLIENTS)
    return {
        "quadratics": Task(quadratics.loss, quadratics.dataset, jnp.zeros(20), quadratics),
        "logistic": Task(logistic.loss, logistic.dataset, jnp.zeros(20), logistic),
        "digits": Task(network.loss, digits, network.init(KEY), None),
    }


def best_run(method, task, rounds):
    """The course of the method with its best step size; bits are counted in whole gradients."""
    first_step = 1 / 64 if task.problem is None else method.theorem(task.problem).step_size

    def algorithm(step):
        return method.algorithm(task.loss, learning_rate=step, batch_size=64)

    def training_loss(x):
        value = task.loss(x, task.dataset.arrays, KEY)
        return {"loss": value[0] if isinstance(value, tuple) else value}

    def play(factor, seed):
        program = simulation.program(
            algorithm(first_step * factor),
            task.dataset,
            sampler=samplers.uniform(NUM_CLIENTS),
            evaluate_every=1,
            evaluate=training_loss,
        )
        state = program.init(task.start)
        return program.run(jax.random.key(seed), state, rounds)[1]

    # All step sizes and seeds are one program.  Arrays are [step sizes, seeds, rounds].
    for_seeds = jax.vmap(play, (None, 0))
    for_steps_and_seeds = jax.jit(jax.vmap(for_seeds, (0, None)))
    history = for_steps_and_seeds(FACTORS, SEEDS)
    course = simulation.curve(history, algorithm(1.0).traffic(task.start), "loss")

    # How far from the least loss?  What diverged is infinitely far; below 1e-6 is rounding.
    minimum = 0.0 if task.problem is None else task.problem.minimum
    gap = np.nan_to_num(course.score, nan=np.inf) - minimum
    gap = np.maximum(gap, 1e-6)

    best = np.log(gap).mean((1, 2)).argmin()
    gradients = course.bits[best] / NUM_CLIENTS / wire.bits(task.start)
    return simulation.Curve(gap[best], course.rounds[best], gradients)


def reached(course):
    """The score at each budget, in the mean over seeds: that of the last round within the budget."""
    rounds_within = (course.bits[..., None] <= np.array(BUDGETS)).sum(1)
    last = np.maximum(rounds_within - 1, 0)
    return np.take_along_axis(course.score, last, 1).mean(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()

    for task_name, task in make_tasks().items():
        header = f"{task_name}, after gradients of"
        print(f"\n{header:32}" + "".join(f"{budget:>12}" for budget in BUDGETS))
        courses, scores = {}, []
        for name in args.methods:
            courses[name] = best_run(METHODS[name], task, args.rounds)
            scores.append(reached(courses[name]))
            print(f"{name:32}" + "".join(f"{score:12.2g}" for score in scores[-1]))
        winners = np.argmin(scores, axis=0)
        print("first: " + "; ".join(args.methods[winner] for winner in winners))
        figure = simulation.plot(courses, against=("bits", "rounds"), score=task_name, log=True)
        figure.savefig(f"{task_name}.png")


if __name__ == "__main__":
    main()
