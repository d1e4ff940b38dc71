"""A model of people's activities, trained under secure sums from which people drop out.

18 people are the clients, as in ``phone_har.py``.  Their messages are rotated and rounded to integers of
16 bits, which a protocol adds between parties.  In each round two of the people leave after they have
shared their secrets and before they send their message.

The script trains the same model under three protocols.  It says if the model is that of the compiled
simulation with the same dropouts, to the bit.  It prints the rounds that were given up, the kilobytes
that a person sends and is sent in a round, and the accuracy in % on the later windows of these people.

    FJX_DATA=folder/of/phone_har.npz python examples/secure_phones.py --rounds 20
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from phone_har import DEFAULT_FILE, accuracies, load

import fjx
from fjx import aggregators, clients, models, samplers, secure

PROTOCOLS = {
    "two servers": secure.two_servers(),
    "SecAgg+": secure.secagg_plus(adversary_rate=0.1, dropout_rate=0.2),
    "LightSecAgg": secure.lightsecagg(dropout_rate=0.2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=DEFAULT_FILE)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()

    train, later, _ = load(args.data)
    people = train.num_clients
    model = models.sensor_cnn(widths=(8,))
    params = model.init(jax.random.key(0))
    integers = aggregators.integer_mean(1e-4, bits=16, clients=people)
    algorithm = fjx.compose(
        client=clients.local_sgd(model.loss, optax.sgd(0.1), steps=5, batch_size=20),
        aggregator=aggregators.rotated(integers),
    )

    # Two other people leave in each round.
    everybody = np.tile(np.arange(people), (args.rounds, 1))
    gone = np.random.default_rng(0).permuted(everybody, axis=1)[:, :2]

    def steps_of(round, ids):
        left = jnp.any(ids[:, None] == jnp.asarray(gone)[round][None, :], axis=1)
        return jnp.where(left, 0, 1)  # of the only step of a plain sum

    same = {"sampler": samplers.full(), "rounds": args.rounds}
    thinned = secure.simulated(algorithm, secure.plain(), train, clients=people, leaves=steps_of)
    simulated = fjx.simulate(jax.random.key(1), thinned, params, train, **same)

    print(f"{'':<14}{'same model':>11}{'given up':>10}{'kB up':>8}{'kB down':>9}{'accuracy':>10}")
    for name, protocol in PROTOCOLS.items():
        step = protocol.steps.index("input")
        found = secure.run(
            jax.random.key(1),
            algorithm,
            params,
            train,
            protocol=protocol,
            leaves=lambda round, ids, step=step: dict.fromkeys(gone[round].tolist(), step),
            **same,
        )
        equal = jax.tree.map(lambda a, b: bool((a == b).all()), found.params, simulated.params)
        answer = "yes" if all(jax.tree.leaves(equal)) else "no"
        given_up = sum(one.aborted is not None for one in found.rounds)
        up, down = (n / people / args.rounds / 1e3 for n in (found.bill.up, found.bill.down))
        accuracy = np.mean(accuracies(model, found.params, later))
        print(f"{name:<14}{answer:>11}{given_up:>10}{up:>8.1f}{down:>9.1f}{accuracy:>10.1f}")


if __name__ == "__main__":
    main()
