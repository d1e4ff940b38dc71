"""Plans whose unit is one example: the claim follows from the client that trains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx._base import Algorithm, ClientUpdate
from fjx._plan import Claimed, one_of, require_delta, require_planned, sampler_of
from fjx.privacy._accounting.calibrate import noise_multiplier_for
from fjx.privacy._accounting.caveats import told_beside
from fjx.privacy._accounting.claim import Epsilon, Method
from fjx.privacy._accounting.report import Report, evenly, noise_in_words
from fjx.privacy._accounting.terms import ExampleAccounting
from fjx.privacy._types import Relation
from fjx.samplers._types import Sampler


class ExamplesPlan(NamedTuple):
    """Plan of a run that protects single examples; made by :func:`plan_examples`.

    Give ``client`` to :func:`fjx.compose`, ``sampler`` to :func:`fjx.simulate`, and the plan itself to
    ``simulate`` as well: it then refuses to run anything else.

    Attributes:
        client: the client update, made by :func:`fjx.clients.dp_sgd`.
        sampler: the sampler that draws the cohorts.
        rounds: the largest number of rounds that may be run.
        accounting: the terms of the claim, read from the client.
        claimed: the claim that was computed when the plan was made; read :attr:`claim`.
    """

    client: ClientUpdate
    sampler: Sampler
    rounds: int
    accounting: ExampleAccounting
    claimed: Claimed

    @property
    def mechanism(self) -> Any:
        """The mechanism that bounds each example and noises the sums."""
        return _releases(self.client).mechanism

    @property
    def claim(self) -> Epsilon:
        """The epsilon of all ``rounds``, which is computed again once ``_replace`` exchanged a part."""
        return self.epsilon(self.rounds)

    def epsilon(self, rounds: int) -> Epsilon:
        """Claim for the first ``rounds`` rounds."""
        if self.claimed.of == (self.client, self.sampler, rounds, self.accounting):
            return self.claimed.epsilon
        return _claim(self.client, self.sampler, rounds, self.accounting)

    def report(self, *, points: int = 8) -> Report:
        """Report of epsilon against rounds; see :func:`fjx.privacy.report`."""
        claims = [self.epsilon(rounds) for rounds in evenly(self.rounds, points)]
        caveats = (*claims[-1].caveats, "Whoever owns several examples is protected less")
        return Report(tuple(claims), noise_in_words(self.mechanism), caveats)

    def check(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        *,
        num_clients: int,
        rounds: int,
        sizes: np.ndarray | None = None,
    ) -> None:
        """Refuse a run that differs from the plan.

        Args:
            algorithm: algorithm that will run.
            sampler: sampler that will draw the cohorts.
            num_clients: population size; no matter to the claim.
            rounds: rounds that will run.
            sizes: numbers of examples of the clients; None if they are not known.

        Raises:
            ValueError: a part differs; the message names it, and the remedy.
        """
        runs = algorithm.runs if algorithm.runs_its_aggregator else None
        if runs is None or runs.client is not self.client:
            raise ValueError(
                "the algorithm does not run the plan's client, so its steps and its noise are not what "
                "was planned: fjx.compose(client=plan.client, ...).  Nothing is known of a round that "
                "was replaced, or that gives clients other examples or another loss, as "
                "fjx.rounds.minibatch and fjx.rounds.frozen do"
            )
        require_planned(sampler, self.sampler, rounds, self.rounds)
        if sizes is None:
            return
        largest, most = int(np.max(sizes)), self.accounting.num_examples
        if largest > most:
            raise ValueError(
                f"a client of the dataset has {largest} examples, and at most {most} were planned: plan "
                f"with num_examples={largest}"
            )
        require_delta(self.accounting.delta, "the number of examples", int(np.sum(sizes)))


def plan_examples(
    client: Callable[[float], ClientUpdate],
    *,
    num_clients: int,
    num_examples: int,
    rounds: int,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    cohort_size: float | None = None,
    sampler: Sampler | None = None,
    relation: Relation | None = None,
    method: Method = "pld",
) -> ExamplesPlan:
    """Plan of a run whose clients train by DP-SGD, for the epsilon of *one example*.

    Rate, steps, capacity and mechanism are read from the client, and the number of rounds in which it
    takes part from the sampler.  The messages themselves are private, so the server may do anything
    with them.  :func:`fjx.plan` is for noise on the server.

    Guarantees:
        - The claim is of the function that trains: a client whose ``update`` was replaced is refused.
        - ``simulate(plan=...)`` compares delta with the number of examples of the dataset, and
          ``num_examples`` with its largest client.

    Args:
        client: function of the noise multiplier z that returns a :func:`fjx.clients.dp_sgd`.
        num_clients: population size N.
        num_examples: largest number of examples of one client, which counts as public.
        rounds: largest number of rounds that may be run.
        delta: delta of the claim; it must be below one over the number of all examples.
        epsilon: target epsilon, to which the noise is calibrated; not with ``noise_multiplier``.
        noise_multiplier: noise multiplier z; not with ``epsilon``.
        cohort_size: expected number of clients of a round, drawn by
            ``samplers.poisson(cohort_size / num_clients)``; not needed with a ``sampler``.
        sampler: sampler that draws the cohorts.
        relation: relation between sets of a client's examples; see
            :func:`fjx.privacy.examples_epsilon`.
        method: method of accounting; see :func:`fjx.privacy.epsilon`.

    Returns:
        An :class:`ExamplesPlan`.

    Raises:
        TypeError: an argument is of another kind, or traced.
        ValueError: an argument is out of bounds; both or neither of two alternatives are given; the
            client makes no claim about examples; or as in :func:`fjx.privacy.examples_epsilon`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import clients
        >>> def client(z):
        ...     return clients.dp_sgd(
        ...         lambda w, x, key: jnp.mean((w - x) ** 2), optax.sgd(0.1), clip_norm=1.0,
        ...         noise_multiplier=z, sampling_rate=0.05, steps=10, batch_size=10, capacity=40)
        >>> p = plan_examples(client, num_clients=100, cohort_size=10, num_examples=200, rounds=20,
        ...                   delta=1e-5, noise_multiplier=1.0, method="rdp")
        >>> print(p.claim)
        epsilon = 5.368 at delta = 1e-05
        (example-level, add-or-remove-one, Poisson rate 0.05 in each of 10 steps, 20 rounds, RDP). ...
    """
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    num_examples = _validate.static_integer("num_examples", num_examples, at_least=1)
    delta = _validate.static_number("delta", delta, above=0, below=1)
    require_delta(delta, "num_examples", num_examples)
    one_of("epsilon", epsilon, "noise_multiplier", noise_multiplier)
    sampler, _ = sampler_of(sampler, cohort_size, num_clients)
    known = _releases(client(1.0 if noise_multiplier is None else noise_multiplier))
    terms = ExampleAccounting(
        delta=delta,
        sampling_rate=known.sampling_rate,
        steps=_validate.static_integer("steps", known.steps, at_least=1),
        capacity=known.capacity,
        num_examples=num_examples,
        method=method,
        relation=relation,
    )
    if noise_multiplier is None:
        assert epsilon is not None
        noise_multiplier = noise_multiplier_for(
            epsilon,
            sampler,
            terms,
            rounds=rounds,
            mechanism=lambda z: _releases(client(z)).mechanism,
        )
    made = client(noise_multiplier)
    claim = _claim(made, sampler, rounds, terms)
    return ExamplesPlan(
        made, sampler, rounds, terms, Claimed(claim, (made, sampler, rounds, terms))
    )


def _claim(
    client: ClientUpdate, sampler: Sampler, rounds: int, terms: ExampleAccounting
) -> Epsilon:
    mechanism = _releases(client).mechanism
    return terms.epsilon(mechanism, sampler, rounds=rounds).but(*told_beside(mechanism))


def _releases(client: Any) -> Any:
    """What a client claims about single examples.

    Raises:
        TypeError: it is no client update.
        ValueError: it claims nothing.
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"client must make a fjx.ClientUpdate, got {client!r}")
    if client.example_releases is None:
        raise ValueError(
            "client made a ClientUpdate that claims nothing about single examples, or lost the claim by "
            "_replace: let it return fjx.clients.dp_sgd(..., noise_multiplier=z)"
        )
    return client.example_releases
