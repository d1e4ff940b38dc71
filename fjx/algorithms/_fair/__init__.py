"""Fairness: the objective looks at the clients that fare worst."""
