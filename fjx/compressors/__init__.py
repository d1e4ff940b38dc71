"""Codecs: compress what clients and the server send to each other.

A codec is a :class:`fjx.Compressor`.  It encodes a message into a payload, and decodes the payload
into a message.  The payload is exactly what is sent, so bits are measured on it.  Each codec states
a :class:`fjx.Contract` (unbiased, omega, delta), and tests check every promise in it.

Most codecs work on each float leaf of a message separately.  ``flatten(codec)`` makes one vector of
the whole message.  The codecs by kind:

- No loss: ``identity``.
- Formats of floats: ``cast``, ``stochastic_cast``, ``mx`` (microscaling).
- Unbiased quantisers: ``quantize``, ``qsgd``, ``terngrad``, ``k_level``, ``fixed_step``,
  ``subtractive_dither``, ``natural``, ``natural_dithering``.
- Biased quantisers, smaller error in one message: ``absmax``, ``lloyd_max``, ``scaled_sign``,
  ``one_bit_sgd``, ``product_quantize``.
- Sparsifiers, biased: ``top_k``, ``threshold``, ``stc``; unbiased: ``rand_k``, ``rand_p``,
  ``bernoulli``, ``importance_sampling``.
- Rotations: ``rotated`` around any codec; with a quantiser made for them: ``eden``, ``drive``,
  ``quic_fl``, ``kashin``.
- Sketches: ``count_sketch``, ``random_projection``.
- Low rank: ``power_sgd``.
- Memories: ``error_feedback`` (with ``rescaling``), ``momentum_correction``, ``shifted``.
- Combinators of codecs: ``chain``, ``induced``, ``repeat``, ``switch``, ``mixture``, ``scaled``,
  ``entropy``.
- Combinators of leaves: ``on`` some of them, ``flatten``, ``per_leaf``, ``blockwise``.

``describe(codec, params)`` prints the cost, contract and error of a codec on your model.  ``lift``
makes a codec of your own from functions of one array, and lists what such a codec must do.
"""

from fjx.compressors._bernoulli import bernoulli as bernoulli
from fjx.compressors._bernoulli import rand_p as rand_p
from fjx.compressors._block_formats import mx as mx
from fjx.compressors._blocks import blockwise as blockwise
from fjx.compressors._cast import cast as cast
from fjx.compressors._cast import stochastic_cast as stochastic_cast
from fjx.compressors._chain import chain as chain
from fjx.compressors._codebook import product_quantize as product_quantize
from fjx.compressors._describe import Description as Description
from fjx.compressors._describe import Row as Row
from fjx.compressors._describe import describe as describe
from fjx.compressors._eden import drive as drive
from fjx.compressors._eden import eden as eden
from fjx.compressors._eden import lloyd_max as lloyd_max
from fjx.compressors._entropy import entropy as entropy
from fjx.compressors._feedback import ErrorFeedbackState as ErrorFeedbackState
from fjx.compressors._feedback import MomentumState as MomentumState
from fjx.compressors._feedback import error_feedback as error_feedback
from fjx.compressors._feedback import momentum_correction as momentum_correction
from fjx.compressors._feedback import rescaling as rescaling
from fjx.compressors._identity import identity as identity
from fjx.compressors._importance import importance_sampling as importance_sampling
from fjx.compressors._kashin import kashin as kashin
from fjx.compressors._lift import lift as lift
from fjx.compressors._lowrank import power_sgd as power_sgd
from fjx.compressors._mixture import mixture as mixture
from fjx.compressors._natural import natural as natural
from fjx.compressors._natural import natural_dithering as natural_dithering
from fjx.compressors._quantize import absmax as absmax
from fjx.compressors._quantize import qsgd as qsgd
from fjx.compressors._quantize import quantize as quantize
from fjx.compressors._quic import quic_fl as quic_fl
from fjx.compressors._rotate import rotated as rotated
from fjx.compressors._scaled import scaled as scaled
from fjx.compressors._shifted import ShiftedState as ShiftedState
from fjx.compressors._shifted import shifted as shifted
from fjx.compressors._sign import one_bit_sgd as one_bit_sgd
from fjx.compressors._sign import scaled_sign as scaled_sign
from fjx.compressors._sketch import count_sketch as count_sketch
from fjx.compressors._sketch import random_projection as random_projection
from fjx.compressors._sparsify import rand_k as rand_k
from fjx.compressors._sparsify import stc as stc
from fjx.compressors._sparsify import threshold as threshold
from fjx.compressors._sparsify import top_k as top_k
from fjx.compressors._sums import SumState as SumState
from fjx.compressors._sums import induced as induced
from fjx.compressors._sums import repeat as repeat
from fjx.compressors._switch import switch as switch
from fjx.compressors._terngrad import terngrad as terngrad
from fjx.compressors._trees import flatten as flatten
from fjx.compressors._trees import on as on
from fjx.compressors._trees import per_leaf as per_leaf
from fjx.compressors._uniform import fixed_step as fixed_step
from fjx.compressors._uniform import k_level as k_level
from fjx.compressors._uniform import subtractive_dither as subtractive_dither

__all__ = [
    "Description",
    "ErrorFeedbackState",
    "MomentumState",
    "Row",
    "ShiftedState",
    "SumState",
    "absmax",
    "bernoulli",
    "blockwise",
    "cast",
    "chain",
    "count_sketch",
    "describe",
    "drive",
    "eden",
    "entropy",
    "error_feedback",
    "fixed_step",
    "flatten",
    "identity",
    "importance_sampling",
    "induced",
    "k_level",
    "kashin",
    "lift",
    "lloyd_max",
    "mixture",
    "momentum_correction",
    "mx",
    "natural",
    "natural_dithering",
    "on",
    "one_bit_sgd",
    "per_leaf",
    "power_sgd",
    "product_quantize",
    "qsgd",
    "quantize",
    "quic_fl",
    "rand_k",
    "rand_p",
    "random_projection",
    "repeat",
    "rescaling",
    "rotated",
    "scaled",
    "scaled_sign",
    "shifted",
    "stc",
    "stochastic_cast",
    "subtractive_dither",
    "switch",
    "terngrad",
    "threshold",
    "top_k",
]
