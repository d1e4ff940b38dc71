"""Attacks: Byzantine clients of every kind, worst cases by gradient ascent, and probes of privacy.

An attack is a wrapper around the part of a round that it changes, and a predicate says who lies::

    bad = attacks.first(3, num_clients=20)
    client = attacks.poisoned(client, attacks.label_flip(10), byzantine=bad)      # data
    client = attacks.lying(client, attacks.reverse(), byzantine=bad)              # own message
    aggregator = attacks.colluding(aggregator, attacks.alie(), byzantine=bad)     # all together
"""

from fjx.attacks._colluding import Attack as Attack
from fjx.attacks._colluding import View as View
from fjx.attacks._colluding import colluding as colluding
from fjx.attacks._data import DataChange as DataChange
from fjx.attacks._data import backdoor as backdoor
from fjx.attacks._data import backdoor_success as backdoor_success
from fjx.attacks._data import label_flip as label_flip
from fjx.attacks._data import partly as partly
from fjx.attacks._data import poisoned as poisoned
from fjx.attacks._hidden import Direction as Direction
from fjx.attacks._hidden import min_max as min_max
from fjx.attacks._hidden import min_sum as min_sum
from fjx.attacks._inversion import Inverted as Inverted
from fjx.attacks._inversion import invert_gradient as invert_gradient
from fjx.attacks._membership import membership_by_loss as membership_by_loss
from fjx.attacks._membership import membership_by_ratio as membership_by_ratio
from fjx.attacks._messages import MessageChange as MessageChange
from fjx.attacks._messages import lying as lying
from fjx.attacks._messages import model_replacement as model_replacement
from fjx.attacks._messages import perturb as perturb
from fjx.attacks._messages import reverse as reverse
from fjx.attacks._neighbours import Neighbours as Neighbours
from fjx.attacks._neighbours import Statistic as Statistic
from fjx.attacks._neighbours import clipped_sum as clipped_sum
from fjx.attacks._neighbours import neighbours as neighbours
from fjx.attacks._rules import alie as alie
from fjx.attacks._rules import ipm as ipm
from fjx.attacks._rules import mimic as mimic
from fjx.attacks._rules import noise as noise
from fjx.attacks._rules import sign_flip as sign_flip
from fjx.attacks._search import foe as foe
from fjx.attacks._search import line_search as line_search
from fjx.attacks._search import one_of as one_of
from fjx.attacks._strongest import Damage as Damage
from fjx.attacks._strongest import Strongest as Strongest
from fjx.attacks._strongest import distortion as distortion
from fjx.attacks._strongest import strongest as strongest
from fjx.attacks._who import Byzantine as Byzantine
from fjx.attacks._who import at_random as at_random
from fjx.attacks._who import first as first
from fjx.attacks._who import ids as ids

__all__ = [
    "Attack",
    "Byzantine",
    "Damage",
    "DataChange",
    "Direction",
    "Inverted",
    "MessageChange",
    "Neighbours",
    "Statistic",
    "Strongest",
    "View",
    "alie",
    "at_random",
    "backdoor",
    "backdoor_success",
    "clipped_sum",
    "colluding",
    "distortion",
    "first",
    "foe",
    "ids",
    "invert_gradient",
    "ipm",
    "label_flip",
    "line_search",
    "lying",
    "membership_by_loss",
    "membership_by_ratio",
    "mimic",
    "min_max",
    "min_sum",
    "model_replacement",
    "neighbours",
    "noise",
    "one_of",
    "partly",
    "perturb",
    "poisoned",
    "reverse",
    "sign_flip",
    "strongest",
]
