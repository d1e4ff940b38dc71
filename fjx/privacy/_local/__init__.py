"""Local mechanisms: all of the noise comes from the client, and nobody else is trusted."""
