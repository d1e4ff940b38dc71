"""Correlated mechanisms: the noise of a round partly cancels that of earlier rounds."""
