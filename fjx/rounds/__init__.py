"""Rounds: the phases of a round, and the kinds of rounds that are made of them.

:func:`fjx.compose` plays the round of a server and its clients.  The others are for algorithms whose
rounds are of two kinds, whose clients keep a replica of the server, that have no server at all, or that
train a part of the model.
"""

from fjx.rounds._averaging import NodeRow as NodeRow
from fjx.rounds._averaging import TrackingRow as TrackingRow
from fjx.rounds._averaging import gossip as gossip
from fjx.rounds._averaging import tracking as tracking
from fjx.rounds._difference import DifferenceState as DifferenceState
from fjx.rounds._difference import Link as Link
from fjx.rounds._difference import difference as difference
from fjx.rounds._frozen import FrozenState as FrozenState
from fjx.rounds._frozen import frozen as frozen
from fjx.rounds._gossip import ChocoRow as ChocoRow
from fjx.rounds._gossip import NodesState as NodesState
from fjx.rounds._gossip import choco as choco
from fjx.rounds._graphs import exponential as exponential
from fjx.rounds._graphs import metropolis as metropolis
from fjx.rounds._graphs import one_peer_exponential as one_peer_exponential
from fjx.rounds._graphs import random_graph as random_graph
from fjx.rounds._graphs import ring as ring
from fjx.rounds._graphs import spectral_gap as spectral_gap
from fjx.rounds._graphs import torus as torus
from fjx.rounds._hierarchical import Edges as Edges
from fjx.rounds._hierarchical import HierarchicalState as HierarchicalState
from fjx.rounds._hierarchical import hierarchical as hierarchical
from fjx.rounds._minibatch import minibatch as minibatch
from fjx.rounds._private_leaves import Ends as Ends
from fjx.rounds._private_leaves import SharedState as SharedState
from fjx.rounds._private_leaves import private_leaves as private_leaves
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
    "Choose",
    "ClientRow",
    "DifferenceState",
    "Edges",
    "Ends",
    "FrozenState",
    "HierarchicalState",
    "Link",
    "NodeRow",
    "NodesState",
    "Phase",
    "Replicas",
    "ReplicatedAggregate",
    "ReplicatedServer",
    "SharedState",
    "TrackingRow",
    "choco",
    "difference",
    "exponential",
    "frozen",
    "gossip",
    "hierarchical",
    "highest",
    "metropolis",
    "minibatch",
    "one_peer_exponential",
    "private_leaves",
    "proportional",
    "random_graph",
    "replicated",
    "ring",
    "selecting",
    "spectral_gap",
    "torus",
    "tracking",
    "two_phases",
]
