"""Every compressed method of fjx on two neural networks: accuracy for the bytes that clients send.

The tasks are

- digits: the handwritten digits of 20 clients, and a network of 2,410 weights;
- phones: the sensors of 18 people's phones, and a network of 32,485 weights.  This one runs only if
  FJX_DATA names a folder with phone_har.npz.  The last fifth of each person's windows is held out.

Gradients are stochastic: a client sees 64 (digits) or 32 (phones) random examples of its own in a
round.  Ten clients take part in a round, or all of them if the method needs everybody.  top-k and
rand-k keep a tenth of the coordinates.

Each method runs with six step sizes, and the best one counts: on digits that with the best accuracy
at the end; on phones that with the best accuracy after a quarter of the rounds, and only its run
goes on.

For each method the script prints the held-out accuracy in % after a client has sent as much as 1, 3
and 10 models and at the end ("-" if no evaluation was that early), the kB that it sent in all, and
the step size.

    FJX_DATA=folder/of/phone_har.npz python examples/compressed_networks.py --methods ef21 diana
"""

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import phone_har

from fjx import algorithms as a
from fjx import compressors as c
from fjx import data, models, rounds, samplers, simulation, wire

STEP_SIZES = 4.0 ** np.arange(-4, 2)
EVALUATIONS = 40  # about so many in a run
COHORT_SIZE = 10
BUDGETS = (1, 3, 10, np.inf)  # models' worth of bits that a client may send

# These know no absentees: all clients take part in every round.
NEED_EVERYBODY = ("choco_sgd", "dasha", "marina", "pp_marina", "compressed_scaffnew")


class Task(NamedTuple):
    """What is trained, and how the step size is chosen."""

    model: models.Model
    dataset: data.FederatedData
    batch_size: int  # examples of a client in a round
    parts: int  # the first of so many parts of the rounds decides on the step size


def make_tasks():
    digits = data.digits(num_clients=20)
    network = models.mlp(features=64, hidden=(32,), classes=10)
    tasks = {"digits": Task(network, digits, batch_size=64, parts=1)}

    file = pathlib.Path(os.environ.get("FJX_DATA", ""), "phone_har.npz")
    if file.is_file():
        train, later, _ = phone_har.load(file)
        people = [train.client(i) for i in range(train.num_clients)]
        phones = data.from_clients(people, test=later.arrays)
        tasks["phones"] = Task(models.sensor_cnn(), phones, batch_size=32, parts=4)
    return tasks


