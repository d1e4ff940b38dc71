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
from fjx.rounds._private_leaves import Ends as Ends
from fjx.rounds._private_leaves import SharedState as SharedState
from fjx.rounds._private_leaves import private_leaves as private_leaves
from fjx.rounds._replicated import Replicas as Replicas
from fjx.rounds._replicated import ReplicatedAggregate as ReplicatedAggregate
from fjx.rounds._replicated import ReplicatedServer as ReplicatedServer
from fjx.rounds._replicated import replicated as replicated
from fjx.rounds._state import ClientRow as ClientRow
from fjx.rounds._two_phases import Phase as Phase
from fjx.rounds._two_phases import two_phases as two_phases

__all__ = [
    "ChocoRow",
    "ChocoState",
    "ClientRow",
    "DifferenceState",
    "Ends",
    "FrozenState",
    "Link",
    "Phase",
    "Replicas",
    "ReplicatedAggregate",
    "ReplicatedServer",
    "SharedState",
    "choco",
    "difference",
    "frozen",
    "minibatch",
    "private_leaves",
    "replicated",
    "two_phases",
]
