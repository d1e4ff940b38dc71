"""Layers that stay fast inside loops and under ``vmap``."""

from fjx.layers._conv import conv_general_dilated as conv_general_dilated
from fjx.layers._loop_safe import loop_safe as loop_safe
from fjx.layers._pool import max_pool as max_pool
from fjx.layers._recurrent import scan as scan

__all__ = ["conv_general_dilated", "loop_safe", "max_pool", "scan"]
