"""Corrected methods: local steps that do not drift apart."""
