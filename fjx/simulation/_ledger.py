"""Bits that a run sent over the wire, in exact integers."""

import warnings
from typing import NamedTuple

import numpy as np

from fjx._base import Metrics, Traffic
from fjx.rounds._metrics import metric_of


class Ledger(NamedTuple):
    """Bits that a run sent, measured on payloads and counted in Python integers.

    Attributes:
        traffic: bits of one client in one round, in each direction; the largest possible number if
            the length of a payload depends on the data.
        invited: ``i64[rounds]``, clients that the model was sent to.
        delivered: ``i64[rounds]``, clients that sent a message, finite or not.
        measured: ``i64[rounds]``, bits that clients sent, if the length of a payload depends on the
            data; else None.
        heard: ``i64[rounds]``, bits sent to clients, if they depend on the data or the round (the
            length of a broadcast; no message before the first round; an aggregate message that only
            participants are sent); else None.
        expected: ``f64[rounds]``, expected bits of one client's message, if they are random in a
            way that the algorithm knows (:attr:`fjx.Algorithm.expected`); else None.
    """

    traffic: Traffic
    invited: np.ndarray
    delivered: np.ndarray
    measured: np.ndarray | None = None
    heard: np.ndarray | None = None
    expected: np.ndarray | None = None

    @classmethod
    def of(cls, traffic: Traffic, rounds: Metrics, expected: np.ndarray | None = None) -> "Ledger":
        """Ledger from the metrics of rounds; leading axes, for example over seeds, stay in front."""

        def bits(metric: str) -> np.ndarray | None:
            sent = metric_of(rounds, metric)
            if sent is None:
                return None
            if np.any(np.asarray(sent) == 2**32 - 1):
                warnings.warn(
                    f"{metric} of some rounds are 4 GiB or more and are billed as 4 GiB",
                    stacklevel=3,
                )
            return 8 * np.asarray(sent, np.int64)

        return cls(
            traffic,
            invited=np.asarray(metric_of(rounds, "invited"), np.int64),
            delivered=np.asarray(
                metric_of(rounds, "participants") + metric_of(rounds, "nonfinite"), np.int64
            ),
            measured=bits("uplink_bytes"),
            heard=bits("downlink_bytes"),
            expected=expected,
        )

    @property
    def uplink(self) -> int:
        """Total bits from clients to the server."""
        return int(self._sent.sum())

    @property
    def expected_uplink(self) -> float | None:
        """Expected bits from clients to the server, given the senders; None if unknown.

        If all messages have one length, this is ``uplink``.
        """
        if self.measured is None:
            return float(self.uplink)
        return None if self.expected is None else float((self.expected * self.delivered).sum())

    @property
    def downlink(self) -> int:
        """Total bits from the server to clients."""
        return int(self._heard.sum())

    @property
    def cumulative_uplink(self) -> np.ndarray:
        """Bits sent by clients up to and including each round: ``i64[rounds]``."""
        return np.cumsum(self._sent, axis=-1)

    @property
    def _sent(self) -> np.ndarray:
        return self.traffic.uplink * self.delivered if self.measured is None else self.measured

    @property
    def cumulative_downlink(self) -> np.ndarray:
        """Bits sent to clients up to and including each round: ``i64[rounds]``."""
        return np.cumsum(self._heard, axis=-1)

    @property
    def _heard(self) -> np.ndarray:
        return self.traffic.downlink * self.invited if self.heard is None else self.heard
