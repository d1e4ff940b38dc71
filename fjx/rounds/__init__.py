"""Rounds: the phases of a round, and the kinds of rounds that are made of them.

:func:`fjx.compose` plays the round of a server and its clients.  The others are for algorithms whose
rounds are of two kinds, whose clients keep a replica of the server, that have no server at all, or that
train a part of the model.
"""

from fjx.rounds._difference import DifferenceState as DifferenceState
from fjx.rounds._difference import Link as Link
from fjx.rounds._difference import difference as difference
from fjx.rounds._frozen import FrozenState as FrozenState
from fjx.rounds._frozen import frozen as frozen
from fjx.rounds._gossip import ChocoRow as ChocoRow
from fjx.rounds._gossip import ChocoState as ChocoState
from fjx.rounds._gossip import choco as choco
from fjx.rounds._minibatch import minibatch as minibatch
from fjx.rounds._replicated import Replicas as Replicas
from fjx.rounds._replicated import ReplicatedAggregate as ReplicatedAggregate
from fjx.rounds._replicated import ReplicatedServer as ReplicatedServer
from fjx.rounds._replicated import replicated as replicated
from fjx.rounds._selecting import Choose as Choose
from fjx.rounds._selecting import highest as highest
from fjx.rounds._selecting import proportional as proportional
from fjx.rounds._selecting import selecting as selecting
from fjx.rounds._state import ClientRow as ClientRow
from fjx.rounds._two_phases import Phase as Phase
from fjx.rounds._two_phases import two_phases as two_phases

__all__ = [
    "ChocoRow",
    "ChocoState",
    "Choose",
    "ClientRow",
    "DifferenceState",
    "FrozenState",
    "Link",
    "Phase",
    "Replicas",
    "ReplicatedAggregate",
    "ReplicatedServer",
    "choco",
    "difference",
    "frozen",
    "highest",
    "minibatch",
    "proportional",
    "replicated",
    "selecting",
    "two_phases",
]