def recipes(task, params) -> dict[str, Callable]:
    """The methods.  Each is a function of its step size that returns an algorithm."""
    loss, num_clients = task.model.loss, task.dataset.num_clients
    ratio = 0.1
    top, rand, eight_bits = c.top_k(ratio), c.rand_k(ratio), c.quantize(bits=8)

    # What several of them are told.
    batch = {"batch_size": task.batch_size}
    everyone = {"num_clients": num_clients} | batch  # must know how many there are
    local = {"steps": 5, "batch_size": task.batch_size // 4}  # five local steps on smaller batches
    ring = sum(jnp.roll(jnp.eye(num_clients), i, axis=0) for i in (-1, 0, 1)) / 3

    return {
        # One codec for the gradients, with or without memory of what was lost.
        "uncompressed_gd": lambda step: a.compressed_gd(
            loss, c.identity(), learning_rate=step, **batch
        ),
        "compressed_gd": lambda step: a.compressed_gd(loss, rand, learning_rate=step, **batch),
        "ef14": lambda step: a.ef14(loss, top, learning_rate=step, **batch),
        "sign_sgd": lambda step: a.sign_sgd(loss, learning_rate=step, **batch),
        "double_squeeze": lambda step: a.double_squeeze(loss, top, learning_rate=step, **batch),
        # Changes of gradients.
        "ef21": lambda step: a.ef21(loss, top, learning_rate=step, **everyone),
        "ef21_bc": lambda step: a.ef21_bc(loss, top, learning_rate=step, **everyone),
        "ef21_sgdm": lambda step: a.ef21_sgdm(loss, top, learning_rate=step, eta=0.2, **everyone),
        "clag": lambda step: a.clag(loss, top, learning_rate=step, zeta=1, **everyone),
        "ef_bv": lambda step: a.ef_bv(
            loss, rand, learning_rate=step, lam=ratio, nu=0.5, **everyone
        ),
        "diana": lambda step: a.diana(loss, rand, learning_rate=step, lam=ratio, **everyone),
        "mcm": lambda step: a.mcm(loss, rand, learning_rate=step, lam=ratio, **everyone),
        "artemis": lambda step: a.artemis(loss, rand, learning_rate=step, lam=ratio, **everyone),
        "dasha": lambda step: a.dasha(
            loss, rand, learning_rate=step, momentum=ratio / (2 - ratio), **everyone
        ),
        "marina": lambda step: a.marina(
            loss, differences=rand, learning_rate=step, p=ratio, **batch
        ),
        "pp_marina": lambda step: a.pp_marina(
            loss, differences=rand, learning_rate=step, p=ratio, participants=9, **batch
        ),
        # Without a server.
        "choco_sgd": lambda step: a.choco_sgd(
            loss, top, learning_rate=step, mixing=ring, step_size=0.2, **batch
        ),
        # Compressed preconditioning, low rank, sketches.
        "onebit_adam": lambda step: a.onebit_adam(
            loss, learning_rate=step, warmup=20, eps=1e-3, **batch
        ),
        "power_sgd": lambda step: a.power_sgd(
            loss, learning_rate=step, rank=2, momentum=0.9, **batch
        ),
        "fetch_sgd": lambda step: a.fetch_sgd(
            loss,
            learning_rate=step,
            ratio=0.008,
            rows=5,
            columns=wire.bits(params) // 384,
            momentum=0.0,
            **batch,
        ),
        # Local steps.
        "fedpaq": lambda step: a.fedpaq(loss, eight_bits, client_lr=step, **local),
        "fedcom": lambda step: a.fedcom(loss, eight_bits, client_lr=step, server_lr=1.5, **local),
        "fedcomgate": lambda step: a.fedcomgate(loss, eight_bits, client_lr=step, **local),
        "fedlin": lambda step: a.fedlin(
            loss, learning_rate=step, uplink=c.error_feedback(top), **local
        ),
        "scaffnew": lambda step: a.scaffnew(loss, learning_rate=step, p=0.2, **batch),
        "tamuna": lambda step: a.tamuna(
            loss, learning_rate=step, clients_per_round=COHORT_SIZE, owners=4, p=0.2, **everyone
        ),
        "compressed_scaffnew": lambda step: a.compressed_scaffnew(
            loss, learning_rate=step, owners=4, p=0.2, **everyone
        ),
        "fedcomloc": lambda step: a.fedcomloc(
            loss, learning_rate=step, p=0.2, uplink=c.top_k(0.3), **batch
        ),
    }


class Outcome(NamedTuple):
    """The run with the best step size: arrays over its evaluations, and that step size."""

    accuracy: np.ndarray
    sent: np.ndarray  # bits that a client had sent by then
    step_size: float


def race(recipe, cohort_size, task, params, num_rounds) -> Outcome:
    """Runs one method with every step size, and the best of them to the end."""
    rounds_of_a_part = -(-num_rounds // task.parts)
    evaluate = simulation.evaluation(task.model.evaluate, task.dataset.test)

    def algorithm(step):
        return rounds.minibatch(recipe(step), task.batch_size)

    def program(step):
        return simulation.program(
            algorithm(step),
            task.dataset,
            sampler=samplers.uniform(cohort_size),
            evaluate_every=-(-num_rounds // EVALUATIONS),
            evaluate=evaluate,
        )

    @jax.jit
    def play(step, state):
        return program(step).run(jax.random.key(1), state, rounds_of_a_part)

    # The first part decides.
    start = program(1.0).init(params)
    tried = [play(step, start) for step in STEP_SIZES]
    best = np.argmax([history.evaluations["accuracy"][-1] for _, history in tried])

    # The best one goes on from where it is.
    state, history = tried[best]
    histories = [history]
    for _ in range(task.parts - 1):
        state, history = play(STEP_SIZES[best], state)
        histories.append(history)

    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *histories)
    course = simulation.curve(whole, algorithm(1.0).traffic(params), "accuracy")
    return Outcome(course.score, course.bits / cohort_size, STEP_SIZES[best])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=None, help="names of recipes; all of them")
    args = parser.parse_args()

    for task_name, task in make_tasks().items():
        params = task.model.init(jax.random.key(0))
        model_bits = wire.bits(params)
        print(f"\n{task_name}: % right after uplink of 1, 3, 10 models and at last, kB, step size")
        methods = recipes(task, params)
        for name in args.methods or methods:
            cohort_size = task.dataset.num_clients if name in NEED_EVERYBODY else COHORT_SIZE
            outcome = race(methods[name], cohort_size, task, params, args.rounds)
            line = f"{name:19}"
            for budget in BUDGETS:
                affordable = outcome.accuracy[outcome.sent <= budget * model_bits]
                line += f"{100 * affordable[-1]:7.1f}" if affordable.size else f"{'-':>7}"
            print(f"{line}{outcome.sent[-1] / 8e3:9.1f}{outcome.step_size:7.2g}", flush=True)


if __name__ == "__main__":
    main()
