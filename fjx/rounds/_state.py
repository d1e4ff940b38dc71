"""The values of a round: its parts, its keys, and the states of server and clients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx._base import (
    Aggregator,
    Array,
    ClientUpdate,
    Cohort,
    Compressor,
    Key,
    Public,
    ServerUpdate,
    Template,
    Tree,
    Turn,
)


class Parts(NamedTuple):
    """The five parts of an algorithm."""

    client: ClientUpdate
    uplink: Compressor
    downlink: Compressor
    aggregator: Aggregator
    server: ServerUpdate


class RoundState(NamedTuple):
    """The server's side of an algorithm between rounds.

    Attributes:
        server: the server update's state.
        aggregator: the aggregator's state.
        downlink: the downlink codec's state.
        round: ``i32[]``, the number of rounds that were played.
    """

    server: Any
    aggregator: Tree
    downlink: Tree
    round: Array

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.server.params


class ClientRow(NamedTuple):
    """One client's state between rounds: a row of the table of all clients.

    Attributes:
        client: the client update's state.
        uplink: the uplink codec's state, shaped like the message.
    """

    client: Tree
    uplink: Tree


class RoundKeys(NamedTuple):
    """The keys of a round, named: split once, never indexed."""

    clients: Key
    public: Key
    finish: Key
    downlink: Key

    @classmethod
    def of(cls, key: Key) -> "RoundKeys":
        return cls(*jax.random.split(key, 4))


class ClientKeys(NamedTuple):
    """The keys of one client in one round, which depend on the round and its id alone."""

    train: Key
    uplink: Key
    aggregator: Key


class Context(NamedTuple):
    """The inputs of a round that all clients share.

    Attributes:
        key_clients: key from which each client's keys are made by its id.
        key_public: key that all clients share.
        broadcast: the decoded broadcast.
        arrays: the packed examples of all clients.
        aggregator: state of the aggregator.
        size: ``i32[]``, the number of clients that were invited.
        round: ``i32[]``, the number of rounds before this one.
        template: shapes of one client's message, as the aggregator is given it; it has no arrays.
    """

    key_clients: Key
    key_public: Key
    broadcast: Tree
    arrays: Tree
    aggregator: Tree
    size: Array
    round: Array
    template: Template | None

    def keys(self, client_id: Array) -> ClientKeys:
        """The keys of a client, by its id: they depend neither on the cohort nor on its order."""
        return ClientKeys(*jax.random.split(jax.random.fold_in(self.key_clients, client_id), 3))

    def public(self, rank: Array | None, id: Array | None = None) -> Public:
        """The facts that a client of this rank and id knows; the server has neither."""
        # A clone, because every client draws the same from it on purpose.
        key = jax.random.clone(self.key_public)
        return Public(self.aggregator, key, rank, self.size, self.round, self.template, id)


class Slot(NamedTuple):
    """One client of the cohort; a slot of zeros does nothing.

    Attributes:
        id: ``i32[]``, its id; the number of clients in all for padding.
        weight: ``f32[]``, zero if it does not take part.
        present: ``bool[]``, true if it is there, with a weight or without.
        offset: ``i32[]``, the first of its examples.
        size: ``i32[]``, the number of its examples.
        rank: ``i32[]``, its rank by id in the cohort.
        row: its state.
    """

    id: Array
    weight: Array
    present: Array
    offset: Array
    size: Array
    rank: Array
    row: Any

    def turn(self, round: Array) -> Turn:
        """The facts about the round that its client update is given."""
        return Turn(round, self.id, self.rank)


def slots_of(cohort: Cohort, rows: Tree) -> Slot:
    """The slots of a cohort, ``[m]``."""
    return Slot(
        id=cohort.ids,
        weight=cohort.weights,
        present=cohort.weights > 0 if cohort.present is None else cohort.present,
        offset=cohort.examples.offset,
        size=cohort.examples.size,
        rank=jnp.searchsorted(jnp.sort(cohort.ids), cohort.ids).astype(jnp.int32),
        row=rows,
    )


def invited(cohort: Cohort) -> Array:
    """``i32[]``: the number of clients in the cohort, without padding."""
    return jnp.sum(cohort.ids < cohort.population, dtype=jnp.int32)


def require_rows(rows: Tree, cohort: Cohort) -> None:
    """Raises ValueError unless there is one row of client state for each slot."""
    slots = cohort.ids.shape[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        if leaf.ndim == 0 or leaf.shape[0] != slots:
            raise ValueError(
                f"round needs one row of client state for each of the cohort's {slots} slots; at "
                f"{jax.tree_util.keystr(path)} got {list(leaf.shape)}.  Gather them from the table "
                "of all clients: fjx.simulation.gather(table, cohort.ids)"
            )
