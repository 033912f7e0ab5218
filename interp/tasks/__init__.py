"""Tasks: token sequences with known answers. Must not know models."""
