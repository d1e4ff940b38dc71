"""Privacy of single examples, for clients that train with DP-SGD."""

from fjx import _validate
from fjx.privacy._accounting.claim import Epsilon, Method
from fjx.privacy._accounting.epsilon import epsilon
from fjx.privacy._types import Mechanism, Relation
from fjx.samplers import poisson

_SIZES = (
    "Whether a client has any examples is not covered, and neither is a weight that is their number"
)


def examples_epsilon(
    mechanism: Mechanism,
    *,
    sampling_rate: float,
    steps: int,
    participations: int,
    capacity: int,
    num_examples: int,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
) -> Epsilon:
    """Epsilon of *one example* of a client that trains with :func:`fjx.clients.dp_sgd`.

    An example is only in the sums of its own client: in the ``steps`` of each round in which that client
    takes part, each time with probability q = ``sampling_rate``.  A run is therefore ``steps *
    participations`` releases of the Poisson-subsampled mechanism.  Whatever else anybody does with a
    message costs nothing.  The sampling of the cohort is not counted on, so the claim also holds against
    the server, which sees who sent which message.

    *Samples that do not fit.*  A client with n = ``num_examples`` draws at least ``capacity`` of an
    example's n - 1 neighbours with probability tau = P[Binomial(n - 1, q) >= capacity].  As for cohorts
    (:func:`epsilon`), the claim is that of delta - steps * participations * tau.

    Args:
        mechanism: the mechanism of ``clip_norm`` and ``noise_multiplier`` that the client uses.
        sampling_rate, steps, capacity: as given to the client.
        participations: largest number of rounds in which one client takes part; the number of all rounds
            if only chance limits it.
        num_examples: largest number of examples of one client.
        delta: delta in (0, 1); should be well below one over the number of examples.
        method: as in :func:`epsilon`.
        relation: relation between sets of a client's examples: ``"add_or_remove_one"`` by default, or
            ``"replace_one"``, under which the number of a client's examples is public.

    Returns:
        An :class:`Epsilon` whose unit is the example.

    Raises:
        TypeError: as in :func:`epsilon`.
        ValueError: as in :func:`epsilon`; or ``capacity`` is so small that samples that do not fit use
            up delta.

    Examples:
        >>> from fjx import privacy
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> print(privacy.examples_epsilon(mechanism, sampling_rate=0.05, steps=10, participations=20,
        ...                                capacity=40, num_examples=200, delta=1e-5))
        epsilon = 4.766 at delta = 1e-05
        (example-level, add-or-remove-one, Poisson rate 0.05 in each of 10 steps, 20 rounds, PLD).
        Whether a client has any examples is not covered, and neither is a weight that is their number

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential
        Privacy*, CCS 2016 (arXiv:1607.00133).
    """
    if mechanism.correlation is not None:
        raise ValueError("clients.dp_sgd adds independent noise: pass privacy.gaussian(...)")
    _validate.integer("steps", steps, at_least=1)
    _validate.integer("participations", participations, at_least=0)
    _validate.number("delta", delta, above=0, below=1)
    capacity = _validate.static_integer("capacity", capacity, at_least=1)
    num_examples = _validate.static_integer("num_examples", num_examples, at_least=1)
    _validate.static_number("sampling_rate", sampling_rate, at_least=2.0**-32, at_most=1)
    sampler, releases = poisson(sampling_rate), int(steps) * int(participations)
    overflow = _too_many(num_examples - 1, sampler.subsampling.rate, capacity)
    if releases * overflow >= delta:
        raise ValueError(
            f"capacity={capacity} is too small: of {num_examples} examples at rate "
            f"{sampling_rate:.4g} more are drawn with probability {overflow:.2g}, which in "
            f"{releases} steps exceeds delta = {delta:g}; raise capacity"
        )
    sampler = sampler._replace(subsampling=sampler.subsampling._replace(overflow=overflow))
    claim = epsilon(
        mechanism, sampler, rounds=releases, delta=delta, method=method, relation=relation
    )
    basis = vars(claim) | {
        "unit": "example",
        "sampling": f"{claim.sampling} in each of {steps} step{'' if steps == 1 else 's'}",
        "rounds": int(participations),
    }
    if claim.relation == "add_or_remove_one":
        basis["caveats"] = (*claim.caveats, _SIZES)
    return Epsilon(float(claim), **basis)


def _too_many(others: int, rate: float, capacity: int) -> float:
    """Upper bound on P[Binomial(others, rate) >= capacity]."""
    from scipy import special

    # One part in a million covers the rounding errors of the incomplete beta function.
    return (
        1.000001 * float(special.bdtrc(capacity - 1, others, rate)) if others >= capacity else 0.0
    )
