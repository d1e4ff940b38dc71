"""Tables, problems and helpers that several test files share."""
