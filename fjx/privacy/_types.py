"""Types of the privacy package: bounds, three kinds of mechanisms, and the accountant's inputs.

The file reads in three parts:

1. :class:`Bound` limits what one client adds to a sum.  It returns a :class:`Clipped` update.
2. A mechanism adds noise.  :class:`Mechanism` adds it once, on the server, to a
   :class:`Contribution` summed over clients.  :class:`DistributedMechanism` has each client add a share
   of the noise to its :class:`Encoded` integers.  :class:`LocalMechanism` has each client add all of
   the noise to its own message.
3. The accountant reads any mechanism through :class:`Accountable`.  :class:`Participation` tells it how
   often a client may take part, and :class:`RenyiCurve` describes noise that dp-accounting lacks.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from fjx._base import Array, Compressor, Key, Metrics, Tree, TreeLike

# --------------------------------------------------------------------------------------------------
# Bounds
# --------------------------------------------------------------------------------------------------

Relation = Literal["add_or_remove_one", "replace_one"]
"""Relation between neighbouring populations: one client added or removed, or its data replaced."""


Norm = Literal["l2", "l1", "linf"]
"""Norm in which a contribution is bounded."""


def require_relation(relation: Any) -> None:
    """Raise unless ``relation`` is one of :data:`Relation`.

    Raises:
        ValueError: ``relation`` is something else; the message lists the valid ones.
    """
    if relation not in get_args(Relation):
        raise ValueError(f"relation must be one of {get_args(Relation)}, got {relation!r}")


class Clipped(NamedTuple):
    """Bounded update of one client, with what the bound measured.

    ``norm``, ``clipped`` and ``finite`` describe one client's private data.  The noise on the sum does
    not cover releasing them, neither one by one nor averaged.

    Attributes:
        update: the bounded update, with the structure, shapes and dtypes of the input.
        norm: ``f32[]``, the norm of the input, in the norm of the bound; NaN if the input is not
            finite.
        clipped: ``bool[]``, true if the update was scaled to the bound or replaced by zeros.
        finite: ``bool[]``, true if all entries of the input were finite.  Otherwise ``update`` is zero.
        zeroed: ``bool[]``, true if a finite update was replaced by zeros because it was too large.
            None if the bound never does that.
    """

    update: Tree
    norm: Array
    clipped: Array
    finite: Array
    zeroed: Array | None = None


class Bound(NamedTuple):
    """Limit on what one client adds to a sum: a function that enforces it, and the radius that results.

    Attributes:
        clip: ``(update, weight) -> Clipped``, run for one client, without an axis of clients.
            ``update`` is a pytree of floating arrays and ``weight`` is ``f32[]``, positive.  Most bounds
            count every client alike and ignore the weight.  The result has norm at most ``radius``
            whatever the client sends.
        norm: ``"l2"``, ``"l1"`` or ``"linf"``, the norm in which ``clip`` bounds the update.
        radius: C, the largest norm of one client's contribution.  A sum of contributions moves by at
            most C if one client is added or removed, and by at most 2 C if its data are replaced.
            May be traced.
    """

    clip: Callable[[Tree, Array], Clipped]
    norm: Norm
    radius: Array | float

    def sensitivity(self, relation: Relation) -> Array | float:
        """Largest distance between the sums of two neighbouring populations, in :attr:`norm`.

        Args:
            relation: ``"add_or_remove_one"`` or ``"replace_one"``.

        Returns:
            C if one client is added or removed, 2 C if its data are replaced.

        Raises:
            ValueError: ``relation`` is neither of the two.
        """
        require_relation(relation)
        return self.radius if relation == "add_or_remove_one" else 2 * self.radius


# --------------------------------------------------------------------------------------------------
# Mechanisms: on the server, shared among the clients, on each client
# --------------------------------------------------------------------------------------------------


class Contribution(NamedTuple):
    """One client's part of a round; summed over the clients, it is what the server sees.

    All fields of an absent client are zero.

    Attributes:
        update: the bounded message: whole steps if the mechanism has ``to_steps``; else what ``clip``
            returns.
        clients: ``i32[]``, 1; summed, the number of clients that took part.
        clipped: ``i32[]``, 1 if the message was scaled down.
        norm: ``f32[]``, the norm of the message before clipping.
        zeroed: ``i32[]``, 1 if zeros took the message's place; None if the bound never does that.
    """

    update: Tree
    clients: Array
    clipped: Array
    norm: Array
    zeroed: Array | None = None


class Mechanism(NamedTuple):
    """Central mechanism: a trusted server sums bounded updates and adds noise once to the sum.

    The object that adds the noise also describes it to the accountant.  The description is not derived
    from the functions: a mechanism whose ``clip`` or ``release`` was replaced needs its own
    ``sensitivity`` and ``event``.  :func:`fjx.testing.check_mechanism` compares them.

    Attributes:
        init: ``(message_like) -> state``, called before the first round with a template of the message
            (only shapes and dtypes are read).  The state is a pytree of arrays: an adaptive bound, or
            past noise; most mechanisms return ``()``.  It never holds a key.  An adaptive bound is
            public, because clients clip to it.  Past noise (:func:`correlated`) is the server's secret,
            and a deployment must not send it.
        clip: ``(update, weight, state) -> Clipped``, run for one client, without an axis of clients:
            ``update`` is a pytree of floating arrays, ``weight`` is ``f32[]``, and ``state`` is the
            state at the start of the round.
        release: ``(key, total, state) -> (noised, state, metrics)``, run once a round.  ``total`` is
            the :class:`Contribution` summed over all clients.  ``release`` adds noise *once*, to this
            *sum*; ``noised`` has the structure and shapes of ``total.update``.  ``metrics`` maps names
            to scalars; its ``noise_std`` is the standard deviation of the noise on one coordinate of
            the sum.
        noise_multiplier: z, the scale of the noise on the sum in units of the largest contribution of
            one client: its standard deviation, or the scale b of Laplace noise.  May be traced.
        sensitivity: ``(relation) -> float``, the largest distance between the sums of two neighbouring
            populations: C if one client is added or removed, 2 C if its data are replaced.
        event: ``(moves) -> DpEvent`` of dp-accounting, or a :class:`RenyiCurve`: one release of a sum
            that moves by at most ``moves`` times the largest contribution of one client.  The right
            value of ``moves`` depends on the relation *and* on the accountant's convention;
            :func:`fjx.privacy.epsilon` knows both.
        correlation: None if the noise is independent between rounds; each round is then one release.
            Otherwise ``(Participation) -> float``, and the whole run is *one* release: one client moves
            the sequence of sums by at most this factor times its largest contribution to one round.
        turn: None, or ``(Participation) -> float``, for correlated noise: the run is post-processing
            of one release for each round in which a client may take part, with independent noise, of
            a sum that moves by at most this factor times the client's largest contribution.  Sampling
            amplifies these releases, and not the one release of the whole run.
        place: None, or ``(Places) -> float``, for correlated noise: the same, for one release for each
            place in which a client may be, of which it is in a random one.
        to_steps: ``(update, state) -> steps``: the update of ``clip``, rounded towards zero to whole
            steps of the grid on which ``release`` adds its noise.  Steps are integers, whose sum is
            exact.  None if updates are added as ``clip`` returns them; a sum of floats then rounds,
            which no claim covers.
        distance: an upper bound on the total variation between the draws of one round and the law that
            ``event`` describes; it is charged to delta.
    """

    init: Callable[[TreeLike], Tree]
    clip: Callable[[Tree, Array, Tree], Clipped]
    release: Callable[[Key, Contribution, Tree], tuple[Tree, Tree, Metrics]]
    noise_multiplier: Array | float
    sensitivity: Callable[[Relation], Array | float]
    event: Callable[[float], Any]
    correlation: "Callable[[Participation], float] | None" = None
    turn: "Callable[[Participation], float] | None" = None
    place: "Callable[[Places], float] | None" = None
    to_steps: Callable[[Tree, Tree], Tree] | None = None
    distance: float = 0.0


class Encoded(NamedTuple):
    """Noised integers of one client, with what the encoder measured.

    All fields but ``codes`` describe the client's own data.  Its noise does not cover them.

    Attributes:
        codes: ``u32[d]``, integers modulo 2^b.
        norm: ``f32[]``, the L2 norm of the message.
        clipped: ``bool[]``, true if the message was scaled down.
        finite: ``bool[]``, true if the message was finite.  Otherwise ``codes`` is noise alone, as for a
            message of zeros.
        saturated: ``i32[]``, the number of coordinates that were cut so that the sum over n clients
            fits.
    """

    codes: Array
    norm: Array
    clipped: Array
    finite: Array
    saturated: Array


class DistributedMechanism(NamedTuple):
    """Distributed mechanism: clients add shares of the noise to integers that are summed mod 2^b.

    fjx simulates here: it computes what a secure sum would reveal, and secures nothing.  The claim is
    about the *sum*.  A reader of one client's integers sees that client's data under a small share of
    the noise only.  A client that is not drawn adds no noise.  For this reason
    :func:`fjx.privacy.epsilon` accounts for cohorts of a fixed size and refuses cohorts of a random
    size.

    Attributes:
        encode: ``(key, vector) -> Encoded``, run on one client; ``vector`` is ``f32[d']`` with
            d' <= d.
        decode: ``(total, count) -> f32[d']``, run on the server.  ``total`` is ``u32[d']``, the sum of
            the codes of ``count`` clients modulo 2^b; ``count`` is ``i32[]``.  The result is in the
            units of messages.
        bits: number of bits b.
        dimension: largest number d of coordinates of a vector.
        clients: largest number n of clients whose codes are added.
        least: smallest number of clients; with fewer, nothing is released.
        colluding: number of these clients whose noise does not count, because they may tell it.
        variance: the variance of the noise of one client, in the units of messages, or an upper bound
            on it.
        noise_multiplier: z, the standard deviation of the noise that is certain to be present, in units
            of C.
        sensitivity: ``(relation) -> float``, the largest distance between the rounded sums of two
            neighbouring populations.  One client's message becomes zero, or another message; the client
            adds its noise in either case.
        event: ``(moves) -> RenyiCurve`` of one release, of a sum that moves by at most ``moves`` times
            the largest contribution of one client.
        correlation: None, because rounds are independent.
    """

    encode: Callable[[Key, Array], Encoded]
    decode: Callable[[Array, Array], Array]
    bits: int
    dimension: int
    clients: int
    least: int
    colluding: int
    variance: float
    noise_multiplier: float
    sensitivity: Callable[[Relation], float]
    event: "Callable[[float], RenyiCurve]"
    correlation: None = None


class LocalMechanism(NamedTuple):
    """Local mechanism: a codec whose payload is differentially private, whoever reads it.

    Neighbours in local privacy are *any* two messages.  Sampling clients therefore amplifies nothing,
    and T messages of one client cost T epsilon, or less if ``event`` is composed.

    Attributes:
        codec: a :class:`fjx.Compressor` for the ``uplink`` of :func:`fjx.compose`.  Its payload hides
            the values of the message; it does not hide that a message was sent.
        epsilon: pure epsilon (delta = 0) of one message; inf if only ``event`` describes the privacy.
        event: ``() -> DpEvent`` of dp-accounting for one message, with any two messages as neighbours
            (``REPLACE_ONE``, in the convention of its RDP accountant).
    """

    codec: Compressor
    epsilon: float
    event: Callable[[], Any]


# --------------------------------------------------------------------------------------------------
# The accountant's inputs
# --------------------------------------------------------------------------------------------------


class Participation(NamedTuple):
    """Limits on how often one client takes part in a run, for noise that is correlated between rounds.

    Attributes:
        rounds: T, the number of rounds of the run.
        separation: b, at least 1: two rounds t < t' of the same client satisfy t' - t >= b.
        most: k, the largest number of rounds in which one client takes part.
    """

    rounds: int
    separation: int
    most: int


class Places(NamedTuple):
    """Rounds of which a client comes in a random one, for noise that is correlated between rounds.

    A period of L rounds begins with M places, and a client is in one of them.

    Attributes:
        rounds: T, the number of rounds of the run.
        period: L, the number of rounds of a period.
        number: M, the number of places of a period.
        apart: g, at least 1.  A class has every g-th place, and the claim takes it for known in which
            class the client's place is.
        kept: True if a client has the same place in all periods, which begin with the run; False if it
            draws a new one in each, and the run begins at any place of a period.
    """

    rounds: int
    period: int
    number: int
    apart: int
    kept: bool


class RenyiCurve(NamedTuple):
    """Renyi differential privacy of one release, for noise that has no event in dp-accounting.

    Attributes:
        rdp: ``(orders) -> rdp``: NumPy arrays of floats of the same shape; inf at orders for which no
            bound is known.
        words: the mechanism and its settings, for messages.
        distance: an upper bound on the total variation between the draws of one release and the law
            that has this curve.  It is charged to delta.
        caveat: an assumption that a claim by this curve needs besides its proof; empty if there is
            none.
        symmetric: True if the release adds independent noise whose law is symmetric around zero to a
            vector that does not depend on the noise.  Poisson sampling then amplifies more.
    """

    rdp: Callable[[np.ndarray], np.ndarray]
    words: str
    distance: float = 0.0
    caveat: str = ""
    symmetric: bool = False


@runtime_checkable
class Accountable(Protocol):
    """Attributes of a mechanism that the accountant reads.

    Any object that has them can be accounted.  See :class:`fjx.privacy.Mechanism` for their meaning.
    ``noise_multiplier`` is None if no single number describes the noise.
    """

    @property
    def noise_multiplier(self) -> Any: ...
    @property
    def sensitivity(self) -> Callable[..., Any]: ...
    @property
    def event(self) -> Callable[[float], Any]: ...
    @property
    def correlation(self) -> Callable[[Participation], float] | None: ...
