"""Step sizes and rates that theory proves, as functions of what a problem and a codec are.

Every function takes the constants of :class:`fjx.data.Problem` and of a :class:`fjx.Contract`, and
returns a :class:`Theory`: the largest step size of its theorem, and the factor by which the theorem's
Lyapunov function shrinks, in expectation, in each round.  All are for full gradients of all
clients, and for models that travel down whole, where the function does not say otherwise.

A function has the name of its recipe in :mod:`fjx.algorithms`.  Compressed recipes without one:

- ``sign_sgd``: where clients differ there are problems on which it does not converge at any step.
- ``power_sgd``: in the worst case it keeps nothing of a gradient, as other gradients chose the
  subspace; theorems on error feedback ask for a delta, which would have to be measured.
- ``fetch_sgd``: its theorems suppose that gradients have heavy hitters, or that what is kept of a
  sketch contracts, which nobody can promise of a sketch alone.
- ``onebit_adam``: its theorem supposes that what codecs lose is bounded, and depends on the variance
  that the warm-up leaves.
- ``choco_sgd``: its theorem bounds gradients, and its steps fall as 1 / t; there is a function of the
  gossip alone, :func:`choco_gossip`.
- ``fedcomloc``: its codecs are of models, whose errors do not vanish at the optimum; without codecs it
  is :func:`scaffnew`.
"""

from fjx.theory._bidirectional import artemis as artemis
from fjx.theory._bidirectional import choco_gossip as choco_gossip
from fjx.theory._bidirectional import ef21_bc as ef21_bc
from fjx.theory._bidirectional import fedlin as fedlin
from fjx.theory._bidirectional import mcm as mcm
from fjx.theory._bidirectional import pp_marina as pp_marina
from fjx.theory._compressed import compressed_gd as compressed_gd
from fjx.theory._compressed import dasha as dasha
from fjx.theory._compressed import diana as diana
from fjx.theory._compressed import ef21 as ef21
from fjx.theory._compressed import ef21_sgdm as ef21_sgdm
from fjx.theory._compressed import ef_bv as ef_bv
from fjx.theory._compressed import marina as marina
from fjx.theory._fedcom import fedcom as fedcom
from fjx.theory._fedcom import fedcomgate as fedcomgate
from fjx.theory._fedcom import fedpaq as fedpaq
from fjx.theory._lazy import clag as clag
from fjx.theory._local import compressed_scaffnew as compressed_scaffnew
from fjx.theory._local import scaffnew as scaffnew
from fjx.theory._local import tamuna as tamuna
from fjx.theory._residual import double_squeeze as double_squeeze
from fjx.theory._residual import ef14 as ef14
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
    "double_squeeze",
    "ef14",
    "ef21",
    "ef21_bc",
    "ef21_sgdm",
    "ef_bv",
    "fedcom",
    "fedcomgate",
    "fedlin",
    "fedpaq",
    "marina",
    "mcm",
    "pp_marina",
    "scaffnew",
    "tamuna",
]
