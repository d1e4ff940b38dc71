"""Private methods: client-level differential privacy."""
