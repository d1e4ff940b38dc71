"""Federated data: packed examples, partitions, loaders, and synthetic problems with known optimum."""

from fjx.data._dataset import FederatedData as FederatedData
from fjx.data._dataset import from_clients as from_clients

__all__ = ["FederatedData", "from_clients"]
