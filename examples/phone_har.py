"""Activities of people from the sensors in their phones: federated training, person by person.

23 people are the clients (Matey-Sanz, Casteleyn, Granell, *Data in Brief* 2023, 109809; CC BY 4.0).
Every fifth of them, from the third on, is held out: the model never sees these 5 people.  Of the
other 18, the last fifth of the windows is held out.  The windows of a person overlap by half, so they
are split by time, and the one at the border is dropped; a random split would test on seen readings.

    FJX_DATA=folder/of/phone_har.npz python examples/phone_har.py --rounds 60
"""

import argparse
import os
import pathlib

import jax
import numpy as np
import optax

import fjx
from fjx import clients, compressors, data, models, samplers, simulation


def load(path: pathlib.Path) -> tuple[data.FederatedData, ...]:
    """The training windows of 18 people, their last windows, and the windows of 5 other people."""
    if not path.is_file():
        raise SystemExit(f"no {path}: name its folder in FJX_DATA, or the file with --data")
    with np.load(path) as file:
        x, y, subject = file["x"].astype(np.float32), file["y"], file["subject"]
    people = [np.flatnonzero(subject == name) for name in np.unique(subject)]
    known = [rows for i, rows in enumerate(people) if i % 5 != 2]
    cuts = [4 * len(rows) // 5 for rows in known]
    train = [rows[: cut - 1] for rows, cut in zip(known, cuts, strict=True)]
    later = [rows[cut:] for rows, cut in zip(known, cuts, strict=True)]
    seen = x[np.concatenate(train)]  # channels are standardised by what training may see
    x = (x - seen.mean(axis=(0, 1))) / seen.std(axis=(0, 1))
    return tuple(
        data.from_clients([{"x": x[rows], "y": y[rows]} for rows in group])
        for group in (train, later, people[2::5])
    )


def main() -> None:
    """Trains with and without compression, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(os.environ.get("FJX_DATA", "."), "phone_har.npz")
    parser.add_argument("--data", type=pathlib.Path, default=default, help="phone_har.npz")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()

    train, later, others = load(arguments.data)
    model = models.sensor_cnn()
    params = model.init(jax.random.key(0))
    client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
    sparse = compressors.chain(compressors.top_k(0.05), compressors.quantize(bits=8))
    uplinks = {"as they are": None, "top 5 %, 8 bits": compressors.error_feedback(sparse)}

    print(f"{'accuracy in %':<16}{'later':>7}{'new people, each':>32}{'mean':>7}{'uplink MB':>11}")
    for name, uplink in uplinks.items():
        algorithm = fjx.compose(client=client, uplink=uplink)
        result = fjx.simulate(
            jax.random.key(1),
            algorithm,
            params,
            train,
            sampler=samplers.full(),
            rounds=arguments.rounds,
        )
        scores = [simulation.per_client(model.evaluate, g)(result.params) for g in (later, others)]
        known, new = (100 * np.asarray(score["accuracy"]) for score in scores)
        known = np.average(known, weights=later.sizes)
        each = "".join(f"{accuracy:6.1f}" for accuracy in new)
        megabytes = result.ledger.uplink / 8e6
        print(f"{name:<16}{known:7.1f}{each:>32}{new.mean():7.1f}{megabytes:11.2f}")


if __name__ == "__main__":
    main()
