"""The wire: payload types, their exact cost in bits, and their bytes.

A payload is the content of one message, as a pytree of arrays and payload types.
:func:`bits` gives its exact size, :func:`to_bytes` writes it and :func:`from_bytes` reads it.

The payload types, by kind:

- Uniform grids: :class:`Quantized`, :class:`SubtractivelyDithered`, :class:`FixedStep`,
  :class:`KLevel`.
- Signs, with two or three levels: :class:`Signs`, :class:`TwoMeans`, :class:`Ternary`.
- Narrow floating formats and powers of two: :class:`Cast`, :class:`Microscaled`, :class:`Natural`,
  :class:`Dithered`.
- Codebooks: :class:`LloydMax`, :class:`MixedLloydMax`, :class:`Codebook`, and :class:`Quic`.
- Some coordinates: :class:`Sparse`, :class:`Kept`, :class:`Masked`, :class:`BernoulliMasked`,
  :class:`SubModel`.
- Rotations, low rank and sketches: :class:`Rotated`, :class:`LowRank`, :class:`Sketched`,
  :class:`Projected`.
- Trees taken apart: :class:`Flat`, :class:`Leaves`, :class:`Blocks`, :class:`Selected`,
  :class:`Summed`, and :class:`Structure` for the shape of a tree.
- Optional parts: :class:`OneOf`, :class:`MaybeSent`.
- Parts that are not sent: :class:`SideInformation`, :class:`Shifted`, :class:`Observed`.
- Seeds, shared codes and lossless codes: :class:`Seed`, :class:`Codes`, :class:`Words`, :class:`Coded`.

:class:`Payload` and :class:`Ragged` are the bases for payload types of your own.
"""

from fjx._tree import Structure as Structure
from fjx.wire._bits import bits as bits
from fjx.wire._bits import measured_bits as measured_bits
from fjx.wire._bytes import from_bytes as from_bytes
from fjx.wire._bytes import header_bits as header_bits
from fjx.wire._bytes import to_bytes as to_bytes
from fjx.wire._choices import MaybeSent as MaybeSent
from fjx.wire._choices import OneOf as OneOf
from fjx.wire._codebooks import Codebook as Codebook
from fjx.wire._codebooks import LloydMax as LloydMax
from fjx.wire._codebooks import MixedLloydMax as MixedLloydMax
from fjx.wire._coders.integers import coded_bits as coded_bits
from fjx.wire._coders.integers import decode_integers as decode_integers
from fjx.wire._coders.integers import encode_integers as encode_integers
from fjx.wire._floats import Cast as Cast
from fjx.wire._floats import Dithered as Dithered
from fjx.wire._floats import Microscaled as Microscaled
from fjx.wire._floats import Natural as Natural
from fjx.wire._grids import FixedStep as FixedStep
from fjx.wire._grids import KLevel as KLevel
from fjx.wire._grids import Quantized as Quantized
from fjx.wire._grids import SubtractivelyDithered as SubtractivelyDithered
from fjx.wire._lowrank import LowRank as LowRank
from fjx.wire._lowrank import Projected as Projected
from fjx.wire._lowrank import Sketched as Sketched
from fjx.wire._payload import Payload as Payload
from fjx.wire._payload import Ragged as Ragged
from fjx.wire._quic import Quic as Quic
from fjx.wire._rotated import Rotated as Rotated
from fjx.wire._seed import Seed as Seed
from fjx.wire._shared import Codes as Codes
from fjx.wire._shared import Words as Words
from fjx.wire._side_information import Observed as Observed
from fjx.wire._side_information import Shifted as Shifted
from fjx.wire._side_information import SideInformation as SideInformation
from fjx.wire._signs import Signs as Signs
from fjx.wire._signs import Ternary as Ternary
from fjx.wire._signs import TwoMeans as TwoMeans
from fjx.wire._sparse import BernoulliMasked as BernoulliMasked
from fjx.wire._sparse import Kept as Kept
from fjx.wire._sparse import Masked as Masked
from fjx.wire._sparse import Sparse as Sparse
from fjx.wire._sparse import SubModel as SubModel
from fjx.wire._trees import Blocks as Blocks
from fjx.wire._trees import Coded as Coded
from fjx.wire._trees import Flat as Flat
from fjx.wire._trees import Leaves as Leaves
from fjx.wire._trees import Selected as Selected
from fjx.wire._trees import Summed as Summed
from fjx.wire._words import pack_words as pack_words
from fjx.wire._words import unpack_words as unpack_words

__all__ = [
    "BernoulliMasked",
    "Blocks",
    "Cast",
    "Codebook",
    "Coded",
    "Codes",
    "Dithered",
    "FixedStep",
    "Flat",
    "KLevel",
    "Kept",
    "Leaves",
    "LloydMax",
    "LowRank",
    "Masked",
    "MaybeSent",
    "Microscaled",
    "MixedLloydMax",
    "Natural",
    "Observed",
    "OneOf",
    "Payload",
    "Projected",
    "Quantized",
    "Quic",
    "Ragged",
    "Rotated",
    "Seed",
    "Selected",
    "Shifted",
    "SideInformation",
    "Signs",
    "Sketched",
    "Sparse",
    "Structure",
    "SubModel",
    "SubtractivelyDithered",
    "Summed",
    "Ternary",
    "TwoMeans",
    "Words",
    "bits",
    "coded_bits",
    "decode_integers",
    "encode_integers",
    "from_bytes",
    "header_bits",
    "measured_bits",
    "pack_words",
    "to_bytes",
    "unpack_words",
]
