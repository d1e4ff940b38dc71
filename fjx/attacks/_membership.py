"""Membership inference: scores of examples that may have been in the training data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Key, Metrics, Tree

Evaluate = Callable[[Tree, Tree], Metrics]


def membership_by_loss(evaluate: Evaluate, params: Tree, examples: Tree) -> Array:
    """Membership scores of examples: minus their loss.

    Models have smaller losses on examples that they were trained on.  The score is cheap and weak,
    because it takes an easy example for a member.  Compare scores of members and of others by
    :func:`fjx.privacy.auditing.auroc` and :func:`fjx.privacy.auditing.tpr_at_fpr`.

    Args:
        evaluate: function ``(params, batch) -> {"loss": f32[b]}``, such as ``model.evaluate``.
        params: model that is probed.
        examples: pytree of ``[n, ...]``.

    Returns:
        ``f32[n]``, larger for likelier members.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> attacks.membership_by_loss(
        ...     lambda w, x: {"loss": (w - x) ** 2}, 2.0, jnp.array([2.0, 5.0])).tolist()
        [-0.0, -9.0]

    References:
        Yeom, Giacomelli, Fredrikson, Jha, *Privacy Risk in Machine Learning*, CSF 2018
        (arXiv:1709.01604).
    """
    return -_losses(evaluate, params, examples)


def membership_by_ratio(
    key: Key,
    train: Callable[[Key, Array], Tree],
    evaluate: Evaluate,
    params: Tree,
    examples: Tree,
    *,
    shadows: int = 16,
) -> Array:
    r"""Membership scores of examples by a likelihood ratio over shadow models (LiRA).

    Shadow models are trained on halves of the examples, so that each example is in half of them.  Their
    confidences in an example, :math:`\phi = \log(p / (1 - p))` with :math:`p = e^{-loss}`, have a mean
    with it and a mean without it.  The score is the log ratio of the two normal densities at the
    confidence of the model that is probed.  The variances are those over all examples, which the paper
    takes for few shadows.

    All shadow models are trained at once, under ``jax.vmap``.

    Args:
        key: key of the halves and of the training.
        train: function ``(key, included bool[n]) -> params``, the training of a model on the examples
            included; traced.
        evaluate: function ``(params, batch) -> {"loss": f32[b]}`` of losses that are minus the log of a
            probability, such as ``model.evaluate`` of a classifier.
        params: model that is probed.
        examples: pytree of ``[n, ...]``.
        shadows: number of shadow models, even.

    Returns:
        ``f32[n]``, larger for likelier members.

    Raises:
        ValueError: ``shadows`` is odd or below four.

    Examples:
        Models that remember their examples by heart:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> def train(key, included):
        ...     return jnp.where(included, 2.0, 0.1 * jax.random.normal(key, included.shape))
        >>> def evaluate(confidence, x):
        ...     return {"loss": jax.nn.softplus(-confidence)}
        >>> victim = jnp.array([2.0, 0.0, 2.0, 0.0])
        >>> scores = attacks.membership_by_ratio(
        ...     jax.random.key(0), train, evaluate, victim, jnp.arange(4.0))
        >>> (scores > 0).tolist()
        [True, False, True, False]

    References:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, *Membership Inference Attacks From First
        Principles*, S&P 2022 (arXiv:2112.03570), algorithm 1 and section VI-C.
    """
    _validate.key("key", key)
    shadows = _validate.static_integer("shadows", shadows, at_least=4)
    if shadows % 2:
        raise ValueError(f"shadows must be even, so that each example is in half; got {shadows}")
    key_halves, key_train = jax.random.split(key)
    n = jax.tree.leaves(examples)[0].shape[0]
    drawn = jax.random.uniform(key_halves, (shadows, n))
    included = jnp.argsort(jnp.argsort(drawn, axis=0), axis=0) < shadows // 2

    models = jax.vmap(train)(jax.random.split(key_train, shadows), included)
    confidences = jax.vmap(lambda model: _confidence(_losses(evaluate, model, examples)))(models)
    victim = _confidence(_losses(evaluate, params, examples))

    def log_density(of: Array) -> Array:
        mean = jnp.sum(jnp.where(of, confidences, 0.0), axis=0) / (shadows // 2)
        variance = jnp.mean(jnp.square(confidences - mean[None]), where=of) + 1e-6
        return -jnp.square(victim - mean) / (2 * variance) - jnp.log(variance) / 2

    return log_density(included) - log_density(~included)


def _losses(evaluate: Evaluate, params: Tree, examples: Tree) -> Array:
    scores = evaluate(params, examples)
    if "loss" not in scores:
        raise ValueError(f'evaluate must return {{"loss": f32[b]}}, got {sorted(scores)}')
    return _tree.wide(scores["loss"])


def _confidence(loss: Array) -> Array:
    """log(p / (1 - p)) of p = exp(-loss), without cancellation; losses below 1e-6 count as 1e-6."""
    loss = jnp.maximum(loss, 1e-6)
    return -loss - jnp.log(-jnp.expm1(-loss))
