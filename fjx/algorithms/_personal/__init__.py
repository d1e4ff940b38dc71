"""Algorithms that give each client, or each group of clients, a model of its own."""
