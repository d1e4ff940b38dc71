"""Correlated mechanisms: the noise of a round cancels in part that of earlier rounds."""
