"""Every public factory is a row, or part of a row, of a table of laws."""

import ast
import inspect
import types

import pytest

from fjx import aggregators, algorithms, clients, compressors, privacy, rounds, samplers, servers
from tests.support import tables

ROOMS = {
    "COMPRESSORS": (compressors, {"describe", "lift", "rescaling"}),
    "AGGREGATORS": (aggregators, {"aggregate", "releasing"}),
    # Expressions of units, schedules of the round, and fine_tuned are no client updates.
    "CLIENTS": (clients, {"held_coordinates", "listed", "fine_tuned"}),
    # All clients begin alike, so that gossip alone moves nothing; its round is that of choco_sgd.
    "RECIPES": (algorithms, {"choco_gossip"}),
    "SAMPLERS": (samplers, set()),
    "SERVERS": (servers, set()),
    "MECHANISMS": (
        privacy,
        {
            # Numbers on the host, of mechanisms that are in the table.
            *("calibrate", "calibrate_rate", "calibrate_rounds", "epsilon", "examples_epsilon"),
            *("participation", "report", "rescaled"),
            *("noise_matrix", "prefix_error", "optimal_buffers", "optimal_coefficients"),
            "square_root_coefficients",
            # Bounds: what gaussian makes of a number, what laplace makes of one, and one in a norm for
            # which there is no noise.
            *("by_global_norm", "clip_by_global_norm", "by_l1_norm", "by_linf_norm"),
        },
    ),
}
"""For each table the package whose factories it holds, and the functions that make no row."""


def mentioned(table):
    """The names that the expression of a table looks up in a module."""
    module = ast.parse(inspect.getsource(tables))
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return {part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)}
    raise LookupError(table)


GRAPHS = {
    *("metropolis", "ring", "torus", "exponential", "one_peer_exponential", "random_graph"),
    "spectral_gap",
}
"""Functions of mixing matrices, which are tested on their own."""


def test_every_kind_of_round_is_in_the_table():
    """Executors are not rounds: results do not depend on them, see the law of chunks."""
    makers = {n for n in rounds.__all__ if isinstance(getattr(rounds, n), types.FunctionType)}
    shown = mentioned("ALGORITHMS") | mentioned("RECIPES")
    assert sorted(makers - GRAPHS - shown) == []


@pytest.mark.parametrize("table", ROOMS)
def test_every_public_factory_is_in_a_table(table):
    package, others = ROOMS[table]
    factories = {
        name for name in package.__all__ if isinstance(getattr(package, name), types.FunctionType)
    }
    assert others <= factories
    assert sorted(factories - others - mentioned(table)) == []
