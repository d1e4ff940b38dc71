"""Bounds: how far one client can move a sum."""
