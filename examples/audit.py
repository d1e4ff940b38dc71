"""Does DP-FedAvg keep what epsilon promises?  An audit in one run, and one that finds a mistake.

Among 20 real clients with handwritten digits there are canaries.  A canary is a client that sends,
in every round, an update of its own random direction, as large as clipping lets through.  A coin
decides for each of 200 canaries whether it takes part.

The auditor sees the model at the end and guesses the coins from it.  The number of right guesses
bounds epsilon from below (Steinke, Nasr, Jagielski 2023).  A bound below the claimed epsilon proves
nothing; a bound above it proves that the program does not keep its claim.

The script audits DP-FedAvg twice: as it is, and with a mistake on purpose (the noise is that of the
mean, but it is added to the sum).  For each it prints the lower bound, whether the claim is broken,
and the area under the ROC curve of the auditor's scores: 0.5 is a blind guess.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fjx
from fjx import aggregators, clients, data, models, privacy, samplers
from fjx.privacy import auditing

PEOPLE = 20
CANARIES = 200
EPSILON = 2.0
DELTA = 1e-5
CLIP_NORM = 0.5
REAL = -1  # the number of a canary, in an example of a real client


def with_canaries(loss, canaries):
    """The loss of the model on a real example, and of a canary -<params, canary>.

    The gradient of the second is constant, so the client moves in the direction of its canary.
    """

    def loss_fn(params, batch, key):
        number = batch["canary"][0]
        real, metrics = loss(params, {"x": batch["x"], "y": batch["y"]}, key)
        canary = jax.tree.map(lambda c: c.at[number].get(mode="clip"), canaries)
        product = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, params, canary)))
        return jnp.where(number == REAL, real, -product), metrics

    return loss_fn


def dataset_with_canaries(numbers):
    """The digits of 20 people, and one client of one example for each of these canaries."""
    digits = data.digits(num_clients=PEOPLE)
    people = [digits.client(i) for i in range(PEOPLE)]
    real = [{**person, "canary": np.full(len(person["y"]), REAL, np.int32)} for person in people]
    planted = [
        {
            "x": np.zeros((1, 64), np.float32),
            "y": np.zeros(1, np.int32),
            "canary": np.array([number], np.int32),
        }
        for number in numbers
    ]
    return data.from_clients([*real, *planted])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()

    # The model, the canaries, and the coins that say which of them take part.
    model = models.mlp(features=64, hidden=(64,), classes=10)
    params = model.init(jax.random.key(0))
    key_coins, key_canaries = jax.random.split(jax.random.key(1))
    took_part = np.asarray(jax.random.bernoulli(key_coins, 0.5, (CANARIES,)))
    canaries = auditing.canaries(key_canaries, params, count=CANARIES, norm=100.0)
    dataset = dataset_with_canaries(np.flatnonzero(took_part))

    # What is claimed.
    spent = {"rounds": args.rounds, "delta": DELTA}
    z = privacy.calibrate(samplers.full(), epsilon=EPSILON, **spent)
    correct = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=z)
    claim = privacy.epsilon(correct, samplers.full(), **spent)
    print(f"claimed: {claim}")

    # The mistake: noise that was meant for the mean is added to the sum.
    denominator = dataset.num_clients
    too_little = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=z / denominator)
    mistaken = correct._replace(release=too_little.release)

    client = clients.local_sgd(
        clients.per_example(with_canaries(model.loss, canaries)),
        optax.sgd(0.3),
        epochs=1,
        batch_size=10,
    )
    for name, mechanism in {"as it is": correct, "with a mistake": mistaken}.items():
        result = fjx.simulate(
            jax.random.key(2),
            fjx.compose(client=client, aggregator=aggregators.private(mechanism, denominator)),
            params,
            dataset,
            sampler=samplers.full(),
            rounds=args.rounds,
        )
        # The auditor: how far has the model moved in the direction of each canary?
        moved = jax.tree.map(jnp.subtract, result.params, params)
        scores = np.asarray(auditing.scores(moved, canaries))
        bound = auditing.one_run(scores, took_part, delta=DELTA)
        area = auditing.auroc(scores[took_part], scores[~took_part])
        verdict = "BROKEN: more than was claimed" if bound > claim else "no violation found"
        print(f"\n{name}: {verdict}\n  {bound}")
        print(f"  area under the ROC curve {area:.3f}")


if __name__ == "__main__":
    main()
