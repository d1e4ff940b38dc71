"""Does DP-FedAvg keep what epsilon promises?  An audit in one run, and one that finds a mistake.

Among 20 real clients with handwritten digits there are canaries: clients that send, in every round, an
update of their own random direction, as large as clipping lets through.  A coin decides for each of 200
whether it is there.  The auditor sees the model at the end and guesses the coins; how many guesses are
right bounds epsilon from below (Steinke, Nasr, Jagielski 2023).  A bound below the claim proves nothing;
one above it would prove that something is wrong, as it is where the noise is added in wrong units.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fjx
from fjx import aggregators, clients, data, models, privacy, samplers
from fjx.privacy import auditing

CANARIES, EPSILON, DELTA, CLIP_NORM = 200, 2.0, 1e-5, 0.5

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=10)
args = parser.parse_args()

digits = data.digits(num_clients=20)
model = models.mlp(features=64, hidden=(64,), classes=10)
params = model.init(jax.random.key(0))
key_coins, key_canaries = jax.random.split(jax.random.key(1))
there = np.asarray(jax.random.bernoulli(key_coins, 0.5, (CANARIES,)))
canaries = auditing.canaries(key_canaries, params, count=CANARIES, norm=100.0)


def loss_fn(params, batch, key):
    """Of a real example what the model says; of a canary -<params, canary>: its step is constant."""
    real, metrics = model.loss(params, {"x": batch["x"], "y": batch["y"]}, key)
    mine = jax.tree.map(lambda c: c.at[batch["canary"][0]].get(mode="clip"), canaries)
    product = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, params, mine)))
    return jnp.where(batch["canary"][0] < 0, real, -product), metrics


def canary_client(i):
    return {"x": np.zeros((1, 64), np.float32), "y": np.zeros(1, np.int32), "canary": np.int32([i])}


people = [digits.client(i) for i in range(digits.num_clients)]
people = [{**person, "canary": np.full(len(person["y"]), -1, np.int32)} for person in people]
dataset = data.from_clients([*people, *map(canary_client, np.flatnonzero(there))])

denominator = dataset.num_clients
spent = {"rounds": args.rounds, "delta": DELTA}
z = privacy.calibrate(samplers.full(), epsilon=EPSILON, **spent)
mechanism = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=z)
claim = privacy.epsilon(mechanism, samplers.full(), **spent)
# The mistake: noise that was meant for the mean is added to the sum.
too_little = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=z / denominator)
mistaken = mechanism._replace(release=too_little.release)

client = clients.local_sgd(loss_fn, optax.sgd(0.3), epochs=1, batch_size=10)
print(f"claimed: {claim}")
for name, ran in {"as it is": mechanism, "with a mistake": mistaken}.items():
    algorithm = fjx.compose(client=client, aggregator=aggregators.private(ran, denominator))
    result = fjx.simulate(
        jax.random.key(2), algorithm, params, dataset, sampler=samplers.full(), rounds=args.rounds
    )
    moved = jax.tree.map(jnp.subtract, result.params, params)
    scores = np.asarray(auditing.scores(moved, canaries))
    bound = auditing.one_run(scores, there, delta=DELTA)
    verdict = "BROKEN: more than was claimed" if bound > claim else "no violation found"
    print(f"\n{name}: {verdict}\n  {bound}")
    print(f"  area under the ROC curve {auditing.auroc(scores[there], scores[~there]):.3f}")
