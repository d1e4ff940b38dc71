"""Client-level privacy on phones without sampling: noise that is correlated between rounds.

18 people train a small model by turns, 3 of them in a round.  Chance amplifies nothing here, but
the rounds of a person are 6 apart.  The script runs DP-FTRL without noise and with four kinds of
noise, all at epsilon = 10.  They differ in how the noise of the rounds is correlated, and so in how
much of it is left in the sum of the rounds, which is what the model sees.

The columns are the noise multiplier z, the norm of the noise in the final model, and the accuracy
in % on the later windows of the people who trained and on people who did not.

Epsilon does not cover the means and deviations by which ``load`` standardises the channels.

    FJX_DATA=folder/of/phone_har.npz python examples/dp_ftrl_phones.py --rounds 60
"""

import argparse
import math
import pathlib

import jax
import numpy as np
from phone_har import DEFAULT_FILE, accuracies, load

import fjx
from fjx import algorithms, models, privacy, samplers

EPSILON = 10.0
DELTA = 1e-3
TURNS = 6  # a person takes part in every sixth round
COHORT_SIZE = 3
CLIP_NORM = 0.3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=DEFAULT_FILE)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()

    train, later, others = load(args.data)
    model = models.sensor_cnn(widths=(8,))
    params = model.init(jax.random.key(0))
    num_weights = sum(x.size for x in jax.tree.leaves(params))

    # Who takes part, and how often at most: that is what correlated noise is accounted with.
    sampler = samplers.cyclic(TURNS)
    participation = privacy.Participation(
        args.rounds, separation=TURNS, most=math.ceil(args.rounds / TURNS)
    )

    # How the noise of the rounds is correlated: a matrix C, given by its columns.
    bands = privacy.optimal_coefficients(min(TURNS, args.rounds), participation)
    buffers = privacy.optimal_buffers(2, participation)
    independent = privacy.toeplitz([1.0])
    strategies = {
        "independent": independent,
        "tree, Honaker": privacy.honaker_tree(args.rounds),
        f"{len(bands)} bands": privacy.toeplitz(bands),
        "2 buffers": privacy.buffered_toeplitz(*buffers),
    }

    def run(name, strategy, z, noise_norm):
        """Runs DP-FTRL with this noise, and prints its line."""
        algorithm = algorithms.dp_ftrl(
            model.loss,
            strategy=strategy,
            clip_norm=CLIP_NORM,
            noise_multiplier=z,
            cohort_size=COHORT_SIZE,
            client_lr=0.1,
            batch_size=20,
        )
        result = fjx.simulate(
            jax.random.key(1), algorithm, params, train, sampler=sampler, rounds=args.rounds
        )
        known = np.mean(accuracies(model, result.params, later))
        new = np.mean(accuracies(model, result.params, others))
        print(f"{name:<15}{z:7.2f}{noise_norm:14.2f}{known:8.1f}{new:12.1f}")

    print(
        f"{'noise':<15}{'z':>7}{'in the model':>14}{'later':>8}{'new people':>12}  (accuracy in %)"
    )
    run("none", independent, z=0.0, noise_norm=0.0)

    # All rounds together are one Gaussian release of C times the rounds' sums.  So the noise that one
    # release needs, times the sensitivity of C, gives every strategy the same epsilon.
    sigma = privacy.calibrate(samplers.full(), epsilon=EPSILON, delta=DELTA, rounds=1)
    for name, strategy in strategies.items():
        z = sigma * strategy.sensitivity(participation)
        error = sigma * privacy.prefix_error(strategy, participation)  # of one weight
        noise_norm = CLIP_NORM * error * math.sqrt(num_weights) / COHORT_SIZE
        run(name, strategy, z, noise_norm)

    mechanism = privacy.correlated(strategy, clip_norm=CLIP_NORM, noise_multiplier=z)
    print(privacy.epsilon(mechanism, sampler, rounds=args.rounds, delta=DELTA))
    print(
        f"What limits it: all updates together are at most {CLIP_NORM * args.rounds:.1f} long, the "
        f"noise does not shrink with {len(train.sizes)} people, and grows with the root of "
        f"{num_weights} parameters."
    )


if __name__ == "__main__":
    main()
