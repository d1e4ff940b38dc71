"""FedAvg on a dataset in a folder, over as many processes as the job has."""

import argparse
import os

import jax

import fjx
from fjx import algorithms, compressors, data, models, samplers, simulation


def join() -> None:
    """Makes one computation of the processes of a job; a process alone is one already."""
    # How CPUs talk to each other; accelerators have their own way.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        jax.distributed.initialize()  # knows SLURM: one process for each device
    elif int(os.environ.get("PROCESSES", 1)) > 1:
        jax.distributed.initialize(
            os.environ["COORDINATOR"],
            num_processes=int(os.environ["PROCESSES"]),
            process_id=int(os.environ["JOB_COMPLETION_INDEX"]),
        )


def main() -> None:
    """Trains, and says how well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="a folder that data.save wrote")
    parser.add_argument("--checkpoint", help="a folder that all processes see")
    parser.add_argument(
        "--table", required=True, help="a folder for clients' states, on a local disk"
    )
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=100, help="in a round")
    options = parser.parse_args()
    join()

    dataset = data.open(options.data)
    model = models.mlp(features=64, hidden=(200,), classes=10)
    algorithm = algorithms.fedavg(
        model.loss,
        client_lr=0.1,
        batch_size=20,
        uplink=compressors.error_feedback(compressors.top_k(0.01)),
    )
    result = fjx.simulate(
        jax.random.key(0),
        algorithm,
        model.init(jax.random.key(1)),
        dataset,
        sampler=samplers.uniform(options.clients),
        rounds=options.rounds,
        evaluate=simulation.evaluation(model.evaluate, dataset.test),
        evaluate_every=10,
        table=simulation.mapped_table(options.table),
        checkpoint=options.checkpoint,
    )
    if jax.process_index() == 0:
        scores = {name: float(x[-1]) for name, x in result.history.evaluations.items()}
        print(result.stopped, int(result.state.round), scores)


if __name__ == "__main__":
    main()
