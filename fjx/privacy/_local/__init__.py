"""Local mechanisms: a client protects its own message before it is sent."""
