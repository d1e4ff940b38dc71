"""Computations on plain arrays; no kernel knows a type of fjx."""
