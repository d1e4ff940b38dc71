"""Attacks on data: Byzantine clients that train honestly on examples that were changed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Metrics, Steps, Tree
from fjx.attacks._who import Byzantine, require_byzantine

DataChange = Callable[[Tree, Array], Tree]
"""A function ``(batch, positions) -> batch`` of rows and their places among the client's examples.

The batch is a pytree of ``[b, ...]`` and the positions are ``i32[b]``.  So every third example changes
where ``positions % 3 == 0``.
"""


def poisoned(client: ClientUpdate, change: DataChange, *, byzantine: Byzantine) -> ClientUpdate:
    """A client update whose Byzantine clients see changed examples.

    They train and send like all others, so the attack goes through the codec, the clip and every other
    part of the round.

    Guarantees:
        - Honest clients are not changed by a bit.
        - A claim about single examples (:func:`fjx.privacy.examples_epsilon`) is withdrawn.

    Args:
        client: any client update that reads examples by :meth:`fjx.Examples.take` or ``batch``.
        change: change of the examples, such as :func:`label_flip` or :func:`backdoor`; shapes and
            dtypes stay.
        byzantine: predicate of the Byzantine clients.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: (when traced) ``change`` returns other shapes or dtypes.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import attacks, clients
        >>> client = clients.local_sgd(
        ...     lambda w, batch, key: jnp.mean((w - batch["y"]) ** 2), optax.sgd(0.1),
        ...     epochs=1, batch_size=4)
        >>> bad = attacks.ids([3], num_clients=10)
        >>> client = attacks.poisoned(client, attacks.label_flip(10), byzantine=bad)

    References:
        Tolpegin, Truex, Gursoy, Liu, *Data Poisoning Attacks Against Federated Learning Systems*,
        ESORICS 2020 (arXiv:2007.08432).
    """
    require_client("poisoned", client)
    require_byzantine(byzantine)
    if not callable(change):
        raise TypeError(
            "poisoned needs a function (batch, positions) -> batch such as attacks.label_flip(10), "
            f"got {change!r}"
        )

    def before(*inputs: Any) -> tuple[Any, ...]:
        key, broadcast, state, examples, turn = inputs
        return key, broadcast, state, _changed(examples, change, byzantine(turn)), turn

    def after(*inputs_and_output: Any) -> Any:
        return inputs_and_output[-1]

    return client._replace(update=Steps.of(client.update).around(before, after))


def _changed(examples: Examples, change: DataChange, lies: Array) -> Examples:
    """The same window; its rows are changed when they are taken, if the client lies."""

    class Changed(Examples):
        __slots__ = ()

        def take(self, positions: Array) -> Tree:
            rows = super().take(positions)
            other = change(rows, positions)
            _validate.same_structure("the changed batch", other, "the batch", rows)
            return _tree.where(lies, other, rows)

    return Changed(*examples)


def label_flip(classes: int, *, labels: str = "y") -> DataChange:
    """Labels counted from the other end: y becomes ``classes - 1 - y``.

    Args:
        classes: number of classes.
        labels: key of the labels in a batch; negative labels are padding, and stay.

    Returns:
        A :data:`DataChange` for :func:`poisoned`.

    Raises:
        TypeError: ``classes`` is not an integer.
        ValueError: there are fewer than two classes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> flip = attacks.label_flip(10)
        >>> flip({"y": jnp.array([0, 3, 9])}, jnp.arange(3))["y"].tolist()
        [9, 6, 0]

    References:
        Fang, Cao, Jia, Gong, *Local Model Poisoning Attacks to Byzantine-Robust Federated Learning*,
        USENIX Security 2020 (arXiv:1911.11815), section 5.1.
    """
    classes = _validate.static_integer("classes", classes, at_least=2)

    def change(batch: Tree, positions: Array) -> Tree:
        y = _column(batch, labels)
        return {**batch, labels: jnp.where(y >= 0, jnp.asarray(classes - 1, y.dtype) - y, y)}

    return change


def partly(fraction: float | Array, change: DataChange) -> DataChange:
    """A change of a fraction of each client's examples, the same ones in each round.

    They are spread evenly over the places of the examples.

    Args:
        fraction: fraction of the examples that change, in [0, 1]; may be traced.
        change: the change.

    Returns:
        A :data:`DataChange` for :func:`poisoned`.

    Raises:
        ValueError: ``fraction`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> flip = attacks.partly(0.5, attacks.label_flip(2))
        >>> flip({"y": jnp.zeros(6, jnp.int32)}, jnp.arange(6))["y"].tolist()
        [1, 0, 1, 0, 1, 1]
    """
    _validate.number("fraction", fraction, at_least=0, at_most=1)

    def some(batch: Tree, positions: Array) -> Tree:
        # Multiples of the golden ratio modulo one are spread evenly (Knuth, section 6.4).
        place = positions.astype(jnp.uint32) * jnp.uint32(2654435769)
        chosen = (place >> 8).astype(jnp.float32) * 2.0**-24 < fraction

        def row(new: Array, old: Array) -> Array:
            return jnp.where(chosen.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return jax.tree.map(row, change(batch, positions), batch)

    return some


def backdoor(
    stamp: Callable[[Array], Array],
    *,
    target: int,
    fraction: float | Array = 0.5,
    features: str = "x",
    labels: str = "y",
) -> DataChange:
    """A fraction of the examples is stamped with a trigger and labelled as one class.

    The rest stays, so that the model remains good where there is no trigger.  :func:`backdoor_success`
    measures how often the trigger works.  :func:`model_replacement` makes it survive the average.

    Args:
        stamp: function ``(features [b, ...]) -> features`` that puts the trigger on.
        target: class that stamped examples are given.
        fraction: fraction of the examples that is stamped, in [0, 1].
        features: key of the features in a batch.
        labels: key of the labels in a batch.

    Returns:
        A :data:`DataChange` for :func:`poisoned`.

    Raises:
        ValueError: ``fraction`` is out of range, or ``target`` is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> corner = attacks.backdoor(lambda x: x.at[:, :2].set(1.0), target=7, fraction=1.0)
        >>> batch = corner({"x": jnp.zeros((1, 4)), "y": jnp.array([3])}, jnp.arange(1))
        >>> batch["x"].tolist(), batch["y"].tolist()
        ([[1.0, 1.0, 0.0, 0.0]], [7])

    References:
        Bagdasaryan, Veit, Hua, Estrin, Shmatikov, *How To Backdoor Federated Learning*, AISTATS 2020
        (arXiv:1807.00459).
    """
    target = _validate.static_integer("target", target, at_least=0)

    def change(batch: Tree, positions: Array) -> Tree:
        x, y = _column(batch, features), _column(batch, labels)
        return {**batch, features: stamp(x), labels: jnp.full_like(y, target)}

    return partly(fraction, change)


def backdoor_success(
    apply: Callable[[Tree, Array], Array],
    stamp: Callable[[Array], Array],
    *,
    target: int,
    features: str = "x",
    labels: str = "y",
) -> Callable[[Tree, Tree], Metrics]:
    """The score of a backdoor: stamped examples of other classes that the model takes for the target.

    The success rate is the ratio of two means, ``backdoor_hits / backdoor_tried``.  Examples of the
    target class itself prove nothing, and are in neither.

    Args:
        apply: function ``(params, features) -> logits``, such as ``model.apply``.
        stamp: function that puts the trigger on, as in :func:`backdoor`.
        target: class of the backdoor.
        features: key of the features in a batch.
        labels: key of the labels in a batch.

    Returns:
        A score ``(params, batch) -> {"backdoor_hits": f32[b], "backdoor_tried": f32[b]}`` for
        :func:`fjx.simulation.evaluation`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> score = attacks.backdoor_success(
        ...     lambda scale, x: scale * x, lambda x: x.at[:, 1].set(9.0), target=1)
        >>> batch = {"x": jnp.ones((3, 2)), "y": jnp.array([0, 0, 1])}
        >>> found = score(2.0, batch)
        >>> found["backdoor_hits"].tolist(), found["backdoor_tried"].tolist()
        ([1.0, 1.0, 0.0], [1.0, 1.0, 0.0])
    """
    target = _validate.static_integer("target", target, at_least=0)

    def score(params: Tree, batch: Tree) -> Metrics:
        tried = _column(batch, labels) != target
        said = jnp.argmax(apply(params, stamp(_column(batch, features))), axis=-1)
        return {
            "backdoor_hits": (tried & (said == target)).astype(jnp.float32),
            "backdoor_tried": tried.astype(jnp.float32),
        }

    return score


def _column(batch: Tree, name: str) -> Array:
    if not isinstance(batch, dict) or name not in batch:
        got = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(
            f"the attack changes batch[{name!r}], and a batch here is {got}; name its key by "
            "features= or labels=, or write a function (batch, positions) -> batch"
        )
    return jnp.asarray(batch[name])


def require_client(where: str, client: object) -> None:
    """Raise TypeError unless ``client`` is a ClientUpdate."""
    if not isinstance(client, ClientUpdate):
        raise TypeError(
            f"{where} needs a fjx.ClientUpdate such as clients.local_sgd(...), got {client!r}"
        )
