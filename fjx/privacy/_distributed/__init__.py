"""Distributed mechanisms: every client adds its share of the noise to integers."""
