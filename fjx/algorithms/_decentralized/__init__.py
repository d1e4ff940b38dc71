"""Decentralized methods: nodes that talk to their neighbours."""
