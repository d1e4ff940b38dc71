"""Graphs of nodes that gossip, as mixing matrices."""

from typing import Any

import numpy as np

from fjx import _validate


def metropolis(adjacency: np.ndarray) -> np.ndarray:
    r"""Metropolis weights of a graph: a symmetric mixing matrix with rows that sum to one.

    .. math:: w_{ij} = 1 / (1 + \max(d_i, d_j)), \quad w_{ii} = 1 - \sum_{j \ne i} w_{ij}

    for neighbours i and j of degrees d_i and d_j.

    Args:
        adjacency: symmetric matrix, ``[n, n]``, that is not zero for neighbours; its diagonal does not
            count.

    Returns:
        Mixing matrix, ``f64[n, n]``.

    Raises:
        ValueError: ``adjacency`` is not square, or not symmetric.

    Examples:
        A path of three nodes:

        >>> import numpy as np
        >>> from fjx import rounds
        >>> print(3 * rounds.metropolis(np.eye(3, k=1) + np.eye(3, k=-1)))
        [[2. 1. 0.]
         [1. 1. 1.]
         [0. 1. 2.]]

    References:
        Xiao, Boyd, Kim, *Distributed Average Consensus with Least-Mean-Square Deviation*, Journal of
        Parallel and Distributed Computing 2007.
    """
    adjacency = np.asarray(adjacency)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1] or not adjacency.size:
        raise ValueError(f"adjacency must be a square matrix, got shape {adjacency.shape}")
    edges = adjacency != 0
    if (edges != edges.T).any():
        raise ValueError("adjacency must be symmetric: an edge joins two nodes in both directions")
    edges = edges & ~np.eye(len(edges), dtype=bool)
    degree = edges.sum(1)
    weights = np.where(edges, 1 / (1 + np.maximum(degree[:, None], degree[None, :])), 0.0)
    return weights + np.diag(1 - weights.sum(1))


def ring(nodes: int) -> np.ndarray:
    """Mixing matrix of a ring: a third on a node and on each of its two neighbours.

    Its spectral gap is 2/3 (1 - cos(2 pi / n)) from four nodes on, about 13 / n^2.

    Args:
        nodes: number n of nodes.

    Returns:
        Mixing matrix, ``f64[n, n]``.

    Raises:
        ValueError: ``nodes`` is below one.

    Examples:
        >>> from fjx import rounds
        >>> print(3 * rounds.ring(4))
        [[1. 1. 0. 1.]
         [1. 1. 1. 0.]
         [0. 1. 1. 1.]
         [1. 0. 1. 1.]]
    """
    nodes = _validate.static_integer("nodes", nodes, at_least=1)
    return _circulant(nodes, [1])


def torus(rows: int, columns: int) -> np.ndarray:
    """Mixing matrix of a torus: a fifth on a node and on each of its four neighbours.

    Its spectral gap is 2/5 (1 - cos(2 pi / max(rows, columns))) if both are four or more.

    Args:
        rows: number of rows of the grid.
        columns: number of columns of the grid.

    Returns:
        Mixing matrix, ``f64[n, n]`` with n = rows columns.  Node ``r * columns + c`` is in row r and
        column c.

    Raises:
        ValueError: an argument is below one.

    Examples:
        >>> from fjx import rounds
        >>> (5 * rounds.torus(3, 3)[0]).round(2).tolist()
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """
    rows = _validate.static_integer("rows", rows, at_least=1)
    columns = _validate.static_integer("columns", columns, at_least=1)
    down, across = (_shifts(size, [1]) for size in (rows, columns))
    return metropolis(np.kron(down, np.eye(columns)) + np.kron(np.eye(rows), across))


def exponential(nodes: int) -> np.ndarray:
    """Mixing matrix of an exponential graph: neighbours at distances 1, 2, 4, ... along a ring.

    Every node has at most 2 log2(n) neighbours, and the spectral gap falls like 1 / log n.

    Args:
        nodes: number n of nodes.

    Returns:
        Mixing matrix, ``f64[n, n]``.

    Raises:
        ValueError: ``nodes`` is below one.

    Examples:
        >>> from fjx import rounds
        >>> (rounds.exponential(16)[0] > 0).nonzero()[0].tolist()
        [0, 1, 2, 4, 8, 12, 14, 15]

    References:
        Ying, Yuan, Chen, Hu, Pan, Yin, *Exponential Graph is Provably Efficient for Decentralized Deep
        Training*, NeurIPS 2021 (arXiv:2110.13363), here with edges in both directions.
    """
    nodes = _validate.static_integer("nodes", nodes, at_least=1)
    return _circulant(nodes, [2**k for k in range(max(nodes - 1, 1).bit_length())])


