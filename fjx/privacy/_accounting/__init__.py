"""Accounting: the epsilon of the mechanism and the sampler that ran."""
