"""The sentence of a claim about a server that adds by a protocol of secure sums."""

from typing import Any

from fjx.privacy._types import DistributedMechanism


def against_server(mechanism: Any, protocol: Any) -> str:
    """The claim against the server, in words.

    Args:
        mechanism: mechanism of the claim.
        protocol: a ``fjx.secure.Protocol``, of which the name and ``hides`` are read.
    """
    name = protocol.name
    if not isinstance(mechanism, DistributedMechanism):
        seen = "the sum of each round" if protocol.hides else "every message"
        return (
            "Does not hold against the server, which is trusted to add the noise: "
            f"under {name!r} it sees {seen} without it"
        )
    if not protocol.hides:
        return (
            f"Does not hold against the server: under {name!r} it sees messages of single clients, each "
            "with one share of the noise"
        )
    return (
        f"Holds against the server as well, if the sums are found under {name!r} with no more parties "
        f"colluding than it allows: the server sees sums of at least {mechanism.least} clients, and the "
        "noise of so many is that of the claim"
    )
