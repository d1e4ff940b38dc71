"""What a run moved over the wire, in exact integers."""

from typing import NamedTuple

import numpy as np

from fjx._base import Traffic


class Ledger(NamedTuple):
    """Bits that a run moved, measured on payloads and counted in Python integers.

    Attributes:
        traffic: bits of one client in one round, either way.
        invited: ``i64[rounds]``, clients that the model was sent to.
        delivered: ``i64[rounds]``, clients that sent a message, useful or not.
    """

    traffic: Traffic
    invited: np.ndarray
    delivered: np.ndarray

    @property
    def uplink(self) -> int:
        """Bits from clients to the server in all."""
        return self.traffic.uplink * int(self.delivered.sum())

    @property
    def downlink(self) -> int:
        """Bits from the server to clients in all."""
        return self.traffic.downlink * int(self.invited.sum())

    @property
    def cumulative_uplink(self) -> np.ndarray:
        """Bits sent by clients up to and including each round: ``i64[rounds]``."""
        return self.traffic.uplink * np.cumsum(self.delivered)

    @property
    def cumulative_downlink(self) -> np.ndarray:
        """Bits sent to clients up to and including each round: ``i64[rounds]``."""
        return self.traffic.downlink * np.cumsum(self.invited)
