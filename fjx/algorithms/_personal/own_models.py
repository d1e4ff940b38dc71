"""Ditto, MR-MTL, APFL and pFedMe: a model of its own for each client, near a common one."""

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate, Examples, Key, Metrics, Tree, Turn
from fjx._kernels.permutation import shuffle
from fjx.clients import LossFn
from fjx.clients._by_round import following, rounds_of
from fjx.clients._envelopes import mixed, mixture_loss, moreau, require_stateless
from fjx.clients._minibatch import client_sgd
from fjx.clients._parts import keeping
from fjx.clients._personal import around_mean, beside, held_near
from fjx.clients._sgd import batch_at
from fjx.rounds._compose import OpenParts, compose
from fjx.servers._sgd import server_sgd


def ditto(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    lam: float | Array = 1.0,
    personal_lr: float | Array | optax.Schedule | None = None,
    personal_epochs: int | None = None,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""Ditto: FedAvg, and beside it a model of each client that is held near the common one.

    In each round a client trains the common model w as in :func:`fedavg`, and its own model v_k by SGD
    on

    .. math:: F_k(v_k) + (\lambda / 2) \, ||v_k - w||^2

    Guarantees:
        - The common model is that of :func:`fedavg`, bit for bit.
        - With lam = 0 a client's own model is trained on its examples alone.
        - As lam grows (and the step size shrinks like 1 / lam) the own models approach the common one.

    Bits:
        Those of :func:`fedavg`: own models stay on the clients.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes over the common model.
        lam: strength lambda of the pull towards the common model.  SGD needs ``lam`` times the step size
            below 2.
        personal_lr: step size of the own model; that of the common model by default.
        personal_epochs: number of local passes over the own model; as many by default.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`; ``algorithm.model_of(state, row)`` is a client's own model.  The
        metric ``personal_loss`` is the loss of the own models while they train.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.ditto(
        ...     lambda w, x, key: (w - x).mean(), lam=0.5, client_lr=0.1, batch_size=10)

    References:
        Li, Hu, Beirami, Smith, *Ditto: Fair and Robust Federated Learning Through Personalization*,
        ICML 2021 (arXiv:2012.04221), algorithm 1.
    """
    _validate.number("lam", lam, at_least=0)
    own_lr = client_lr if personal_lr is None else personal_lr
    own_epochs = epochs if personal_epochs is None else personal_epochs

    def own(common: Tree) -> ClientUpdate:
        return client_sgd(loss_fn, own_lr, own_epochs, batch_size, held_near(common, lam))

    lengths = [n for n in map(rounds_of, (client_lr, own_lr)) if n is not None]
    client = beside(client_sgd(loss_fn, client_lr, epochs, batch_size), own)
    return compose(
        client=client._replace(rounds=min(lengths, default=None)),
        server=server_sgd(server_lr),
        **parts,
    )


def mr_mtl(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    lam: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""MR-MTL: a model for each client, held near the mean of all.

    There is no other common model.  In each round a client trains its own model v_k by SGD on

    .. math:: F_k(v_k) + (\lambda / 2) \, ||v_k - \bar v||^2

    and the server takes the mean of the models of the round.

    Guarantees:
        - With lam = 0 every client trains on its own examples alone.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        lam: strength lambda of the pull towards the mean.  SGD needs step size times lam below 2.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.  The
            mean is weighted by examples by default; the paper's is ``aggregators.uniform(mean())``.

    Returns:
        An :class:`fjx.Algorithm`; ``algorithm.model_of(state, row)`` is a client's own model.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.mr_mtl(
        ...     lambda w, x, key: (w - x).mean(), lam=0.5, client_lr=0.1, batch_size=10)

    References:
        Liu, Hu, Wu, Smith, *On Privacy and Personalization in Cross-Silo Federated Learning*, NeurIPS
        2022 (arXiv:2206.07902), section 5.
    """
    _validate.number("lam", lam, at_least=0)

    def own(mean: Tree) -> ClientUpdate:
        return client_sgd(loss_fn, client_lr, epochs, batch_size, held_near(mean, lam))

    client = around_mean(own)._replace(rounds=rounds_of(client_lr))
    return compose(client=client, server=server_sgd(1.0), **parts)


def apfl(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    alpha: float | Array = 0.5,
    adaptive: bool = False,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""APFL: each client uses a mixture of its own model and the common one.

    A client uses alpha v + (1 - alpha) w.  In each local step the common model w moves along the
    gradient of its own loss, and v along that of the mixture's loss:

    .. math::
        w \leftarrow w - \eta \nabla f(w), \quad
        v \leftarrow v - \eta \alpha \nabla f(\alpha v + (1 - \alpha) w)

    With ``adaptive`` each client learns its alpha as well, by the same steps, within [0, 1].

    Guarantees:
        - The common model is that of :func:`fedavg`.
        - With alpha = 0 the clients use the common model; with alpha = 1 their own, trained alone.

    Bits:
        Those of :func:`fedavg`: own models stay on the clients.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        alpha: weight alpha of the own model, in [0, 1]; the first one if ``adaptive``.
        adaptive: True if each client learns its own alpha.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`; ``algorithm.model_of(state, row)`` is a client's mixture.  Its metrics
        ``personal_loss`` and ``mixing`` are the loss of the mixtures and alpha.

    Raises:
        ValueError: ``alpha`` is not in [0, 1].
        TypeError: the model has mutable state (from ``init_client``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.apfl(
        ...     lambda w, x, key: (w - x).mean(), alpha=0.25, client_lr=0.1, batch_size=10)

    References:
        Deng, Kamani, Mahdavi, *Adaptive Personalized Federated Learning*, 2020 (arXiv:2003.13461),
        algorithm 1.
    """
    _validate.number("alpha", alpha, at_least=0, at_most=1)
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)
    loss = mixture_loss(loss_fn, adaptive=adaptive)

    def own(params: Tree) -> Tree:
        require_stateless("apfl", params)
        return {"own": params, "mixing": jnp.asarray(alpha, jnp.float32)}

    def client(rate: float | Array) -> ClientUpdate:
        descent = optax.chain(optax.sgd(lambda _: rate), _mixing_in_unit_interval())
        return keeping(
            clients.local_sgd(loss, descent, epochs=epochs, batch_size=batch_size),
            own=own,
            join=lambda shared, own: {"shared": shared, **own},
            split=lambda both: (both["shared"], {k: both[k] for k in ("own", "mixing")}),
            uses=lambda shared, own: mixed(shared, own["own"], own["mixing"]),
        )

    return compose(client=following(client_lr, client), server=server_sgd(server_lr), **parts)


def _mixing_in_unit_interval() -> optax.GradientTransformation:
    """Shortens the step of ``"mixing"`` at the ends of [0, 1]."""

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        assert params is not None
        alpha = params["mixing"]
        step = jnp.clip(alpha + updates["mixing"], 0.0, 1.0) - alpha
        return {**updates, "mixing": step}, state

    return optax.GradientTransformation(lambda params: (), update)


def pfedme(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    lam: float | Array = 15.0,
    personal_lr: float | Array = 0.05,
    personal_steps: int = 5,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""pFedMe: FedAvg on the Moreau envelopes of the clients' losses.

    For each batch a client finds its personal model by K gradient steps from w, and moves w towards it:

    .. math::
        \theta \approx \arg\min_\theta f(\theta) + (\lambda / 2) \, ||\theta - w||^2, \quad
        w \leftarrow w - \eta \lambda (w - \theta)

    Guarantees:
        - With one step of step size 1 / lam it is :func:`fedavg`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta of w, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        lam: strength lambda, positive.
        personal_lr: step size of the personal model.  Gradient steps need it below 2 / (L + lam) for a
            loss of smoothness L.
        personal_steps: number K of steps of the personal model for each batch.
        server_lr: step size beta of the server.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`; ``algorithm.model_of(state, row)`` is a client's personal model of the
        last round in which it took part, found on one more batch from its last w.  The metric ``loss``
        is that of the envelope.

    Raises:
        ValueError: a number is out of range.
        TypeError: the model has mutable state (from ``init_client``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.pfedme(
        ...     lambda w, x, key: (w - x).mean(), lam=15.0, client_lr=0.01, batch_size=10)

    References:
        Dinh, Tran, Nguyen, *Personalized Federated Learning with Moreau Envelopes*, NeurIPS 2020
        (arXiv:2006.08848), algorithm 1.
    """
    _validate.number("lam", lam, above=0)
    _validate.number("personal_lr", personal_lr, above=0)
    steps = _validate.static_integer("personal_steps", personal_steps, at_least=1)
    envelope = moreau(loss_fn, lam=lam, steps=steps, rate=personal_lr)
    train = client_sgd(envelope.loss, client_lr, epochs, batch_size)

    def init(params: Tree) -> Tree:
        require_stateless("pfedme", params)
        return params

    def update(
        key: Key, broadcast: Tree, theta: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        key_own = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        message, _, metrics = train.update(key, broadcast, (), examples, turn)
        key_batch, key_loss = jax.random.split(key_own)
        batch, mask = batch_at(shuffle(key_batch), examples, jnp.int32(0), batch_size)
        found = envelope.solve(_tree.add(broadcast, message), batch, mask, key_loss)
        return message, _tree.where(examples.size > 0, found, theta), metrics

    client = train._replace(init=init, update=update, personal=lambda broadcast, theta: theta)
    return compose(client=client, server=server_sgd(server_lr), **parts)
