"""The terms of a claim, as one value."""

from typing import Any, NamedTuple

from fjx.privacy._accounting.claim import Epsilon, Method, Unit
from fjx.privacy._accounting.epsilon import epsilon
from fjx.privacy._accounting.examples import examples_epsilon
from fjx.privacy._accounting.releases import participation
from fjx.privacy._types import Accountable, Relation
from fjx.samplers._types import Sampler


class Accounting(NamedTuple):
    """The terms on which an epsilon is claimed, apart from the mechanism, the sampler and the rounds.

    Examples:
        >>> from fjx import privacy, samplers
        >>> terms = privacy.Accounting(delta=1e-6, method="rdp")
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> print(terms.epsilon(mechanism, samplers.poisson(0.01), rounds=1000))
        epsilon = 2.437 at delta = 1e-06
        (client-level, add-or-remove-one, Poisson rate 0.01, 1000 rounds, RDP)

    Attributes:
        delta: the probability that the claim does not hold.
        method: the accountant; see :func:`fjx.privacy.epsilon`.
        relation: the neighbouring populations; None for the relation that suits the sampler.
        unit: ``"client"`` or ``"example"``, whose data are protected.
        num_clients: the population, or None if it is not known.
    """

    delta: float
    method: Method = "pld"
    relation: Relation | None = None
    unit: Unit = "client"
    num_clients: int | None = None

    def epsilon(self, mechanism: Accountable, sampler: Sampler, *, rounds: int) -> Epsilon:
        """The epsilon of ``rounds`` rounds of a mechanism on the cohorts of a sampler."""
        return epsilon(
            mechanism,
            sampler,
            rounds=rounds,
            delta=self.delta,
            method=self.method,
            relation=self.relation,
            num_clients=self.num_clients,
            unit=self.unit,
        )


class ExampleAccounting(NamedTuple):
    """The terms on which an epsilon of one example is claimed, for clients of DP-SGD.

    Attributes:
        delta: the probability that the claim does not hold.
        sampling_rate, steps, capacity: as given to :func:`fjx.clients.dp_sgd`.
        num_examples: largest number of examples of one client.
        method: the accountant.
        relation: the neighbouring sets of a client's examples.
    """

    delta: float
    sampling_rate: float
    steps: int
    capacity: int
    num_examples: int
    method: Method = "pld"
    relation: Relation | None = None

    def epsilon(self, mechanism: Any, sampler: Sampler, *, rounds: int) -> Epsilon:
        """The epsilon of ``rounds`` rounds, of which a client takes part in as many as it can."""
        most = participation(sampler, rounds=rounds).most
        return examples_epsilon(mechanism, participations=most, **self._asdict())
