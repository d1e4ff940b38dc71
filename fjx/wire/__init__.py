"""The wire: payload types, their exact cost in bits, and their bytes."""

from fjx._tree import Structure as Structure
from fjx.wire._bits import bits as bits
from fjx.wire._bits import measured_bits as measured_bits
from fjx.wire._bytes import from_bytes as from_bytes
from fjx.wire._bytes import header_bits as header_bits
from fjx.wire._bytes import to_bytes as to_bytes
from fjx.wire._coders import coded_bits as coded_bits
from fjx.wire._coders import decode_integers as decode_integers
from fjx.wire._coders import encode_integers as encode_integers
from fjx.wire._lowrank import LowRank as LowRank
from fjx.wire._lowrank import Projected as Projected
from fjx.wire._lowrank import Sketched as Sketched
from fjx.wire._payload import Payload as Payload
from fjx.wire._payload import Ragged as Ragged
from fjx.wire._quic import Quic as Quic
from fjx.wire._rotated import MixedLloydMax as MixedLloydMax
from fjx.wire._rotated import Rotated as Rotated
from fjx.wire._scalar import Cast as Cast
from fjx.wire._scalar import Codebook as Codebook
from fjx.wire._scalar import Dithered as Dithered
from fjx.wire._scalar import FixedStep as FixedStep
from fjx.wire._scalar import KLevel as KLevel
from fjx.wire._scalar import LloydMax as LloydMax
from fjx.wire._scalar import Microscaled as Microscaled
from fjx.wire._scalar import Natural as Natural
from fjx.wire._scalar import Quantized as Quantized
from fjx.wire._scalar import Signs as Signs
from fjx.wire._scalar import SubtractivelyDithered as SubtractivelyDithered
from fjx.wire._scalar import Ternary as Ternary
from fjx.wire._scalar import TwoMeans as TwoMeans
from fjx.wire._shared import Codes as Codes
from fjx.wire._shared import Words as Words
from fjx.wire._sparse import BernoulliMasked as BernoulliMasked
from fjx.wire._sparse import Kept as Kept
from fjx.wire._sparse import Masked as Masked
from fjx.wire._sparse import MaybeSent as MaybeSent
from fjx.wire._sparse import Sparse as Sparse
from fjx.wire._trees import Blocks as Blocks
from fjx.wire._trees import Coded as Coded
from fjx.wire._trees import Flat as Flat
from fjx.wire._trees import Leaves as Leaves
from fjx.wire._trees import Observed as Observed
from fjx.wire._trees import OneOf as OneOf
from fjx.wire._trees import Selected as Selected
from fjx.wire._trees import Shifted as Shifted
from fjx.wire._trees import SideInformation as SideInformation
from fjx.wire._trees import SubModel as SubModel
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
