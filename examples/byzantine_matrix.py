"""Aggregators against attacks: which defence holds, in one table.

Each cell is a whole federated run.  Attacks, numbers of attackers, degrees of heterogeneity and seeds
are axes of one compiled program for each aggregator and codec: the attack is a traced number, and so
is f.  The tasks are

- digits: the handwritten digits of 20 clients, split evenly or by label (Dirichlet 0.1);
- phones: the sensors of 18 people's phones, person by person.  This one runs only if FJX_DATA names a
  folder with phone_har.npz.  The last fifth of each person's windows is held out.

Models are linear, and all clients take part in every round with three local steps.  The attackers are
the clients with the smallest ids.  They poison their data (label flip), or collude and see all honest
messages.  With a codec, their lies pass it like all messages.

The script prints the final accuracy in %, the mean of the seeds, for each attack, and the worst of them.
--plot draws the worst ones as a heat map.

    FJX_DATA=folder/of/phone_har.npz python examples/byzantine_matrix.py --seeds 2 --plot matrix.svg
"""

import argparse
import dataclasses
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import phone_har

import fjx
from fjx import aggregators as a
from fjx import attacks, clients, compressors, data, models, samplers, simulation

ALONE = ("nobody", "label flip")
COLLUDING = {
    "sign flip": attacks.sign_flip(),
    "foe": attacks.foe((0.5, 2.0, 10.0)),
    "alie": attacks.alie(),
    "min-max": attacks.min_max(),
    "mimic": attacks.mimic(),
}
ATTACKS = (*ALONE, *COLLUDING)

RULES = {
    "mean": lambda f: a.uniform(a.mean()),
    "median": lambda f: a.median(),
    "trimmed mean": a.trimmed_mean,
    "Krum": a.krum,
    "multi-Krum": a.multi_krum,
    "geometric median": lambda f: a.geometric_median(tolerance=1e-3, max_iterations=50),
}
MIXED = ("median", "trimmed mean", "Krum", "geometric median")
DEFENCES = RULES | {
    f"NNM + {name}": lambda f, rule=RULES[name]: a.nearest_neighbour_mixing(rule(f), f)
    for name in MIXED
}

CODECS = {"none": None, "4 bits": compressors.quantize(bits=4)}


class Task(NamedTuple):
    """A model, and data sets of equal shapes that differ in how examples are split."""

    model: models.Model
    splits: dict[str, data.FederatedData]
    learning_rate: float


def digits() -> Task:
    splits = {
        "even": data.digits(num_clients=20, alpha=None),
        "by label": data.digits(num_clients=20, alpha=0.1),
    }
    return Task(models.logistic_regression(features=64, classes=10), splits, 0.5)


def phones() -> Task:
    train, later, _ = phone_har.load(phone_har.DEFAULT_FILE)
    people = [train.client(i) for i in range(train.num_clients)]
    features = int(np.prod(people[0]["x"].shape[1:]))
    classes = int(max(person["y"].max() for person in people)) + 1
    model = models.logistic_regression(features=features, classes=classes)
    people = [{"x": p["x"], "y": p["y"].astype(np.int32)} for p in people]
    test = {"x": later.arrays["x"], "y": later.arrays["y"].astype(jnp.int32)}
    return Task(model, {"people": data.from_clients(people, test=test)}, 0.02)


TASKS = {"digits": digits, "phones": phones}


