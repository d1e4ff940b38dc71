"""Averaging: local training, and a server that steps along the mean."""
