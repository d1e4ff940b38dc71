"""Central differential privacy: a bounded, noised sum over a public number."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._tree import require_floating
from fjx.aggregators._around import releasing
from fjx.privacy import Contribution, Mechanism


def private(mechanism: Mechanism, denominator: Array | float) -> Aggregator:
    r"""The noised sum of clipped messages over a fixed number: DP-FedAvg with a fixed denominator.

    .. math:: \Big(\sum_{i: w_i > 0} \mathrm{clip}(x_i) + \text{noise}\Big) / \text{denominator}

    Every client counts alike, because a weight would multiply the sensitivity, unless the mechanism's
    bound clamps weights.  The denominator is a public number such as the *expected* cohort, never the
    realised one, which depends on who came.  Its choice does not change epsilon.

    The metrics that begin with ``unnoised_`` are computed from the clients' updates *without noise*.
    They are for people who may see the updates: epsilon does not cover publishing them.  In a round of
    :func:`fjx.compose` that is so of everything that clients tell, the number of participants
    included, and all of it is named so.

    Codecs and memories of clients do not enlarge the sensitivity.  A *server* must remember noised sums
    only: the memories of :func:`fjx.rounds.difference` and SCAFFOLD's server control are not.  Private
    fields of :func:`fjx.aggregators.per_field` are several releases of one cohort.  See
    :doc:`/privacy`.

    Guarantees:
        - One client more or less moves the sum before noise by at most the mechanism's clip norm, for
          any message, cohort and executor: the mechanisms of fjx add whole steps of a grid, as integers.
          A mechanism of your own without ``to_steps`` adds floats, whose sum rounds.
        - Noise is added once to the sum, also if nobody came.
        - A client of weight zero contributes exactly zero, and so does one whose message is not finite.

    Args:
        mechanism: mechanism that clips and adds noise, such as :func:`fjx.privacy.gaussian`.
        denominator: public number, positive; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that sums, of float32 messages.  Its metrics are ``unnoised_clipped``
        (the fraction of participants that was scaled down), ``unnoised_norm`` (their mean norm before),
        ``noise_std`` (of each coordinate of the result; public), and those of the mechanism.  If the
        bound has a threshold, ``unnoised_zeroed`` is the fraction of participants beyond it.  Means
        over nobody are NaN.

    Raises:
        TypeError: ``mechanism`` is something else; a leaf of the message is not floating (from
            ``init``).
        ValueError: ``denominator`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators, privacy
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0)
        >>> a = aggregators.private(mechanism, denominator=2)
        >>> x = jnp.array([[0.5, 0.0], [0.0, 9.0]])
        >>> message, _, metrics = aggregators.aggregate(jax.random.key(0), a, x)
        >>> print(message.round(4), metrics["unnoised_clipped"])
        [0.25 0.5 ] 0.5

    References:
        McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*,
        ICLR 2018 (arXiv:1710.06963), algorithm 1 with the estimator of fixed denominator.
    """
    if not isinstance(mechanism, Mechanism):
        raise TypeError(
            f"private needs a fjx.privacy.Mechanism such as privacy.gaussian(...), got {mechanism!r}"
        )
    denominator = _validate.scalar("denominator", denominator, above=0)
    exact = mechanism.to_steps

    def init(message_like: TreeLike) -> Tree:
        require_floating("message", message_like)
        return mechanism.init(message_like)

    def contribute(message: Tree, weight: Array, public: Public) -> Contribution:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), message)
        result = mechanism.clip(wide, weight, public.state)
        taking_part = (weight > 0) & result.finite
        share = Contribution(
            update=exact(result.update, public.state) if exact else result.update,
            clients=jnp.ones((), jnp.int32),
            clipped=result.clipped.astype(jnp.int32),
            norm=result.norm,
            zeroed=None if result.zeroed is None else result.zeroed.astype(jnp.int32),
        )
        return _tree.where(taking_part, share, _tree.zeros_like(share))

    def finish(key: Key, total: Contribution, public: Public) -> tuple[Tree, Tree, Metrics]:
        factor = 1 / jnp.asarray(denominator, jnp.float32)
        noisy, state, own = mechanism.release(key, total, public.state)
        metrics = {
            **own,
            "unnoised_clipped": _tree.mean_of(total.clipped, total.clients),
            "unnoised_norm": _tree.mean_of(total.norm, total.clients),
            "noise_std": own["noise_std"] * factor,
        }
        if total.zeroed is not None:
            metrics["unnoised_zeroed"] = _tree.mean_of(total.zeroed, total.clients)
        return _tree.scale(factor, noisy), state, metrics

    return releasing(Aggregator(init, contribute, finish, SUM), mechanism)
