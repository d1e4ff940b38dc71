"""Lossless coders of non-negative integers: each coder is one file."""
