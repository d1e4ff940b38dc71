"""Central mechanisms: noise that a trusted server adds once to a sum."""