def accuracies(task, defence, codec, liars, rounds, seeds):
    """Final accuracies in %: ``f[split, f, attack, seed]``, in one program."""
    test = next(iter(task.splits.values())).test  # the same for all
    splits = [dataclasses.replace(split, test=None) for split in task.splits.values()]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *splits)
    classes = int(max(split.arrays["y"].max() for split in task.splits.values())) + 1

    def run(dataset, f, attack, seed):
        # Colluding attacks follow those of attackers who are alone; of the latter none colludes.
        alone = attacks.first(jnp.where(attack == 1, f, 0), num_clients=dataset.num_clients)
        together = attacks.first(jnp.where(attack >= 2, f, 0), num_clients=dataset.num_clients)
        honest = clients.local_sgd(
            task.model.loss, optax.sgd(task.learning_rate), steps=3, batch_size=32
        )
        algorithm = fjx.compose(
            client=attacks.poisoned(honest, attacks.label_flip(classes), byzantine=alone),
            uplink=codec,
            aggregator=attacks.colluding(
                defence(f),
                attacks.one_of(attack - 2, *COLLUDING.values()),
                byzantine=together,
                codec=codec,
            ),
        )
        program = simulation.program(
            algorithm,
            dataset,
            sampler=samplers.full(),
            evaluate=simulation.evaluation(task.model.evaluate, test, batch_size=512),
            evaluate_every=rounds,
        )
        state = program.init(task.model.init(jax.random.key(0)))
        _, history = program.run(jax.random.key(seed), state, rounds)
        return 100 * history.evaluations["accuracy"][-1]

    axes = (
        jnp.arange(len(task.splits)),
        jnp.array(liars),
        jnp.arange(len(ATTACKS)),
        jnp.arange(seeds),
    )
    split, f, attack, seed = (x.reshape(-1) for x in jnp.meshgrid(*axes, indexing="ij"))
    datasets = jax.tree.map(lambda x: x[split], stacked)
    found = jax.vmap(run)(datasets, f, attack, seed)
    return np.asarray(found).reshape([len(x) for x in axes])


def table(found, task, liars):
    """Lines of one program: the split, f, and the accuracy under each attack, then the worst."""
    for i, split in enumerate(task.splits):
        for j, f in enumerate(liars):
            row = found[i, j].mean(axis=-1)
            yield f"{split:9} f={f}", row, row[1:].min()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=None)
    parser.add_argument("--defences", nargs="*", choices=DEFENCES, default=list(DEFENCES))
    parser.add_argument("--codecs", nargs="*", choices=CODECS, default=list(CODECS))
    parser.add_argument("--splits", nargs="*", default=None, help="some of the task's splits")
    parser.add_argument("--liars", nargs="*", type=int, default=[4], help="numbers of attackers")
    parser.add_argument("--plot", type=pathlib.Path, help="file of the heat map")
    args = parser.parse_args()

    names = args.tasks or ["digits", *(["phones"] if phone_har.DEFAULT_FILE.is_file() else [])]
    worst = {}
    for name in names:
        task = TASKS[name]()
        splits = {k: v for k, v in task.splits.items() if args.splits is None or k in args.splits}
        task = task._replace(splits=splits or task.splits)
        for codec in args.codecs:
            print(f"\n{name}, codec {codec}: accuracy in %, mean of {args.seeds} seeds")
            print(f"{'':37}" + "".join(f"{attack:>11}" for attack in (*ATTACKS, "worst")))
            for defence in args.defences:
                start = time.process_time()
                found = accuracies(
                    task, DEFENCES[defence], CODECS[codec], args.liars, args.rounds, args.seeds
                )
                seconds = time.process_time() - start
                for cell, row, low in table(found, task, args.liars):
                    values = "".join(f"{value:11.1f}" for value in (*row, low))
                    print(f"{defence:24}{cell:13}{values}", flush=True)
                    worst[defence, f"{name}, {cell}, {codec}"] = low
                print(f"{'':37}{seconds:.0f} s of CPU", flush=True)
    if args.plot:
        draw(worst, args.plot)


def draw(worst, file) -> None:
    """The worst accuracies: a row for each defence, a column for each setting."""
    import matplotlib.pyplot as plt

    rows, columns = ([*dict.fromkeys(key[i] for key in worst)] for i in (0, 1))
    values = np.array([[worst[row, column] for column in columns] for row in rows])
    figure, axes = plt.subplots(figsize=(2 + 0.7 * len(columns), 2 + 0.4 * len(rows)))
    axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(values):
        color = "white" if value < 60 else "black"
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
    axes.set_title("Accuracy in % under the worst attack")
    figure.savefig(file, bbox_inches="tight", dpi=150)


if __name__ == "__main__":
    main()
