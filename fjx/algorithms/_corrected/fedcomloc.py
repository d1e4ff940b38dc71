"""FedComLoc: Scaffnew with models that are compressed when sent, trained or received."""

import jax

from fjx import _tree
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Compressor,
    Contract,
    Examples,
    Key,
    Metrics,
    Tree,
    Turn,
)
from fjx.aggregators import mean, uniform
from fjx.algorithms._corrected.scaffnew import between_coins
from fjx.algorithms._refuse import MEMORY, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import identity
from fjx.compressors._shapes import require_compressor
from fjx.rounds._compose import compose
from fjx.wire import SideInformation


@fixes(aggregator=MEMORY)
def fedcomloc(
    loss_fn: LossFn,
    *,
    p: float | Array,
    learning_rate: float | Array,
    batch_size: int,
    uplink: Compressor | None = None,
    local: Compressor | None = None,
    downlink: Compressor | None = None,
    seed: int | Array = 0,
) -> Algorithm:
    """FedComLoc: Scaffnew with stochastic gradients and compressed models.

    Each client steps x_i = x_i - gamma (g_i(C_local(x_i)) - h_i).  When the coin says so, it sends
    C_up(x_i) in place of x_i.  Then x is the mean of what was sent, and
    h_i = h_i + (p / gamma) (x - C_up(x_i)).

    A codec in one of three places makes FedComLoc-Com (``uplink``), FedComLoc-Local (``local``) or
    FedComLoc-Global (``downlink``).  The paper's Global goes on from C(x) on the server as well.  Here,
    as with every ``downlink``, clients begin with C(x) and the server keeps x.  The h_i are corrected
    by the mean itself, so that they keep their sum.

    Guarantees:
        - Without codecs it is :func:`scaffnew` with stochastic gradients, bit for bit if a batch holds
          all of a client's examples.
        - The sum of the h_i of all clients stays zero, whichever clients come.
        - With codecs that lose, convergence to the optimum is not guaranteed.

    Bits:
        Those of the codec ``uplink``, for a model.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        p: probability of an average after a step, in (0, 1].
        learning_rate: step size gamma.
        batch_size: number of examples in the batch of a step.
        uplink: codec C_up of the clients' models, not of the change in them; identity by default.
        local: codec C_local of the model at which gradients are taken, without a state; identity by
            default.
        downlink: codec of the server's model; identity by default.
        seed: seed of the coin.

    Returns:
        An :class:`fjx.Algorithm`, whose clients' state is h_i.

    Raises:
        TypeError: a codec is something else; (from ``init_client``) the model holds more than floating
            parameters.
        ValueError: a number is out of range; (when traced) ``local`` has a state.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.fedcomloc(
        ...     lambda w, x, key: (w - x).mean(), p=0.1, learning_rate=0.1, batch_size=10,
        ...     uplink=compressors.top_k(0.3))

    References:
        Yi, Meinhardt, Condat, Richtarik, *FedComLoc: Communication-Efficient Distributed Training of
        Sparse and Quantized Models*, TMLR 2025 (arXiv:2403.09904), algorithm 1.
    """
    gradient = batch_gradient(loss_fn, batch_size)
    return compose(
        client=between_coins(
            gradient if local is None else _at(local, gradient),
            p,
            learning_rate,
            seed,
            gain=p,
            send=lambda point, x: {"model": point, "known": x},
        ),
        uplink=_of_models(identity() if uplink is None else uplink),
        aggregator=uniform(mean()),
        downlink=downlink,
    )


def _of_models(codec: Compressor) -> Compressor:
    """Encodes the model, and decodes to how it differs from the one that the server sent."""
    require_compressor("fedcomloc", codec)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
        payload, state = codec.encode(key, message["model"], state)
        return {"model": payload, "known": SideInformation(message["known"])}, state

    def decode(payload: Tree) -> Tree:
        return _tree.subtract(codec.decode(payload["model"]), payload["known"].value)

    return Compressor(lambda like: codec.init(like["model"]), encode, decode, lambda _: Contract())


def _at(codec: Compressor, descent: ClientUpdate) -> ClientUpdate:
    """The descent direction at what a codec makes of the model."""
    require_compressor("fedcomloc", codec)

    def update(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        key_codec, key_descent = jax.random.split(key)
        memory = codec.init(_tree.like(model))
        if jax.tree.leaves(memory):
            raise ValueError("fedcomloc: local must be a codec without a state, such as top_k")
        payload, _ = codec.encode(key_codec, model, memory)
        return descent.update(key_descent, codec.decode(payload), state, examples, turn)

    return descent._replace(update=update)
