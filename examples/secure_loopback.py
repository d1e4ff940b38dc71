"""A secure sum between processes: three clients and a server, on sockets of the loopback interface.

Every client is a process that has its own examples only.  In each round

1. the server sends the model and the facts of the session,
2. each client trains, rounds its contribution to integers and masks it,
3. the steps of SecAgg+ follow, and the server gets the sum of the integers and nothing else.

The transport is a pair of functions that move frames: four bytes of length, then the message.  The
script ends with the same rounds under `fjx.simulate`, and compares the models bit for bit.

Clients are people with phones if FJX_DATA names the folder of phone_har.npz, else handwritten digits.

A deployment needs more: a way for clients to know the server's key (here it comes over the same
socket), time limits for clients that fall silent, and a review.

    python examples/secure_loopback.py --rounds 3
"""

import argparse
import multiprocessing
import os
import pathlib
import socket
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jax.flatten_util import ravel_pytree

import fjx
from fjx import aggregators, clients, data, models, samplers, secure

CLIENTS = 3
SERVER = 2**32 - 1  # the server's address; a client's is its number
KEY = 1
PROTOCOL = secure.secagg_plus()
PHONES = pathlib.Path(os.environ.get("FJX_DATA", "."), "phone_har.npz")


# --------------------------------------------------------------------------------------------------
# Facts that server and clients have in common
# --------------------------------------------------------------------------------------------------


def examples() -> list[dict[str, np.ndarray]]:
    """The examples of each client."""
    if PHONES.is_file():
        with np.load(PHONES) as file:
            x, y, subject = file["x"].astype(np.float32), file["y"], file["subject"]
        x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
        people = np.unique(subject)[:CLIENTS]
        # Every eighth reading of a window is enough for a quick linear model.
        x = x[:, ::8].reshape(len(x), -1)
        return [{"x": x[subject == name], "y": y[subject == name]} for name in people]
    digits = data.digits(num_clients=CLIENTS)
    return [jax.tree.map(np.asarray, digits.client(i)) for i in range(CLIENTS)]


def problem(rows):
    """The dataset, the algorithm and the initial model."""
    features, classes = rows[0]["x"].shape[1], 10
    model = models.logistic_regression(features=features, classes=classes)
    algorithm = fjx.compose(
        client=clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20),
        aggregator=aggregators.integer_mean(0.001, bits=12, clients=CLIENTS),
    )
    return data.from_clients(rows), algorithm, model.init(jax.random.key(0))


def inputs(number, algorithm, state, params, dataset):
    """The inputs of both halves of a round; the keys are those of `fjx.simulate`."""
    row = algorithm.init_client(params)
    table = jax.tree.map(lambda x: jnp.stack([x] * CLIENTS), row)
    cohort = dataset.cohort(jnp.arange(CLIENTS, dtype=jnp.int32))
    return jax.random.fold_in(jax.random.key(KEY), number), state, table, cohort


# --------------------------------------------------------------------------------------------------
# The transport: frames on sockets
# --------------------------------------------------------------------------------------------------


def write_frame(stream: socket.socket, message: bytes) -> None:
    stream.sendall(struct.pack("<I", len(message)) + message)


def read_frame(stream: socket.socket) -> bytes:
    (size,) = struct.unpack("<I", read_exactly(stream, 4))
    return read_exactly(stream, size)


