"""The wire: payload types, their exact cost in bits, and their bytes."""

from fjx.wire._bits import bits as bits
from fjx.wire._bytes import from_bytes as from_bytes
from fjx.wire._bytes import header_bits as header_bits
from fjx.wire._bytes import to_bytes as to_bytes
from fjx.wire._types import Blocks as Blocks
from fjx.wire._types import Cast as Cast
from fjx.wire._types import Dithered as Dithered
from fjx.wire._types import Flat as Flat
from fjx.wire._types import Leaves as Leaves
from fjx.wire._types import LloydMax as LloydMax
from fjx.wire._types import Masked as Masked
from fjx.wire._types import Natural as Natural
from fjx.wire._types import Payload as Payload
from fjx.wire._types import Quantized as Quantized
from fjx.wire._types import Rotated as Rotated
from fjx.wire._types import Selected as Selected
from fjx.wire._types import Signs as Signs
from fjx.wire._types import Sparse as Sparse
from fjx.wire._types import Structure as Structure
from fjx.wire._types import TwoMeans as TwoMeans

__all__ = [
    "Blocks",
    "Cast",
    "Dithered",
    "Flat",
    "Leaves",
    "LloydMax",
    "Masked",
    "Natural",
    "Payload",
    "Quantized",
    "Rotated",
    "Selected",
    "Signs",
    "Sparse",
    "Structure",
    "TwoMeans",
    "bits",
    "from_bytes",
    "header_bits",
    "to_bytes",
]
