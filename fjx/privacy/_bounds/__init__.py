"""Bounds: limits on how far one client can move a sum."""