def read_exactly(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = stream.recv(size - len(found))
        if not part:
            raise ConnectionError("the other end has closed its socket")
        found += part
    return found


def of_server(streams: dict[int, socket.socket]) -> secure.Transport:
    """The server's end: a message of every client, and messages to each."""
    return secure.Transport(
        send=lambda receiver, message: write_frame(streams[receiver], message),
        receive=lambda receiver: [read_frame(stream) for stream in streams.values()],
    )


def of_client(stream: socket.socket) -> secure.Transport:
    """A client's end: one socket, to the server."""
    return secure.Transport(
        send=lambda receiver, message: write_frame(stream, message),
        receive=lambda receiver: [read_frame(stream)],
    )


# --------------------------------------------------------------------------------------------------
# The parties
# --------------------------------------------------------------------------------------------------


def session_of(number: int, id: bytes, public: bytes, length: int) -> secure.Session:
    return secure.Session(PROTOCOL.name, id, number, CLIENTS, length, 32, (public,))


def client(number: int, port: int, rounds: int) -> None:
    """One client: a process that knows its own examples and what the server sends."""
    rows = examples()
    # The arrays of all others are zeros: their shapes make the program that of the simulation.
    own = [x if i == number else jax.tree.map(np.zeros_like, x) for i, x in enumerate(rows)]
    del rows
    dataset, algorithm, params = problem(own)
    state = algorithm.init(params)
    flat, unflatten = ravel_pytree(state)
    parts = secure.halves(algorithm)
    with socket.create_connection(("127.0.0.1", port)) as stream:
        write_frame(stream, struct.pack("<I", number))
        transport = of_client(stream)
        for turn in range(rounds):
            (opening,) = transport.receive(number)
            id, public, state_bytes = opening[:16], opening[16:48], opening[48:]
            state = unflatten(jnp.asarray(np.frombuffer(state_bytes, flat.dtype)))
            given = inputs(turn, algorithm, state, params, dataset)
            each, _ = parts.clients(*given)
            layout = secure.Layout.of_round(parts, *given)
            vector = layout.vectors(jax.tree.map(lambda x: x[number : number + 1], each), 32)[0]
            session = session_of(turn, id, public, layout.size)
            party = PROTOCOL.client(session, number, vector.view(np.uint32), os.urandom(32), None)
            for step in range(len(PROTOCOL.steps)):
                received = transport.receive(number) if step else []
                party, messages = PROTOCOL.send(party, received)
                for receiver, message in messages.items():
                    transport.send(receiver, message)


def serve(listener: socket.socket, rounds: int):
    """The server: the model after some rounds, and the bytes that it has read in its sums."""
    dataset, algorithm, params = problem(examples())
    # The server needs shapes and public facts only.
    dataset = data.from_clients(
        [jax.tree.map(np.zeros_like, dataset.client(i)) for i in range(CLIENTS)]
    )
    state = algorithm.init(params)
    parts = secure.halves(algorithm)
    streams = {}
    while len(streams) < CLIENTS:
        stream, _ = listener.accept()
        (number,) = struct.unpack("<I", read_frame(stream))
        streams[number] = stream
    transport, bytes_read = of_server(streams), 0
    for turn in range(rounds):
        given = inputs(turn, algorithm, state, params, dataset)
        layout = secure.Layout.of_round(parts, *given)
        private, id = os.urandom(32), os.urandom(16)
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        opening = id + public + np.asarray(ravel_pytree(state)[0]).tobytes()
        for number in streams:
            transport.send(number, opening)
        party = PROTOCOL.server(session_of(turn, id, public, layout.size), SERVER, private)
        for _ in PROTOCOL.steps:
            received = transport.receive(SERVER)
            bytes_read += sum(map(len, received))
            party, messages = PROTOCOL.answer(party, received)
            for receiver, message in messages.items():
                transport.send(receiver, message)
        total, survivors = PROTOCOL.outcome(party)
        assert len(survivors) == CLIENTS
        # Clients keep their losses to themselves; the server's half is given zeros for them.
        kept = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(parts.clients, *given)[1]
        )
        state, _, _ = parts.server(*given, layout.totals(total, total.view(np.int32)), kept)
    for stream in streams.values():
        stream.close()
    return state, bytes_read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds

    socket.setdefaulttimeout(120)  # a party that fails ends the run
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        processes = [
            context.Process(target=client, args=(i, port, rounds), daemon=True)
            for i in range(CLIENTS)
        ]
        for process in processes:
            process.start()
        start = time.perf_counter()
        state, bytes_read = serve(listener, rounds)
        seconds = time.perf_counter() - start
        for process in processes:
            process.join()

    dataset, algorithm, params = problem(examples())
    simulated = fjx.simulate(
        jax.random.key(KEY), algorithm, params, dataset, sampler=samplers.full(), rounds=rounds
    )
    found, expected = jax.tree.leaves(state), jax.tree.leaves(simulated.state.algorithm)
    same = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    moved = not np.array_equal(ravel_pytree(simulated.params)[0], ravel_pytree(params)[0])
    print(f"{CLIENTS} clients, {rounds} rounds of SecAgg+ on loopback: {seconds:.1f} s")
    print(f"{bytes_read / 1000 / CLIENTS / rounds:.1f} kB of each client in each round")
    print(f"same state as fjx.simulate, to the bit: {same and moved}")
    if not (same and moved):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
