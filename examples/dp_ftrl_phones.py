"""Client-level privacy on phones without sampling: noise that is correlated between rounds.

18 people train a small model by turns, 3 of them in a round: nothing is amplified by chance, but a
person's rounds are 6 apart.  All rows with noise have the same epsilon: what differs is how the noise of
the rounds hangs together, and how much of it is left in their sum, which is what the model sees.
The means and deviations by which ``load`` standardises the channels are not covered by epsilon.

    FJX_DATA=folder/of/phone_har.npz python examples/dp_ftrl_phones.py --rounds 60
"""

import argparse
import math
import os
import pathlib

import jax
import numpy as np
from phone_har import load

import fjx
from fjx import algorithms, models, privacy, samplers, simulation

EPSILON, DELTA, TURNS, COHORT, CLIP = 10.0, 1e-3, 6, 3, 0.3

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
folder = os.environ.get("FJX_DATA", ".")
parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(folder, "phone_har.npz"))
parser.add_argument("--rounds", type=int, default=60)
arguments = parser.parse_args()
rounds = arguments.rounds

train, later, others = load(arguments.data)
model = models.sensor_cnn(widths=(8,))
params = model.init(jax.random.key(0))
size = sum(x.size for x in jax.tree.leaves(params))
sampler = samplers.cyclic(TURNS)
participation = privacy.Participation(rounds, separation=TURNS, most=math.ceil(rounds / TURNS))
bands = privacy.optimal_coefficients(min(TURNS, rounds), participation)
buffers = privacy.optimal_buffers(2, participation)
strategies = {
    "none": None,
    "independent": privacy.toeplitz([1.0]),
    "tree, Honaker": privacy.honaker_tree(rounds),
    f"{len(bands)} bands": privacy.toeplitz(bands),
    "2 buffers": privacy.buffered_toeplitz(*buffers),
}
# All rounds are one Gaussian release of C times the rounds' sums: calibrated as one.
sigma = privacy.calibrate(samplers.full(), epsilon=EPSILON, delta=DELTA, rounds=1)

print(f"{'noise':<15}{'z':>7}{'in the model':>14}{'later':>8}{'new people':>12}  (accuracy in %)")
for name, strategy in strategies.items():
    z = error = 0.0
    if strategy:
        z = sigma * strategy.sensitivity(participation)
        error = sigma * privacy.prefix_error(strategy, participation) * math.sqrt(size) / COHORT
    algorithm = algorithms.dp_ftrl(
        model.loss,
        strategy=strategy or privacy.toeplitz([1.0]),
        clip_norm=CLIP,
        noise_multiplier=z,
        cohort_size=COHORT,
        client_lr=0.1,
        batch_size=20,
    )
    result = fjx.simulate(
        jax.random.key(1), algorithm, params, train, sampler=sampler, rounds=rounds
    )
    scores = [simulation.per_client(model.evaluate, g)(result.params) for g in (later, others)]
    known, new = (100 * np.asarray(score["accuracy"]).mean() for score in scores)
    print(f"{name:<15}{z:7.2f}{CLIP * error:14.2f}{known:8.1f}{new:12.1f}")

mechanism = privacy.correlated(strategy, clip_norm=CLIP, noise_multiplier=z)
print(privacy.epsilon(mechanism, sampler, rounds=rounds, delta=DELTA))
print(
    f"What limits it: all updates together are at most {CLIP * rounds:.1f} long, the noise does not "
    f"shrink with {len(train.sizes)} people, and grows with the root of {size} parameters."
)
