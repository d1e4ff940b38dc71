"""Central differential privacy: a bounded, noised sum over a public number."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.privacy import Contribution, Mechanism
from fjx.privacy._clip import require_floating


def private(mechanism: Mechanism, denominator: Array | float) -> Aggregator:
    r"""The noised sum of clipped messages over a fixed number: DP-FedAvg with a fixed denominator.

    message = (sum_i 1[w_i > 0] clip(x_i) + noise) / ``denominator``.

    Every client counts alike, because a weight would multiply the sensitivity, unless the mechanism's
    bound clamps weights.  The denominator is a public number such as the *expected* cohort, never the
    realised one, which depends on who came.  Its choice does not change epsilon.

    The metrics ``unnoised_clipped`` and ``unnoised_norm`` are computed from the clients' updates
    *without noise*: they are for the eyes of whoever may see the updates, epsilon does not cover
    publishing them.  Neither does it cover the number of participants.

    Under :func:`fjx.aggregators.per_field` each private field is a release of its own: k of them in
    T rounds are to be accounted as k T rounds.

    Guarantees: one client more or less moves the sum before noise by at most the mechanism's clip
        norm, whatever it sends, up to the rounding of the sum (relative to the sum, not to the
        client); noise is added once to the sum, also when nobody came; a client of weight zero
        contributes exactly zero, and so does one whose message is not finite.

    Args:
        mechanism: clips and adds noise, such as :func:`fjx.privacy.gaussian`.
        denominator: positive; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that sums, of float32 messages.  Its metrics are
        ``unnoised_clipped`` (the fraction of participants that was scaled down), ``unnoised_norm``
        (their mean norm before), ``noise_std`` (of each coordinate of the result; public), and those
        of the mechanism.

    Raises:
        TypeError: ``mechanism`` is something else; from ``init``, a leaf of the message is not
            floating.
        ValueError: ``denominator`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import Public, privacy
        >>> a = private(privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0), denominator=2)
        >>> updates, weights = jnp.array([[0.5, 0.0], [0.0, 9.0]]), jnp.ones(2)
        >>> public = Public((), jax.random.key(1), None, jnp.int32(2))
        >>> shares = jax.vmap(lambda x, w: a.contribute(None, x, w, public))(updates, weights)
        >>> total = jax.tree.map(lambda s: s.sum(0), shares)
        >>> message, _, metrics = a.finish(jax.random.key(0), total, public)
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
    _validate.number("denominator", denominator, above=0)

    def init(message_like: TreeLike) -> Tree:
        require_floating("message", message_like)
        return mechanism.init(message_like)

    def contribute(key: Key, message: Tree, weight: Array, public: Public) -> Contribution:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), message)
        result = mechanism.clip(wide, weight, public.state)
        taking_part = (weight > 0) & result.finite
        share = Contribution(
            update=result.update,
            clients=jnp.ones((), jnp.int32),
            clipped=result.clipped.astype(jnp.int32),
            norm=result.norm,
        )
        return _tree.where(taking_part, share, _tree.zeros_like(share))

    def finish(key: Key, total: Contribution, public: Public) -> tuple[Tree, Tree, Metrics]:
        factor = 1 / jnp.asarray(denominator, jnp.float32)
        noisy, state, own = mechanism.release(key, total, public.state)
        clients = jnp.maximum(total.clients, 1).astype(jnp.float32)
        metrics = {
            **own,
            "unnoised_clipped": total.clipped.astype(jnp.float32) / clients,
            "unnoised_norm": total.norm / clients,
            "noise_std": own["noise_std"] * factor,
        }
        return _tree.scale(factor, noisy), state, metrics

    return Aggregator(init, contribute, finish, SUM)
