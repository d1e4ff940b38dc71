"""Algorithms with servers between the clients and the cloud."""
