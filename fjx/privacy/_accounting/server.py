"""The sentence of a claim about a server that adds by a protocol of secure sums."""

from typing import Any

from fjx.privacy._types import DistributedMechanism
from fjx.samplers._types import FixedSize, Sampler


def against_server(
    mechanism: Any, sampler: Sampler, protocol: Any, *, num_clients: int | None
) -> str:
    """The claim against the server, in words.

    Args:
        mechanism: mechanism of the claim.
        sampler: sampler of the claim; a server sees with whom it speaks, so no draw hides a client.
        protocol: a ``fjx.secure.Protocol``, of which the name and ``hides`` are read.
        num_clients: population size, if it is known.
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
    # Other samplers do not amplify the claim of noise that clients add.
    match sampler.subsampling:
        case FixedSize(size) if num_clients is None or size < num_clients:
            return (
                "Does not hold against the server: sampling amplifies the claim while it is secret who "
                f"was drawn, and under {name!r} the server knows whom it asks.  The claim for "
                "samplers.full(), without amplification, holds against it"
            )
    some = mechanism.colluding
    match some:
        case 0:
            told = "no client tells it its noise"
        case 1:
            told = "no more than 1 client tells it its noise"
        case _:
            told = f"no more than {some} clients tell it their noise"
    return (
        f"Holds against the server as well, if the sums are found under {name!r}, if no more parties "
        f"collude than it allows, and if {told}: the server sees sums of at least "
        f"{mechanism.least} clients, and the noise of {mechanism.least - some} is that of the claim"
    )
