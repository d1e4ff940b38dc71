"""The graph of SecAgg+ against the table of its production code, and its shape."""

import pytest

from fjx import secure
from fjx.secure._graph import harary

SIZES = (10, 100, 1000, 10**6)

# google-parfait/federated-compute, fcp/secagg/server/graph_parameter_finder_test.cc
TABLE = {
    (0.33, 0.33, "semi-honest"): [(8, 4), (68, 34), (286, 150), (518, 270)],
    (0.05, 0.33, "semi-honest"): [(4, 2), (28, 6), (72, 24), (102, 34)],
    (0.05, 0.05, "semi-honest"): [(2, 2), (12, 6), (30, 17), (38, 22)],
    (0.05, 0.05, "semi-malicious"): [(2, 2), (16, 11), (52, 37), (74, 52)],
    (0.33, 0.05, "semi-malicious"): [(4, 4), (42, 37), (132, 109), (212, 173)],
    (0.33, 0.0, "semi-honest"): [(4, 4), (26, 25), (38, 36), (50, 47)],
    (0.0, 0.0, "semi-honest"): [(2, 2)] * 4,
}


@pytest.mark.few(4)
@pytest.mark.parametrize(("rates", "row"), [*TABLE.items()])
def test_degree_and_threshold_are_those_of_production(rates, row):
    adversary, dropout, model = rates
    found = [
        secure.graph_parameters(n, adversary_rate=adversary, dropout_rate=dropout, model=model)
        for n in SIZES
    ]
    assert found == row


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((10, 0.5, 0.41, "semi-honest"), "too few honest"),
        ((1000, 0.33, 0.33, "semi-malicious"), "too few honest"),
        ((10, 0.1, 0.41, "semi-malicious"), "too few honest"),
        ((0, 0.1, 0.1, "semi-honest"), "clients"),
        ((10, 1.0, 0.0, "semi-honest"), "adversary_rate"),
        ((10, 0.0, -0.1, "semi-honest"), "dropout_rate"),
        ((10, 0.0, 0.1, "honest"), "model"),
    ],
)
def test_what_cannot_be_promised_is_refused(arguments, match):
    n, adversary, dropout, model = arguments
    with pytest.raises(ValueError, match=match):
        secure.graph_parameters(n, adversary_rate=adversary, dropout_rate=dropout, model=model)


@pytest.mark.parametrize("n", [2, 3, 4, 9, 10])
@pytest.mark.parametrize("degree", [2, 4, 20])
def test_the_graph_is_regular_symmetric_and_connected(n, degree):
    near = harary((*range(1, n), 0), degree)
    assert {len(neighbours) for neighbours in near} == {min(degree, n - 1)}
    assert all(i in near[j] and i != j for i in range(n) for j in near[i])
    reached, new = {0}, {0}
    while new:
        new = {j for i in new for j in near[i]} - reached
        reached |= new
    assert reached == set(range(n))
