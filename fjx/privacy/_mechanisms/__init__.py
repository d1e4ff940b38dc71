"""Central mechanisms: a trusted server adds noise once, to a sum."""
