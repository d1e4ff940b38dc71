"""Step sizes and rates that theory proves, as functions of what a problem and a codec are.

Every function takes the constants of :class:`fjx.data.Problem` and of a :class:`fjx.Contract`, and
returns a :class:`Theory`: the largest step size of its theorem, and the factor by which the theorem's
Lyapunov function shrinks, in expectation, in each round.  All are for full gradients, and of all clients
where the function does not say otherwise.
"""

from fjx.theory._bidirectional import artemis as artemis
from fjx.theory._bidirectional import choco_gossip as choco_gossip
from fjx.theory._bidirectional import ef21_bc as ef21_bc
from fjx.theory._bidirectional import fedlin as fedlin
from fjx.theory._bidirectional import pp_marina as pp_marina
from fjx.theory._compressed import compressed_gd as compressed_gd
from fjx.theory._compressed import dasha as dasha
from fjx.theory._compressed import diana as diana
from fjx.theory._compressed import ef21 as ef21
from fjx.theory._compressed import ef_bv as ef_bv
from fjx.theory._compressed import marina as marina
from fjx.theory._lazy import clag as clag
from fjx.theory._local import compressed_scaffnew as compressed_scaffnew
from fjx.theory._local import scaffnew as scaffnew
from fjx.theory._local import tamuna as tamuna
from fjx.theory._theory import Theory as Theory

__all__ = [
    "Theory",
    "artemis",
    "choco_gossip",
    "clag",
    "compressed_gd",
    "compressed_scaffnew",
    "dasha",
    "diana",
    "ef21",
    "ef21_bc",
    "ef_bv",
    "fedlin",
    "marina",
    "pp_marina",
    "scaffnew",
    "tamuna",
]
