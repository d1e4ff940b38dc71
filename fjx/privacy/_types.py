"""The words of privacy: bounds, mechanisms of three kinds, and what their accounting reads."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from fjx._base import Array, Compressor, Key, Metrics, Tree, TreeLike

Relation = Literal["add_or_remove_one", "replace_one"]
"""What makes two populations neighbours: one client more or less, or one client's data replaced."""


Norm = Literal["l2", "l1", "linf"]
"""The norms in which a contribution can be bounded."""


def require_relation(relation: Any) -> None:
    """Raises unless ``relation`` is one of :data:`Relation`.

    Raises:
        ValueError: naming those that are.
    """
    if relation not in get_args(Relation):
        raise ValueError(f"relation must be one of {get_args(Relation)}, got {relation!r}")


class Clipped(NamedTuple):
    """A bounded update, and what was found on the way.

    ``norm``, ``clipped`` and ``finite`` are about one client's private data: releasing them, alone or
    averaged, is not covered by the noise on the sum.

    Attributes:
        update: the bounded update, of the structure, shapes and dtypes of the input.
        norm: ``f32[]``, the norm of the input, in which it is bounded; NaN if the input is not finite.
        clipped: ``bool[]``, whether the update was scaled to the bound, or to zero.
        finite: ``bool[]``, whether it had finite entries only; if not, ``update`` is zero.
        zeroed: ``bool[]``, whether it was replaced by zeros for being too far out, although finite;
            None where the bound never does that.
    """

    update: Tree
    norm: Array
    clipped: Array
    finite: Array
    zeroed: Array | None = None


class Bound(NamedTuple):
    """What one client may add to a sum: how it is enforced, and how far it then moves the sum.

    Attributes:
        clip: ``(update, weight) -> Clipped``, what one client contributes; no axis of clients.  The
            weight is positive; most bounds count every client alike and do not look at it.
        norm: in which norm the sum is bounded: ``"l2"``, ``"l1"`` or ``"linf"``.
        radius: C: what one client contributes has at most this norm, whatever it sends.  A sum of such
            contributions moves by at most C if a client comes or goes, by 2 C if its data are replaced.
            May be traced.
    """

    clip: Callable[[Tree, Array], Clipped]
    norm: Norm
    radius: Array | float

    def sensitivity(self, relation: Relation) -> Array | float:
        """How far the sum moves between neighbours, in :attr:`norm`."""
        require_relation(relation)
        return self.radius if relation == "add_or_remove_one" else 2 * self.radius


class Contribution(NamedTuple):
    """What one client adds to a round, and, added up, what the server sees; zeros of an absentee.

    Attributes:
        update: the bounded message, in float32, or in int32 as steps of a grid.
        clients: ``i32[]``, one.
        clipped: ``i32[]``, whether the message was scaled down.
        norm: ``f32[]``, its norm before.
        zeroed: ``i32[]``, whether zeros took its place; None where the bound never does that.
    """

    update: Tree
    clients: Array
    clipped: Array
    norm: Array
    zeroed: Array | None = None


class Participation(NamedTuple):
    """How often one client may take part in a run, for noise that is not independent between rounds.

    Attributes:
        rounds: T, the length of the run.
        separation: b, at least 1: between two of its rounds t < t' there are t' - t >= b.
        most: k, the most rounds that it takes part in.
    """

    rounds: int
    separation: int
    most: int


class RenyiCurve(NamedTuple):
    """Renyi differential privacy of one release, where dp-accounting has no event for it.

    Attributes:
        rdp: ``(orders) -> rdp``, NumPy arrays of floats; inf at orders for which nothing is known.
        words: the mechanism and its settings, for messages.
        distance: the total variation between what is drawn in one release and the law that has this
            curve, at most; it is charged to delta.
        caveat: what a claim by this curve rests on besides its proof; empty where it rests on nothing.
    """

    rdp: Callable[[np.ndarray], np.ndarray]
    words: str
    distance: float = 0.0
    caveat: str = ""


