"""One model, 100 clients, three ways to train it: what compression and privacy cost.

The data are the handwritten digits of scikit-learn.  A Dirichlet(0.3) distribution over the labels
deals them to the clients, so most clients see few of the ten digits.  The same model is trained by

1. FedAvg at full precision;
2. FedAvg in which a client sends its largest 5 % of coordinates in 8 bits and remembers the rest
   for its next message (error feedback);
3. DP-FedAvg, whose Gaussian noise is calibrated to epsilon = 6 at delta = 0.001.

The script prints one row for each.  The columns are the held-out accuracy; the kilobytes of one
client in one round, up and down; the megabytes of all clients in all rounds, up and down; the dense
size of the model over one uplink message; epsilon; and the seconds spent on compiling and on
running.  It draws the accuracy against rounds and against uplink bytes into quickstart.png.
"""

import argparse

import jax
from matplotlib.figure import Figure

import fjx
from fjx import algorithms, compressors, data, models, privacy, samplers, simulation

NUM_CLIENTS = 100
COHORT_SIZE = 20
EPSILON = 6.0
DELTA = 1e-3
LOCAL_TRAINING = {"client_lr": 0.3, "batch_size": 10, "epochs": 5}

COLUMNS = (
    f"{'':26}{'accuracy':>9}{'up, kB':>9}{'down, kB':>9}{'up in all':>11}{'down in all':>12}"
    f"{'ratio':>7}{'epsilon':>9}{'compile':>9}{'run':>7}"
)


def row(name, result, params, epsilon):
    """One line of the table."""
    accuracy = result.history.evaluations["accuracy"][-1]
    ledger = result.ledger
    one_up = ledger.traffic.uplink  # bits of one client in one round
    one_down = ledger.traffic.downlink
    return (
        f"{name:26}{accuracy:9.1%}{one_up / 8e3:9.2f}{one_down / 8e3:9.2f}"
        f"{ledger.uplink / 8e6:8.2f} MB{ledger.downlink / 8e6:9.2f} MB"
        f"{fjx.wire.bits(params) / one_up:7.1f}{epsilon:>9}"
        f"{result.seconds.compiling:7.1f} s{result.seconds.running:5.1f} s"
    )


def draw(results, path):
    """Accuracy against rounds, and against the uplink of all clients."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    against_rounds, against_bytes = figure.subplots(1, 2, sharey=True)
    for name, result in results.items():
        rounds = result.history.evaluated_at
        accuracy = result.history.evaluations["accuracy"]
        megabytes = result.ledger.cumulative_uplink[rounds - 1] / 8e6
        against_rounds.plot(rounds, accuracy, label=name)
        against_bytes.semilogx(megabytes, accuracy, label=name)
    against_rounds.set(xlabel="round", ylabel="held-out accuracy", ylim=(0, 1))
    against_bytes.set(xlabel="uplink of all clients, MB")
    against_bytes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", default="quickstart.png")
    args = parser.parse_args()

    # Data and model.
    dataset = data.digits(num_clients=NUM_CLIENTS, alpha=0.3)
    model = models.mlp(features=64, hidden=(64,), classes=10)
    params = model.init(jax.random.key(0))
    evaluate = simulation.evaluation(model.evaluate, dataset.test)

    # The three algorithms, and who takes part in their rounds.
    fedavg = algorithms.fedavg(model.loss, **LOCAL_TRAINING)

    sparse_int8 = compressors.chain(compressors.top_k(0.05), compressors.quantize(bits=8))
    compressed = algorithms.fedavg(
        model.loss, uplink=compressors.error_feedback(sparse_int8), **LOCAL_TRAINING
    )

    poisson = samplers.poisson(COHORT_SIZE / NUM_CLIENTS)
    spent = {"rounds": args.rounds, "delta": DELTA, "num_clients": NUM_CLIENTS}
    noise = {
        "clip_norm": 0.5,
        "noise_multiplier": privacy.calibrate(poisson, epsilon=EPSILON, **spent),
    }
    private = algorithms.dp_fedavg(model.loss, cohort_size=COHORT_SIZE, **noise, **LOCAL_TRAINING)
    epsilon = privacy.epsilon(privacy.gaussian(**noise), poisson, **spent)

    runs = {
        "FedAvg": (fedavg, samplers.uniform(COHORT_SIZE), "none"),
        "FedAvg, top 5 % in 8 bits": (compressed, samplers.uniform(COHORT_SIZE), "none"),
        "DP-FedAvg": (private, poisson, f"{float(epsilon):.2f}"),
    }

    # Each is one call of `simulate`.
    results, table = {}, [COLUMNS]
    for name, (algorithm, sampler, claim) in runs.items():
        print(name)
        results[name] = fjx.simulate(
            jax.random.key(1),
            algorithm,
            params,
            dataset,
            sampler=sampler,
            rounds=args.rounds,
            evaluate=evaluate,
            evaluate_every=5,
            progress=True,
        )
        table.append(row(name, results[name], params, claim))

    print("\n" + "\n".join(table))
    print(f"\nup and down: bytes of one client in one round.  DP-FedAvg: {epsilon}.")
    print("Without noise there is no epsilon.  The accuracies printed here are not covered by it.")
    draw(results, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
