"""Lossless codes of non-negative integers."""
