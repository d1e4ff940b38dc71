"""Robust aggregators: a minority of the clients cannot move the result far."""
