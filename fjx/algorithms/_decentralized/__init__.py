"""Decentralised methods: nodes that exchange messages with their neighbours."""
