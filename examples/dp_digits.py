"""DP-FedAvg on handwritten digits: accuracy, epsilon, and what stands between them.

1,000 clients have one or two images each.  In every round each of them takes part with probability
q; what it sends is clipped to norm 0.5, and Gaussian noise is added to the sum.  The script
compares

1. no clipping and no noise,
2. clipping and no noise,
3. DP-FedAvg at epsilon = 4 in cohorts of 50,
4. DP-FedAvg at epsilon = 4 in cohorts of 500: noise is relative to one client, so a larger cohort
   makes it smaller.

The columns are the cohort's expected size, the noise multiplier z, the fraction of messages that
were clipped, the held-out accuracy, the norm of the noise over all weights (the clipped mean has
norm 0.5 at most), and epsilon.

After 100 rounds clipping costs most (95 % to 89 %).  At epsilon = 4 noise takes one more point in
cohorts of 50, and next to nothing in cohorts of 500.
"""

import argparse

import jax
import numpy as np

import fjx
from fjx import algorithms, data, models, privacy, samplers, simulation

NUM_CLIENTS = 1000
EPSILON = 4.0
DELTA = 1e-4
CLIP_NORM = 0.5
LOCAL_TRAINING = {"client_lr": 0.3, "batch_size": 2, "epochs": 5}

COLUMNS = (
    f"{'':<24}{'cohort':>8}{'z':>7}{'clipped':>9}{'accuracy':>10}{'noise norm':>12}{'epsilon':>9}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()

    dataset = data.digits(num_clients=NUM_CLIENTS, alpha=None)
    model = models.mlp(features=64, hidden=(32,), classes=10)
    params = model.init(jax.random.key(0))
    num_weights = sum(x.size for x in jax.tree.leaves(params))
    evaluate = simulation.evaluation(model.evaluate, dataset.test)

    def run(name, algorithm, cohort_size, z=0.0, epsilon="none"):
        """Runs an algorithm on Poisson cohorts of this expected size, and prints its line."""
        history = fjx.simulate(
            jax.random.key(1),
            algorithm,
            params,
            dataset,
            sampler=samplers.poisson(cohort_size / NUM_CLIENTS),
            rounds=args.rounds,
            evaluate=evaluate,
            evaluate_every=args.rounds,
        ).history
        accuracy = history.evaluations["accuracy"][-1]
        # Only a private aggregator reports these two; without one nothing is clipped or noised.
        nothing = np.zeros(1)
        clipped = history.rounds.get("unnoised_clipped", nothing).mean()
        noise_norm = history.rounds.get("noise_std", nothing).mean() * np.sqrt(num_weights)
        print(
            f"{name:<24}{cohort_size:>8}{z:7.2f}{clipped:9.0%}{accuracy:10.1%}"
            f"{noise_norm:12.2f}{epsilon:>9}"
        )

    def dp_fedavg(cohort_size, z):
        return algorithms.dp_fedavg(
            model.loss,
            clip_norm=CLIP_NORM,
            noise_multiplier=z,
            cohort_size=cohort_size,
            **LOCAL_TRAINING,
        )

    print(COLUMNS)
    run("no clipping, no noise", algorithms.fedavg(model.loss, **LOCAL_TRAINING), 50)
    run("clipping, no noise", dp_fedavg(50, z=0.0), 50)

    statements = []
    for cohort_size in (50, 500):
        sampler = samplers.poisson(cohort_size / NUM_CLIENTS)
        spent = {"rounds": args.rounds, "delta": DELTA, "num_clients": NUM_CLIENTS}
        z = privacy.calibrate(sampler, epsilon=EPSILON, **spent)
        mechanism = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=z)
        epsilon = privacy.epsilon(mechanism, sampler, **spent)
        run("DP-FedAvg", dp_fedavg(cohort_size, z), cohort_size, z, f"{float(epsilon):.2f}")
        statements.append(f"cohorts of {cohort_size}: {epsilon}")

    print("\n" + "\n".join(statements))
    print("The accuracies and fractions printed here are not covered by epsilon.")


if __name__ == "__main__":
    main()
