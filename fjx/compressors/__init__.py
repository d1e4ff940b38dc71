"""Codecs for what clients send: payloads that are the wire, with promises that are tested."""

from fjx._lift import lift as lift
from fjx.compressors._combine import ErrorFeedbackState as ErrorFeedbackState
from fjx.compressors._combine import chain as chain
from fjx.compressors._combine import error_feedback as error_feedback
from fjx.compressors._combine import flatten as flatten
from fjx.compressors._combine import on as on
from fjx.compressors._combine import per_leaf as per_leaf
from fjx.compressors._identity import cast as cast
from fjx.compressors._identity import identity as identity
from fjx.compressors._quantize import quantize as quantize
from fjx.compressors._rotate import drive as drive
from fjx.compressors._rotate import eden as eden
from fjx.compressors._rotate import lloyd_max as lloyd_max
from fjx.compressors._rotate import rotated as rotated
from fjx.compressors._sparsify import rand_k as rand_k
from fjx.compressors._sparsify import top_k as top_k

__all__ = [
    "ErrorFeedbackState",
    "cast",
    "chain",
    "drive",
    "eden",
    "error_feedback",
    "flatten",
    "identity",
    "lift",
    "lloyd_max",
    "on",
    "per_leaf",
    "quantize",
    "rand_k",
    "rotated",
    "top_k",
]