class Mechanism(NamedTuple):
    """A sum of bounded updates plus noise, described by the object that adds the noise.

    Attributes:
        init: ``(message_like) -> state``, before the first round: an adaptive bound, past noise; ``()``
            for most mechanisms.  No key is ever in it.  An adaptive bound is public, clients clip to it;
            past noise (:func:`correlated`) is the server's own, and a deployment must not send it.
        clip: ``(update, weight, state) -> Clipped``, what one client contributes; no axis of clients.
        release: ``(key, total, state) -> (noised sum, state, metrics)``, on the :class:`Contribution` of
            all clients together: adds noise *once*, on the *sum*.  Of its metrics ``noise_std`` is that
            of a coordinate of the sum.
        noise_multiplier: z, the noise's standard deviation in units of what a client may contribute, on
            the sum; may be traced.
        sensitivity: ``(relation) -> float``, how far the sum moves between neighbours: C if a client
            comes or goes, 2 C if its data are replaced.
        event: ``(moves) -> DpEvent`` of dp-accounting (or a :class:`RenyiCurve`), one release of a sum
            that moves by at most ``moves`` times what a client may contribute.  How many that is depends
            on the relation *and* on the accountant's convention; :func:`fjx.privacy.epsilon` knows both.
        correlation: None where the noise of a round is independent of that of others, and each round is
            a release.  Else ``(Participation) -> float``: the whole run is *one* release, of a sequence
            that a client moves by at most so many times what it may contribute to a round.
    """

    init: Callable[[TreeLike], Tree]
    clip: Callable[[Tree, Array, Tree], Clipped]
    release: Callable[[Key, Contribution, Tree], tuple[Tree, Tree, Metrics]]
    noise_multiplier: Array | float
    sensitivity: Callable[[Relation], Array | float]
    event: Callable[[float], Any]
    correlation: Callable[[Participation], float] | None = None


class Encoded(NamedTuple):
    """What one client adds to a sum, and what was found on the way.

    All but ``codes`` is about the client's own data, and not covered by its noise.

    Attributes:
        codes: ``u32[d]``, integers mod 2^b.
        norm: ``f32[]``, the L2 norm of the message.
        clipped: ``bool[]``, whether it was scaled down.
        finite: ``bool[]``, whether it was finite; if not, ``codes`` is noise alone.
        saturated: ``i32[]``, how many coordinates were cut to what n clients have room for.
    """

    codes: Array
    norm: Array
    clipped: Array
    finite: Array
    saturated: Array


class DistributedMechanism(NamedTuple):
    """A modular sum of integers to which each client adds its share of the noise.

    It simulates: fjx computes what a secure sum would reveal, and secures nothing.  What is claimed is
    claimed of the *sum*; whoever sees one client's integers sees its data under a small share of the
    noise only.  Who is not drawn adds no noise, so that :func:`fjx.privacy.epsilon` accounts for it on
    cohorts of a fixed size, and refuses random ones.

    Attributes:
        encode: ``(key, vector) -> Encoded``, on the client.
        decode: ``(sum, clients) -> f32[d]``, of the sum of so many clients' codes mod 2^b, in the units
            of messages.
        bits: b.
        dimension: d, the most coordinates that a vector may have.
        clients: n, the most clients whose codes are added.
        least: the fewest, below which nothing is released.
        variance: of the noise of one client, in the units of messages, or the most that it may be.
        noise_multiplier: z, the deviation of the noise that is sure to be there, in units of C.
        sensitivity: ``(relation) -> float``, how far the rounded sum moves between neighbours: a client
            whose message becomes zero, or another one.  It adds its noise in either case.
        event: ``(moves) -> RenyiCurve`` of one release.
        correlation: None, rounds are independent.
    """

    encode: Callable[[Key, Array], Encoded]
    decode: Callable[[Array, Array], Array]
    bits: int
    dimension: int
    clients: int
    least: int
    variance: float
    noise_multiplier: float
    sensitivity: Callable[[Relation], float]
    event: Callable[[float], RenyiCurve]
    correlation: None = None


class LocalMechanism(NamedTuple):
    """A codec whose payload is differentially private, whoever reads it.

    The neighbours of local privacy are *any* two messages, so that nothing is amplified by who is
    sampled, and T messages of a client cost T epsilon, or less by composing ``event``.

    Attributes:
        codec: the ``uplink`` of :func:`fjx.compose`.  Its payload hides the numbers of the message, not
            that it was sent.
        epsilon: of one message, pure (delta = 0); inf where only ``event`` says what is known.
        event: ``() -> DpEvent`` of dp-accounting, one message, between any two messages
            (``REPLACE_ONE``, in the convention of its RDP accountant).
    """

    codec: Compressor
    epsilon: float
    event: Callable[[], Any]


@runtime_checkable
class Accountable(Protocol):
    """What the accountant reads of a mechanism, whatever else that is or does.

    See :class:`fjx.privacy.Mechanism` for what each attribute means; ``noise_multiplier`` is None where
    the noise is not described by one number.
    """

    @property
    def noise_multiplier(self) -> Any: ...
    @property
    def sensitivity(self) -> Callable[..., Any]: ...
    @property
    def event(self) -> Callable[[float], Any]: ...
    @property
    def correlation(self) -> Callable[[Participation], float] | None: ...
