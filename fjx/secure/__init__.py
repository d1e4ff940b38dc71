"""Secure sums: protocols between parties that add integers which no server may see."""

from fjx.secure._bfv import bfv as bfv
from fjx.secure._bonawitz import bonawitz as bonawitz
from fjx.secure._bonawitz import secagg_plus as secagg_plus
from fjx.secure._ckks import ckks as ckks
from fjx.secure._errors import Abort as Abort
from fjx.secure._errors import Inconsistent as Inconsistent
from fjx.secure._errors import Malformed as Malformed
from fjx.secure._errors import Tampered as Tampered
from fjx.secure._errors import TooFew as TooFew
from fjx.secure._errors import Unexpected as Unexpected
from fjx.secure._graph import graph_parameters as graph_parameters
from fjx.secure._halves import Halves as Halves
from fjx.secure._halves import Layout as Layout
from fjx.secure._halves import halves as halves
from fjx.secure._lightsecagg import lightsecagg as lightsecagg
from fjx.secure._plain import plain as plain
from fjx.secure._plain import two_servers as two_servers
from fjx.secure._play import Bill as Bill
from fjx.secure._play import Outcome as Outcome
from fjx.secure._play import Sent as Sent
from fjx.secure._play import Transport as Transport
from fjx.secure._play import in_memory as in_memory
from fjx.secure._play import play as play
from fjx.secure._protocol import Protocol as Protocol
from fjx.secure._run import SecureResult as SecureResult
from fjx.secure._run import SecureRound as SecureRound
from fjx.secure._run import run as run
from fjx.secure._selective import Selective as Selective
from fjx.secure._selective import selective as selective
from fjx.secure._session import Session as Session
from fjx.secure._shamir import join_shares as join_shares
from fjx.secure._shamir import split_secret as split_secret
from fjx.secure._simulated import simulated as simulated

__all__ = [
    "Abort",
    "Bill",
    "Halves",
    "Inconsistent",
    "Layout",
    "Malformed",
    "Outcome",
    "Protocol",
    "SecureResult",
    "SecureRound",
    "Selective",
    "Sent",
    "Session",
    "Tampered",
    "TooFew",
    "Transport",
    "Unexpected",
    "bfv",
    "bonawitz",
    "ckks",
    "graph_parameters",
    "halves",
    "in_memory",
    "join_shares",
    "lightsecagg",
    "plain",
    "play",
    "run",
    "secagg_plus",
    "selective",
    "simulated",
    "split_secret",
    "two_servers",
]
