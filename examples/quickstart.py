"""One model, 100 clients, three ways to train it: what compression and privacy cost.

FedAvg at full precision, FedAvg with error-fed-back top-k in 8 bits, and DP-FedAvg, on scikit-learn's
handwritten digits split by Dirichlet(0.3) over labels.  Prints a table, and draws held-out accuracy
against rounds and against uplink bytes into quickstart.png.
"""

import argparse

import jax
from matplotlib.figure import Figure

import fjx
from fjx import algorithms, compressors, data, models, privacy, samplers, simulation

NUM_CLIENTS, COHORT, EPSILON, DELTA = 100, 20, 6.0, 1e-3

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=100)
parser.add_argument("--out", default="quickstart.png")
args = parser.parse_args()

dataset = data.digits(num_clients=NUM_CLIENTS, alpha=0.3)
model = models.mlp(features=64, hidden=(64,), classes=10)
params = model.init(jax.random.key(0))
evaluate = simulation.evaluation(model.evaluate, dataset.test)

local = {"client_lr": 0.3, "batch_size": 10, "epochs": 5}
sparse_int8 = compressors.chain(compressors.top_k(0.05), compressors.quantize(bits=8))
poisson = samplers.poisson(COHORT / NUM_CLIENTS)
spent = {"rounds": args.rounds, "delta": DELTA, "num_clients": NUM_CLIENTS}
gauss = {
    "clip_norm": 0.5,
    "noise_multiplier": privacy.calibrate(poisson, epsilon=EPSILON, **spent),
}
fedavg = algorithms.fedavg(model.loss, **local)
compressed = algorithms.fedavg(model.loss, uplink=compressors.error_feedback(sparse_int8), **local)
private = algorithms.dp_fedavg(model.loss, cohort_size=COHORT, **gauss, **local)
epsilon = privacy.epsilon(privacy.gaussian(**gauss), poisson, **spent)
runs = {
    "FedAvg": (fedavg, samplers.uniform(COHORT), "none"),
    "FedAvg, top 5 % in 8 bits": (compressed, samplers.uniform(COHORT), "none"),
    "DP-FedAvg": (private, poisson, f"{float(epsilon):.2f}"),
}

figure = Figure(figsize=(10, 4), layout="constrained")
axes = figure.subplots(1, 2, sharey=True)
heading = f"{'':26}{'accuracy':>9}{'up, kB':>9}{'down, kB':>9}{'up in all':>11}{'down in all':>12}"
lines = [heading + f"{'ratio':>7}{'epsilon':>9}{'compile':>9}{'run':>7}"]
for name, (algorithm, sampler, claim) in runs.items():
    print(name)
    result = fjx.simulate(
        jax.random.key(1), algorithm, params, dataset, sampler=sampler, rounds=args.rounds,
        evaluate=evaluate, evaluate_every=5, progress=True,
    )  # fmt: skip
    accuracy, at = result.history.evaluations["accuracy"], result.history.evaluated_at
    ledger, dense = result.ledger, fjx.wire.bits(params)
    lines.append(
        f"{name:26}{accuracy[-1]:9.1%}{ledger.traffic.uplink / 8e3:9.2f}"
        f"{ledger.traffic.downlink / 8e3:9.2f}{ledger.uplink / 8e6:8.2f} MB"
        f"{ledger.downlink / 8e6:9.2f} MB{dense / ledger.traffic.uplink:7.1f}{claim:>9}"
        f"{result.seconds.compiling:7.1f} s{result.seconds.running:5.1f} s"
    )
    axes[0].plot(at, accuracy, label=name)
    axes[1].semilogx(ledger.cumulative_uplink[at - 1] / 8e6, accuracy, label=name)

print("\n" + "\n".join(lines))
print(f"\nup and down: bytes of one client in one round.  DP-FedAvg: {epsilon}.")
print("Without noise there is no epsilon.  The accuracies printed here are not covered by it.")
axes[0].set(xlabel="round", ylabel="held-out accuracy", ylim=(0, 1))
axes[1].set(xlabel="uplink of all clients, MB")
axes[1].legend(loc="lower right")
figure.savefig(args.out, dpi=150)
print(f"wrote {args.out}")
