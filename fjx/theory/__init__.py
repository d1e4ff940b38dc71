"""Proved step sizes and rates, as functions of the constants of a problem and of a codec.

Every function takes the constants of a :class:`fjx.data.Problem` and of a :class:`fjx.Contract`.
It returns a :class:`Theory`: the largest step size of its theorem, and the factor by which the
Lyapunov function of the theorem shrinks in each round, in expectation.  Each docstring states the
theorem; :doc:`/theory` has the proofs that are our own.  Unless a function says otherwise, its
theorem is for full gradients, for all clients in every round, and for models that are sent down
without compression.

The functions ``kappa_...`` are the robustness coefficients of rules in :mod:`fjx.aggregators`.  Any
other function has the name of its recipe in :mod:`fjx.algorithms`.  Some compressed recipes have no
function:

- ``sign_sgd``: if clients differ, there are problems on which it does not converge at any step
  size.
- ``power_sgd``: in the worst case it keeps nothing of a gradient, because other gradients chose the
  subspace.  Theorems on error feedback need a delta, which would have to be measured.
- ``fetch_sgd``: its theorems assume that gradients have heavy hitters, or that the kept part of a
  sketch contracts.  A sketch alone cannot promise either.
- ``onebit_adam``: its theorem assumes that the errors of the codecs are bounded, and it depends on
  the variance that the warm-up leaves.
- ``choco_sgd``: its theorem bounds gradients, and its steps fall as 1 / t.  :func:`choco_gossip`
  covers the gossip alone.
- ``fedcomloc``: its codecs compress models, and their errors do not vanish at the optimum.  Without
  codecs it is :func:`scaffnew`.
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
from fjx.theory._robust import kappa_geometric_median as kappa_geometric_median
from fjx.theory._robust import kappa_krum as kappa_krum
from fjx.theory._robust import kappa_lower_bound as kappa_lower_bound
from fjx.theory._robust import kappa_mda as kappa_mda
from fjx.theory._robust import kappa_mean_around_median as kappa_mean_around_median
from fjx.theory._robust import kappa_median as kappa_median
from fjx.theory._robust import kappa_nearest_neighbour_mixing as kappa_nearest_neighbour_mixing
from fjx.theory._robust import kappa_smea as kappa_smea
from fjx.theory._robust import kappa_trimmed_mean as kappa_trimmed_mean
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
    "kappa_geometric_median",
    "kappa_krum",
    "kappa_lower_bound",
    "kappa_mda",
    "kappa_mean_around_median",
    "kappa_median",
    "kappa_nearest_neighbour_mixing",
    "kappa_smea",
    "kappa_trimmed_mean",
    "marina",
    "mcm",
    "pp_marina",
    "scaffnew",
    "tamuna",
]
