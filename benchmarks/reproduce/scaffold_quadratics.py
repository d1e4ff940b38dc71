"""SCAFFOLD on two quadratics: FedAvg suffers from dissimilar clients, and SCAFFOLD does not.

    python -m benchmarks.reproduce.scaffold_quadratics

Karimireddy et al. (ICML 2020, arXiv:1910.06378), section 7.1 and figure 3: two clients whose gradients
differ by G, full gradients, K local steps, the best step size for each line.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reproduce.report import arguments, table, tell
from fjx import algorithms, data, evaluation, samplers

CLIENTS = data.from_clients(
    [{"curvature": np.float32([a]), "slope": np.float32([b])} for a, b in ((2, 1), (0, -1))]
)
"""f_1 = x^2 + G x and f_2 = -G x, the pair of the paper's lower bound; their mean is x^2 / 2."""

LINES = {
    "SGD": ("fedavg", 1),
    "FedAvg, K = 2": ("fedavg", 2),
    "FedAvg, K = 10": ("fedavg", 10),
    "SCAFFOLD, K = 2": ("scaffold", 2),
    "SCAFFOLD, K = 10": ("scaffold", 10),
}
G = [1.0, 10.0, 100.0]
LR = [0.003, 0.01, 0.03, 0.1, 0.3]

PUBLISHED = (
    "Published (figure 3, read as orderings): FedAvg gets slower as G grows, and for large G more local "
    "steps make it worse than SGD; SCAFFOLD is the same for every G, better than SGD, and better with "
    "K = 10 than with K = 2."
)
DIFFERS = (
    "Differs: the paper does not print its two functions in that section; ours are those of its lower "
    "bound, with a start at 10 + N(0, 1) for each seed.  The figure shows curves, the table their end."
)


def make(line, lr, g):
    recipe, steps = LINES[line]

    def loss_fn(x, batch, key):
        return jnp.mean(batch["curvature"] * x**2 / 2 + g * batch["slope"] * x)

    parts = {"client_lr": lr, "epochs": steps, "batch_size": 1}
    if recipe == "scaffold":
        return algorithms.scaffold(loss_fn, num_clients=2, **parts)
    return algorithms.fedavg(loss_fn, **parts)


def main() -> None:
    options = arguments(__spec__.name, __doc__)
    rounds = options.rounds or 15
    result = evaluation.sweep(
        make,
        lambda key: 10 + jax.random.normal(key),
        CLIENTS,
        sampler=samplers.full(),
        rounds=rounds,
        static={"line": list(LINES)},
        grid={"lr": LR, "g": G},
        seeds=options.seeds,
        evaluate=lambda x: {"gap": x**2 / 2},
        evaluate_every=rounds,
    )
    gaps = result.final("gap").reshape(len(LINES), len(LR), len(G), options.seeds)
    logs = np.log10(np.maximum(gaps, 1e-12))
    # The best step size of a line at each G, over all seeds.
    best = np.nanargmin(np.where(np.isfinite(logs), logs, np.inf).mean(axis=-1), axis=1)
    rows = []
    for i, line in enumerate(LINES):
        cells = [evaluation.t_interval(logs[i, best[i, j], j]) for j in range(len(G))]
        rows.append([line, *(f"{c.mean:.2f} ± {c.high - c.mean:.2f}" for c in cells)])
    means = {line: logs[i, best[i], range(len(G))].mean(axis=-1) for i, line in enumerate(LINES)}
    found = {
        "FedAvg is slower the larger G": all(
            np.all(np.diff(means[f"FedAvg, K = {k}"]) > 0) for k in (2, 10)
        ),
        "for the largest G more local steps make FedAvg worse, and worse than SGD": (
            means["FedAvg, K = 10"][-1] > means["FedAvg, K = 2"][-1] > means["SGD"][-1]
        ),
        "SCAFFOLD is better than SGD for every G": all(
            np.all(means[f"SCAFFOLD, K = {k}"] < means["SGD"]) for k in (2, 10)
        ),
        "SCAFFOLD depends on G by less than a tenth of what it gains": all(
            np.ptp(means[f"SCAFFOLD, K = {k}"]) < 0.1 * -means[f"SCAFFOLD, K = {k}"].mean()
            for k in (2, 10)
        ),
        "SCAFFOLD is better with K = 10 than with K = 2": bool(
            np.all(means["SCAFFOLD, K = 10"] < means["SCAFFOLD, K = 2"])
        ),
    }
    verdicts = "\n".join(f"- {claim}: {'yes' if holds else 'no'}" for claim, holds in found.items())
    head = ["log10 of f - f*", *(f"G = {g:g}" for g in G)]
    about = f"After {rounds} rounds, mean over {options.seeds} seeds and 95 % interval:"
    parts = [PUBLISHED, about, table(head, rows), "Ours:\n\n" + verdicts, DIFFERS, str(result)]
    text = "\n\n".join(["# SCAFFOLD on two quadratics", *parts])
    tell("scaffold_quadratics", text, options.record)


if __name__ == "__main__":
    main()
