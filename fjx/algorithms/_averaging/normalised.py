"""FedNova and FedShuffle: clients that make different numbers of steps count as they should."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from fjx import _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate, Examples, Key, Tree, Turn
from fjx.algorithms._told import scaled, told
from fjx.clients import LossFn, Trained, telling
from fjx.clients import _optimizer as local
from fjx.clients._by_round import following
from fjx.clients._made import made
from fjx.rounds._compose import OpenParts, compose
from fjx.servers._sgd import server_sgd


def fednova(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.sgd,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedNova: FedAvg that normalises each update by the client's accumulated step size.

    A client of more steps moves further, so FedAvg minimises another objective than the mean loss.  Let
    Delta_i be the update of client i and a_i the weights of its gradients in it.  FedNova averages the
    directions Delta_i / ||a_i||_1 and walks the mean length:

    .. math::
        x \leftarrow x + \tau_{\mathrm{eff}} \sum_i p_i \frac{\Delta_i}{\lVert a_i \rVert_1},
        \qquad \tau_{\mathrm{eff}} = \sum_i p_i \lVert a_i \rVert_1, \quad p_i = n_i / n

    The factor ||a_i||_1 is measured: it is the way that the client's optimiser walks, in as many steps,
    if each gradient is one.  So it is the paper's for every optimiser that is linear in the gradient,
    such as SGD, momentum and the proximal term, and for schedules of steps.  For others, such as Adam,
    it is a convention.

    Guarantees:
        - If all clients make the same number of steps it is FedAvg with that optimiser, up to rounding.
        - Where clients differ in steps its fixed point is that of the mean loss, up to the drift within
          a round, which vanishes with the step size.

    Bits:
        Those of the update, and 32 for ||a_i||_1.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        optimizer: function of the step size that returns the clients' optimiser, such as
            ``lambda lr: optax.sgd(lr, momentum=0.9)``, or
            ``lambda lr: optax.chain(clients.proximal(0.1), optax.sgd(lr))``.
        server_lr: step size of the server, or a schedule ``(round) -> step size``; the paper's is 1.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink`` of the update, ``downlink``,
            ``aggregator`` of ``{"update", "length"}``, which may not be private.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: ``aggregator`` is private.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fednova(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Wang, Liu, Liang, Joshi, Poor, *Tackling the Objective Inconsistency Problem in Heterogeneous
        Federated Optimization*, NeurIPS 2020 (arXiv:2007.07481), equations 7 to 9.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: Any) -> ClientUpdate:
        # Optax casts a rate that is a function to the dtype of the gradient.
        descent = optimizer((lambda _: rate) if callable(client_lr) else rate)
        trained = clients.local_sgd(loss_fn, descent, epochs=epochs, batch_size=batch_size)

        def tell(done: Trained) -> tuple[Tree, dict[str, Array]]:
            length = way(descent, done.metrics["steps"])
            return scaled(1 / jnp.where(length > 0, length, 1.0), done.update), {"length": length}

        return telling(trained, tell, length=jnp.float32)

    return told(
        client=following(client_lr, client),
        server=server_sgd(server_lr),
        step=lambda mean: scaled(mean["length"], mean["update"]),
        **parts,
    )


def way(optimizer: optax.GradientTransformation, steps: Array) -> Array:
    """``f32[]``: the way that an optimiser walks in so many steps if each gradient is one."""
    optimizer, start = local.as_local(optimizer), jnp.zeros((), jnp.float32)

    def step(_: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        x, state = carry
        return local.descend(optimizer, jnp.ones_like(x), state, x)

    carry = start, local.begin(optimizer, start)
    x, state = jax.lax.fori_loop(0, steps.astype(jnp.int32), step, carry)
    return -local.finish(optimizer, state, x)


def fedshuffle(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedShuffle: FedAvg whose clients divide the step size by their number of steps.

    All clients walk equally far, however many batches they have, so that the mean update points along
    the gradient of the mean loss.  Client i makes K_i steps of

    .. math:: y \leftarrow y - (\eta / K_i) \nabla F_i(y; \mathrm{batch})

    FedNova divides afterwards by the number of steps.  FedShuffle divides each step, so a client with
    many batches drifts no further than others.

    Guarantees:
        - If every client has K batches it is FedAvg with step size eta / K, up to rounding.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta of a client's round in all, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes, each in a fresh random order.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedshuffle(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Horvath, Sanjabi, Xiao, Richtarik, Rabbat, *FedShuffle: Recipes for Better Use of Local Work in
        Federated Learning*, TMLR 2022 (arXiv:2204.13169), algorithm 1 without momentum.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)
    _validate.integer("epochs", epochs, at_least=1)

    def local_sgd(rate: Any) -> ClientUpdate:
        descent = optax.sgd(lambda _: rate)
        return clients.local_sgd(loss_fn, descent, epochs=epochs, batch_size=batch_size)

    def client(rate: Any) -> ClientUpdate:
        def work(key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn) -> Any:
            steps = jnp.maximum(epochs * -(-examples.size // batch_size), 1)
            return local_sgd(jnp.asarray(rate, jnp.float32) / steps.astype(jnp.float32)).update

        return local_sgd(1.0)._replace(update=made(work))

    return compose(client=following(client_lr, client), server=server_sgd(server_lr), **parts)
