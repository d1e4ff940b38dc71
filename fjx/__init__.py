"""Federated learning in JAX: pure functions to compose, compiled as one program."""

from fjx import compressors as compressors
from fjx import wire as wire
