"""What a run moved over the wire, in exact integers."""

from typing import NamedTuple

import numpy as np

from fjx._base import Traffic


class Ledger(NamedTuple):
    """Bits that a run moved, measured on payloads and counted in Python integers.

    Attributes:
        traffic: bits of one client in one round, either way; the most that it can be, where the
            length of a payload depends on the data.
        invited: ``i64[rounds]``, clients that the model was sent to.
        delivered: ``i64[rounds]``, clients that sent a message, useful or not.
        measured: ``i64[rounds]``, bits that clients sent, where the length of a payload depends on
            the data; else None.
        heard: ``i64[rounds]``, bits that were sent to clients, where the length of a broadcast depends
            on the data; else None.
    """

    traffic: Traffic
    invited: np.ndarray
    delivered: np.ndarray
    measured: np.ndarray | None = None
    heard: np.ndarray | None = None

    @property
    def uplink(self) -> int:
        """Bits from clients to the server in all."""
        return int(self._sent.sum())

    @property
    def downlink(self) -> int:
        """Bits from the server to clients in all."""
        return int(self._heard.sum())

    @property
    def cumulative_uplink(self) -> np.ndarray:
        """Bits sent by clients up to and including each round: ``i64[rounds]``."""
        return np.cumsum(self._sent)

    @property
    def _sent(self) -> np.ndarray:
        return self.traffic.uplink * self.delivered if self.measured is None else self.measured

    @property
    def cumulative_downlink(self) -> np.ndarray:
        """Bits sent to clients up to and including each round: ``i64[rounds]``."""
        return np.cumsum(self._heard)

    @property
    def _heard(self) -> np.ndarray:
        return self.traffic.downlink * self.invited if self.heard is None else self.heard
