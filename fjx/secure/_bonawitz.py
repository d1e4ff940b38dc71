"""The protocols of masked vectors: Bonawitz et al. 2017, and SecAgg+."""

import functools
from collections.abc import Callable

from fjx import _validate
from fjx.secure import _masked, _masked_server
from fjx.secure._errors import TooFew
from fjx.secure._graph import circle, graph_parameters, harary
from fjx.secure._masked import Neighbours, Rules
from fjx.secure._protocol import Protocol
from fjx.secure._session import Session


def bonawitz(*, threshold: float | None = None, active: bool = False) -> Protocol:
    """The secure sum of Bonawitz et al., in which everybody masks with everybody.

    Guarantees:
        - The sum is exact modulo 2^b over the clients whose masked vector has come.
        - It is found as long as t of n clients stay to the end; else the server raises
          :class:`TooFew`.
        - A server that follows the protocol, with up to t - 1 clients, learns nothing beside the sum.
        - With ``active=True`` the same holds for a server that lies, with fewer than 2 t - n clients:
          public keys are signed, and clients unmask only a list of survivors that t of them have
          signed.
        - Bytes that are changed, repeated or meant for another step, round or session are refused.
        - Nothing is promised against clients that send wrong shares or wrong vectors.

    Args:
        threshold: share of the clients that must stay; t is the least integer above ``threshold * n``,
            at least 2 and at most n.  By default 1/2, and 2/3 if ``active``.
        active: True for a server that may lie.  Clients then need signing keys, and the sum one step
            more.

    Returns:
        A :class:`Protocol`.

    Raises:
        TypeError: ``threshold`` is not a number.
        ValueError: ``threshold`` is outside of [1/2, 1).

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.array([[1, 2], [3, 4], [5, -6], [7, 8]])
        >>> outcome = secure.play(secure.bonawitz(), vectors, bits=8, leaves={1: 2})
        >>> outcome.signed.tolist(), outcome.survivors
        ([13, 4], (0, 2, 3))

    References:
        Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS
        2017 (eprint 2017/281).
    """
    share = (2 / 3 if active else 1 / 2) if threshold is None else threshold
    share = _validate.static_number("threshold", share, at_least=0.5, below=1)

    @functools.lru_cache(maxsize=64)
    def neighbours(session: Session) -> Neighbours:
        n = session.clients
        everybody = tuple(tuple(j for j in range(n) if j != i) for i in range(n))
        return Neighbours(everybody, fewest(n))

    def fewest(n: int) -> int:
        """The least integer above a share of n, at least 2 and at most n."""
        return min(max(int(share * n + 1e-9) + 1, 2), n)

    kind = "active" if active else "semi-honest"
    return _protocol(f"bonawitz {kind} {share!r}", neighbours, fewest, bool(active))


def secagg_plus(
    *, adversary_rate: float = 0.1, dropout_rate: float = 0.1, model: str = "semi-honest"
) -> Protocol:
    """The secure sum of SecAgg+, in which each client masks with a few neighbours.

    The neighbours are those on a random circle, drawn from the session's id and round.  Their number and
    the threshold are :func:`graph_parameters`; they grow with the logarithm of the number of clients.

    Guarantees:
        - The sum is exact modulo 2^b over the clients whose masked vector has come.
        - With as many dropouts as assumed, it is found with a probability of at least 1 - 2^-20; else
          the server raises :class:`TooFew`.
        - A server that follows the protocol, with as many clients and dropouts as assumed, learns
          nothing beside the sum, with a probability of at least 1 - 2^-40.  With no such clients this
          holds for any dropouts: there is no sum of clients that fall apart into groups.
        - Bytes that are changed, repeated or meant for another step, round or session are refused.
        - Nothing is promised against clients that send wrong shares or wrong vectors.

    Args:
        adversary_rate: largest share of clients that collude with the server.
        dropout_rate: largest share of clients that drop out.
        model: model of :func:`graph_parameters`.  ``"semi-malicious"`` raises degree and threshold; the
            messages are the same, and a server that lies about keys is not found out.

    Returns:
        A :class:`Protocol`.

    Raises:
        TypeError: a rate is not a number.
        ValueError: :func:`graph_parameters` refuses the rates.

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.arange(20).reshape(10, 2)
        >>> outcome = secure.play(secure.secagg_plus(), vectors, bits=8, leaves={9: 2})
        >>> outcome.total.tolist(), len(outcome.survivors)
        ([72, 81], 9)

    References:
        Bell, Bonawitz, Gascon, Lepoint, Raykova, *Secure Single-Server Aggregation with
        (Poly)Logarithmic Overhead*, CCS 2020 (eprint 2020/704).
    """

    def parameters(n: int) -> tuple[int, int]:
        return graph_parameters(
            n, adversary_rate=adversary_rate, dropout_rate=dropout_rate, model=model
        )

    parameters(1)  # raises for rates that no number of clients allows

    @functools.lru_cache(maxsize=64)
    def neighbours(session: Session) -> Neighbours:
        n = session.clients
        degree, threshold = parameters(n)
        return Neighbours(harary(circle(session.id, session.round, n), degree), threshold)

    name = f"secagg+ {model} {float(adversary_rate)!r} {float(dropout_rate)!r}"
    threshold, degree = (lambda n: parameters(n)[1]), (lambda n: parameters(n)[0])
    return _protocol(name, neighbours, threshold, active=False)._replace(degree=degree)


def _protocol(
    name: str,
    neighbours: Callable[[Session], Neighbours],
    fewest: Callable[[int], int],
    active: bool,
) -> Protocol:
    rules = Rules(neighbours, active)

    def check(session: Session) -> None:
        if session.clients < 2:
            raise TooFew("a secure sum of one client is its vector; take at least two clients")
        if active and len(session.identities) != session.clients:
            raise ValueError(
                f"an active server asks for the signing key of each of {session.clients} clients, got "
                f"{len(session.identities)} in Session.identities"
            )
        neighbours(session)

    return Protocol(
        name=name,
        steps=("advertise", "share", "input", *(["sign"] if active else []), "unmask"),
        servers=1,
        check=check,
        client=functools.partial(_masked.client, rules),
        send=_masked.send,
        server=functools.partial(_masked_server.server, rules),
        answer=_masked_server.answer,
        outcome=_masked_server.outcome,
        fewest=fewest,
    )
