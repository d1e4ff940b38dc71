"""Compressed methods: gradients, differences and models in few bits."""