def one_peer_exponential(nodes: int) -> np.ndarray:
    """Mixing matrices of a graph that changes: in round t every node averages with one other.

    The partner of node i in round t is i XOR 2^(t mod log2 n).  After log2(n) rounds all nodes have the
    exact mean.

    Args:
        nodes: number n of nodes, a power of two, at least two.

    Returns:
        Mixing matrices, ``f64[log2(n), n, n]``, one for each round of a period.

    Raises:
        ValueError: ``nodes`` is no power of two, or one.

    Examples:
        >>> import numpy as np
        >>> from fjx import rounds
        >>> first, second = rounds.one_peer_exponential(4)
        >>> np.ptp(second @ first).item()
        0.0

    References:
        Ying, Yuan, Chen, Hu, Pan, Yin, NeurIPS 2021 (arXiv:2110.13363), section 4, here with partners
        that exchange their models.
    """
    nodes = _validate.static_integer("nodes", nodes, at_least=2)
    if nodes & (nodes - 1):
        raise ValueError(
            f"nodes must be a power of two, got {nodes}: only then does everybody have a partner in "
            "each round; exponential(nodes) takes any number"
        )
    ids = np.arange(nodes)
    partners = (ids ^ (1 << t) for t in range(nodes.bit_length() - 1))
    return np.stack([(np.eye(nodes) + np.eye(nodes)[other]) / 2 for other in partners])


def random_graph(nodes: int, *, probability: float, seed: int) -> np.ndarray:
    """Mixing matrix of a random graph in which each two nodes are neighbours with equal probability.

    Args:
        nodes: number n of nodes.
        probability: probability of an edge.  The graph is likely to be connected if it is clearly above
            log(n) / n.
        seed: seed of NumPy's generator.

    Returns:
        Metropolis weights, ``f64[n, n]``.

    Raises:
        ValueError: an argument is out of range, or the graph is not connected.

    Examples:
        >>> from fjx import rounds
        >>> (rounds.random_graph(6, probability=0.6, seed=1) > 0).sum(1).tolist()
        [4, 4, 6, 4, 4, 4]

    References:
        Erdos, Renyi, *On Random Graphs I*, Publicationes Mathematicae 1959; weights of Xiao, Boyd, Kim.
    """
    nodes = _validate.static_integer("nodes", nodes, at_least=1)
    probability = _validate.static_number("probability", probability, at_least=0, at_most=1)
    seed = _validate.static_integer("seed", seed, at_least=0)
    upper = np.triu(np.random.default_rng(seed).random((nodes, nodes)) < probability, 1)
    return require_connected(metropolis(upper + upper.T)[None], "random_graph")[0]


def spectral_gap(mixing: np.ndarray) -> float:
    r"""Spectral gap of a mixing matrix: the part of their disagreement that nodes lose in a round.

    .. math:: 1 - \rho(W - 11^T / n)

    with the spectral radius rho.  For matrices W_1, ..., W_T of a period it is that of the whole period,
    taken to the power 1 / T.

    Args:
        mixing: mixing matrix, ``[n, n]``, or those of a period, ``[T, n, n]``.

    Returns:
        A number from 0, if some nodes never hear of others, to 1, if all have the mean at once.

    Raises:
        ValueError: a matrix is not symmetric with rows that sum to one.

    Examples:
        >>> from fjx import rounds
        >>> round(rounds.spectral_gap(rounds.ring(4)), 4)
        0.6667
    """
    period = period_of(mixing)
    whole = np.linalg.multi_dot([*period, np.eye(len(period[0]))])
    radius = np.abs(np.linalg.eigvals(whole - 1 / len(whole))).max()
    return float(1 - min(radius, 1.0) ** (1 / len(period)))


def period_of(mixing: Any) -> np.ndarray:
    """Mixing matrices of a period, ``f64[T, n, n]``, each made exactly symmetric.

    Raises:
        ValueError: a matrix is not symmetric with rows that sum to one, or there is none.
    """
    matrices = np.asarray(mixing, np.float64)
    if matrices.ndim != 3:
        return _validate.mixing(matrices)[None]
    if not len(matrices):
        raise ValueError("mixing needs at least one matrix in its period, got none")
    return np.stack([_validate.mixing(matrix) for matrix in matrices])


def require_connected(period: np.ndarray, where: str) -> np.ndarray:
    """The matrices, if the graph of their edges is connected; the identity alone stands for no graph.

    Raises:
        ValueError: some nodes never hear of others.
    """
    edges = (period != 0).any(0)
    if (edges == np.eye(len(edges), dtype=bool)).all() and where != "random_graph":
        return period
    reached = np.zeros(len(edges), bool)
    reached[0] = True
    while (more := edges[reached].any(0) | reached).sum() > reached.sum():
        reached = more
    if not reached.all():
        raise ValueError(
            f"{where}: the graph is not connected over its {len(period)} rounds: node 0 never hears of "
            f"{np.flatnonzero(~reached)[:5].tolist()}.  Add edges, such as those of rounds.ring(n), or "
            "raise the probability of a random graph"
        )
    return period


def _shifts(nodes: int, distances: list[int]) -> np.ndarray:
    """Adjacency of neighbours at these distances along a ring."""
    there = np.sum([np.roll(np.eye(nodes), d, axis=1) for d in distances], axis=0)
    return there + there.T


def _circulant(nodes: int, distances: list[int]) -> np.ndarray:
    return metropolis(_shifts(nodes, distances))
