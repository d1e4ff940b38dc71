"""Activities of people from the sensors in their phones: federated training, person by person.

23 people are the clients (Matey-Sanz, Casteleyn, Granell, *Data in Brief* 2023, 109809; CC BY 4.0).
Two kinds of data are held out:

- 5 people that the model never sees: every fifth person, from the third on;
- the last fifth of the windows of each of the other 18 people.

The windows of a person overlap by half.  They are therefore split by time, and the one at the
border is dropped; a random split would test on readings that training has seen.

The script trains with all 18 people in every round, once with messages at full precision and once
with the largest 5 % of their coordinates in 8 bits (with error feedback).  It prints the accuracy
on the later windows of known people, on each new person and in their mean, and the uplink of all
clients together.

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

DEFAULT_FILE = pathlib.Path(os.environ.get("FJX_DATA", "."), "phone_har.npz")


def load(path: pathlib.Path) -> tuple[data.FederatedData, ...]:
    """The training windows of 18 people, their last windows, and the windows of 5 other people."""
    if not path.is_file():
        raise SystemExit(f"no {path}: name its folder in FJX_DATA, or the file with --data")
    with np.load(path) as file:
        x, y, subject = file["x"].astype(np.float32), file["y"], file["subject"]

    # The rows of each person: of those who train, and of those whom the model never sees.
    people = [np.flatnonzero(subject == name) for name in np.unique(subject)]
    known = [rows for i, rows in enumerate(people) if i % 5 != 2]
    others = people[2::5]

    # The first four fifths of a person's windows train; the window at the border is dropped.
    cuts = [4 * len(rows) // 5 for rows in known]
    train = [rows[: cut - 1] for rows, cut in zip(known, cuts, strict=True)]
    later = [rows[cut:] for rows, cut in zip(known, cuts, strict=True)]

    # Channels are standardised by what training may see.
    seen = x[np.concatenate(train)]
    x = (x - seen.mean(axis=(0, 1))) / seen.std(axis=(0, 1))

    return tuple(
        data.from_clients([{"x": x[rows], "y": y[rows]} for rows in group])
        for group in (train, later, others)
    )


def accuracies(model, params, dataset):
    """The accuracy in % on each client of a dataset."""
    scores = simulation.per_client(model.evaluate, dataset)(params)
    return 100 * np.asarray(scores["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=DEFAULT_FILE, help="phone_har.npz")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()

    train, later, others = load(args.data)
    model = models.sensor_cnn()
    params = model.init(jax.random.key(0))

    client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
    sparse_int8 = compressors.chain(compressors.top_k(0.05), compressors.quantize(bits=8))
    uplinks = {
        "as they are": None,
        "top 5 %, 8 bits": compressors.error_feedback(sparse_int8),
    }

    print(f"{'accuracy in %':<16}{'later':>7}{'new people, each':>32}{'mean':>7}{'uplink MB':>11}")
    for name, uplink in uplinks.items():
        result = fjx.simulate(
            jax.random.key(1),
            fjx.compose(client=client, uplink=uplink),
            params,
            train,
            sampler=samplers.full(),
            rounds=args.rounds,
        )
        known = np.average(accuracies(model, result.params, later), weights=later.sizes)
        new = accuracies(model, result.params, others)
        each = "".join(f"{accuracy:6.1f}" for accuracy in new)
        megabytes = result.ledger.uplink / 8e6
        print(f"{name:<16}{known:7.1f}{each:>32}{new.mean():7.1f}{megabytes:11.2f}")


if __name__ == "__main__":
    main()
