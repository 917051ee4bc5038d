"""Exchanges of rows between the ranks of a process group: the schedules of :mod:`smoes_sim.network`, executed.

The same code runs on gloo (CPU) and on NCCL (GPU): every message goes through ``batch_isend_irecv``, with the receives of a
batch first. With gloo that order matters: a send waits for a notification of the receiver, and a notification that queues
behind payload makes a pair of ranks send in one direction at a time. Rows are sent as bytes, so any element type works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from smoes_sim.distributed.two_hop import Pair, part_of, plan_hops
from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import nearest

Counts = Sequence[int]
Messages = list[tuple[int, Tensor]]
"""Peer and rows, in the order in which they are posted."""
PARTS = 8
"""Parts in which ``two_hop`` forwards, as in :mod:`smoes_sim.network.schedules`."""


class RowExchange(Protocol):
    """An exchange of rows."""

    def __call__(
        self,
        send: Tensor,
        send_counts: Counts,
        receive_counts: Counts,
        *,
        out: Tensor | None = None,
        counts: Sequence[Counts] | None = None,
    ) -> Tensor:
        """Send each rank its rows.

        Args:
            send: Rows in the order of the ranks they go to, shape (N_send, D).
            send_counts: Rows for each rank, shape (R,); for 0 rows nothing is sent.
            receive_counts: Rows from each rank, shape (R,): what that rank has in its ``send_counts`` for this one.
            out: Destination of the rows; default: a new tensor.
            counts: ``send_counts`` of every rank, shape (R, R), where they are known; otherwise ``two_hop`` gathers them.

        Returns:
            Rows in the order of the ranks they come from, shape (N_receive, D), valid on the current stream.
        """


def exchange(name: str, *, group: dist.ProcessGroup | None = None, node_of_rank: Sequence[int] | None = None) -> RowExchange:
    """An exchange by the name of its schedule.

    ``direct`` posts all receives, then all sends, from the next rank on. ``pairwise`` takes R - 1 rounds: in round k a
    rank sends to the k-th after it and receives from the k-th before it; there is no barrier between rounds.
    ``two_hop`` sends to the rank with the sender's index in the destination's node, which forwards, in 8 parts.
    ``all_to_all_single`` calls the operation of the library.

    Args:
        name: One of :func:`pattern_names`.
        group: Process group; default: that of all ranks.
        node_of_rank: Node of each rank of the group, for ``two_hop``; shape (R,).

    Raises:
        ConfigError: If there is no such schedule, or ``two_hop`` has no ``node_of_rank``.
    """
    if name not in _PATTERNS:
        raise ConfigError(f'schedule = "{name}" cannot be run. {nearest(name, _PATTERNS)}')
    if name == "two_hop" and node_of_rank is None:
        raise ConfigError("schedule two_hop needs to know which ranks share a node. Name the topology.")
    return _PatternExchange(pattern=_PATTERNS[name], group=group, node_of_rank=tuple(node_of_rank or ()))


def pattern_names() -> list[str]:
    """Names of the schedules that can be run."""
    return list(_PATTERNS)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Arguments of a pattern: rows of bytes, split by rank.

    Attributes:
        group: The process group.
        send: Rows in the order of the ranks they go to, shape (N_send, bytes of a row).
        receive: Where rows go, in the order of the ranks they come from, shape (N_receive, bytes of a row).
        send_counts: Rows for each rank, shape (R,).
        receive_counts: Rows from each rank, shape (R,).
        counts: Rows from rank to rank where known, shape (R, R).
        node_of_rank: Node of each rank, shape (R,); empty if unknown.
    """

    group: dist.ProcessGroup | None
    send: Tensor
    receive: Tensor
    send_counts: Counts
    receive_counts: Counts
    counts: Sequence[Counts] | None
    node_of_rank: tuple[int, ...]

    @cached_property
    def rank(self) -> int:
        """The own rank within the group."""
        return dist.get_rank(self.group)

    @cached_property
    def outgoing(self) -> tuple[Tensor, ...]:
        """Rows for each rank, R views."""
        return self.send.split(list(self.send_counts))

    @cached_property
    def incoming(self) -> tuple[Tensor, ...]:
        """Where the rows from each rank go, R views."""
        return self.receive.split(list(self.receive_counts))

    @property
    def before(self) -> list[int]:
        """The other ranks, from the previous one down."""
        return [(self.rank - step) % len(self.send_counts) for step in range(1, len(self.send_counts))]

    @property
    def after(self) -> list[int]:
        """The other ranks, from the next one up."""
        return [(self.rank + step) % len(self.send_counts) for step in range(1, len(self.send_counts))]

    def empty(self, num_rows: int) -> Tensor:
        """Buffer for rows that are forwarded."""
        return self.send.new_empty((num_rows, self.send.shape[1]))

    def all_counts(self) -> Sequence[Counts]:
        """Rows from rank to rank, (R, R): as given, or gathered."""
        if self.counts is not None:
            return self.counts
        own = torch.tensor(self.send_counts, device=self.send.device)
        rows = [torch.empty_like(own) for _ in self.send_counts]
        dist.all_gather(rows, own, group=self.group)
        table: list[list[int]] = torch.stack(rows).tolist()
        return table

    def copy_own(self) -> None:
        """Move what a rank sends to itself."""
        self.incoming[self.rank].copy_(self.outgoing[self.rank])

    def post(self, receives: Messages, sends: Messages) -> list[Any]:
        """Post messages, the receives first; empty ones are left out.

        Returns:
            Handles to wait for: one entry per message in the order posted (gloo), or one for all of them (NCCL).
        """
        operations = [
            dist.P2POp(kind, rows, group=self.group, group_peer=peer)
            for kind, messages in ((dist.irecv, receives), (dist.isend, sends))
            for peer, rows in messages
            if len(rows)
        ]
        return dist.batch_isend_irecv(operations) if operations else []


def _wait(works: Sequence[Any]) -> None:
    for work in works:
        work.wait()


def _direct(rows: _Rows) -> None:
    works = rows.post(
        [(peer, rows.incoming[peer]) for peer in rows.before], [(peer, rows.outgoing[peer]) for peer in rows.after]
    )
    rows.copy_own()
    _wait(works)


def _pairwise(rows: _Rows) -> None:
    rows.copy_own()
    for before, after in zip(rows.before, rows.after, strict=True):
        _wait(rows.post([(before, rows.incoming[before])], [(after, rows.outgoing[after])]))


def _all_to_all_single(rows: _Rows) -> None:
    dist.all_to_all_single(rows.receive, rows.send, list(rows.receive_counts), list(rows.send_counts), group=rows.group)


def _two_hop(rows: _Rows) -> None:
    """Stage one goes to the gateways, stage two to the destinations; a part is forwarded when all of it has arrived."""
    transit = _Transit(rows)
    rows.copy_own()
    if _is_coalescing(rows):
        _forward_in_waves(rows, transit)
    else:
        _forward_on_arrival(rows, transit)
    transit.deliver()


def _forward_on_arrival(rows: _Rows, transit: _Transit) -> None:
    """Where messages are independent (gloo): all receives and all of stage one at the start."""
    works: list[list[Any]] = [rows.post(transit.receive_first(part), []) for part in range(PARTS)]
    works += [rows.post(transit.receive_second(part), []) for part in range(PARTS)]
    works += [rows.post([], transit.send_first(part)) for part in range(PARTS)]
    for part in range(PARTS):
        _wait(works[part])
        works.append(rows.post([], transit.send_second(part)))
    for batch in works[PARTS:]:
        _wait(batch)


def _forward_in_waves(rows: _Rows, transit: _Transit) -> None:
    """Where one batch is done after another (NCCL): a part of stage one travels beside the part before it of stage two."""
    for wave in range(PARTS + 1):
        receives, sends = [], []
        if wave < PARTS:
            receives, sends = transit.receive_first(wave), transit.send_first(wave)
        if wave > 0:
            receives, sends = receives + transit.receive_second(wave - 1), sends + transit.send_second(wave - 1)
        _wait(rows.post(receives, sends))


def _is_coalescing(rows: _Rows) -> bool:
    """Whether the backend runs a batch as one operation, one batch after another."""
    group = dist.group.WORLD if rows.group is None else rows.group
    assert group is not None, "the process group is up"
    return bool(group._get_backend(rows.send.device).supports_coalescing)


class _Transit:
    """The messages of a rank in both stages, and the rows that it forwards for others."""

    def __init__(self, rows: _Rows) -> None:
        self._rows, self._counts = rows, rows.all_counts()
        self._hops = plan_hops(rows.node_of_rank, rows.rank)
        self._held: dict[tuple[Pair, int], Tensor] = {}
        self._misplaced: list[tuple[Tensor, Tensor]] = []

    def receive_first(self, part: int) -> Messages:
        """Buffers for a part of stage one."""
        return [(peer, self._room(pairs, part)) for peer, pairs in self._hops.first_receives]

    def receive_second(self, part: int) -> Messages:
        """Buffers for a part of stage two."""
        return [(peer, self._room(pairs, part)) for peer, pairs in self._hops.second_receives]

    def send_first(self, part: int) -> Messages:
        """A part of the own rows."""
        return [
            (peer, self._join([self._rows.outgoing[pair[1]][self._slice(pair, part)] for pair in pairs]))
            for peer, pairs in self._hops.first_sends
        ]

    def send_second(self, part: int) -> Messages:
        """A part of the rows that others sent through this rank; it must have arrived."""
        return [
            (peer, self._join([self._held.pop((pair, part)) for pair in pairs])) for peer, pairs in self._hops.second_sends
        ]

    def deliver(self) -> None:
        """Copy rows that arrived in one message with others to their destination."""
        for place, arrived in self._misplaced:
            place.copy_(arrived)

    def _room(self, pairs: list[Pair], part: int) -> Tensor:
        """Buffer of a received message: in place if all of it is for this rank."""
        own = [
            self._rows.incoming[source][self._slice((source, destination), part)] if destination == self._rows.rank else None
            for source, destination in pairs
        ]
        if len(own) == 1 and own[0] is not None:
            return own[0]
        sizes = [_length(self._slice(pair, part)) for pair in pairs]
        room = self._rows.empty(sum(sizes))
        for pair, place, rows in zip(pairs, own, room.split(sizes) if sizes else (), strict=True):
            if place is None:
                self._held[pair, part] = rows
            else:
                self._misplaced.append((place, rows))
        return room

    def _slice(self, pair: Pair, part: int) -> slice:
        return part_of(self._counts[pair[0]][pair[1]], part, PARTS)

    def _join(self, rows: list[Tensor]) -> Tensor:
        if len(rows) == 1:
            return rows[0]
        return torch.cat(rows) if rows else self._rows.empty(0)


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


_PATTERNS: dict[str, Callable[[_Rows], None]] = {
    "direct": _direct,
    "pairwise": _pairwise,
    "two_hop": _two_hop,
    "all_to_all_single": _all_to_all_single,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _PatternExchange:
    """A pattern over a group; see :class:`RowExchange`."""

    pattern: Callable[[_Rows], None]
    group: dist.ProcessGroup | None
    node_of_rank: tuple[int, ...]

    def __call__(
        self,
        send: Tensor,
        send_counts: Counts,
        receive_counts: Counts,
        *,
        out: Tensor | None = None,
        counts: Sequence[Counts] | None = None,
    ) -> Tensor:
        _check(send, send_counts, receive_counts, dist.get_world_size(self.group))
        receive = send.new_empty((sum(receive_counts), *send.shape[1:])) if out is None else out
        if receive.shape != (sum(receive_counts), *send.shape[1:]):
            raise ValueError(f"out has the shape {tuple(receive.shape)}, and {sum(receive_counts)} rows are to come")
        self.pattern(
            _Rows(
                group=self.group,
                send=_bytes_of(send.contiguous()),
                receive=_bytes_of(receive),
                send_counts=send_counts,
                receive_counts=receive_counts,
                counts=counts,
                node_of_rank=self.node_of_rank,
            )
        )
        return receive


def _check(send: Tensor, send_counts: Counts, receive_counts: Counts, num_ranks: int) -> None:
    """Refuse counts that cannot be right before anything is posted, as other ranks would wait for ever."""
    if send.ndim != 2 or not len(send_counts) == len(receive_counts) == num_ranks or sum(send_counts) != len(send):
        raise ValueError(
            f"rows of the shape {tuple(send.shape)}, {len(send_counts)} counts to send that add up to {sum(send_counts)} "
            f"and {len(receive_counts)} to receive: rows are (N, D), and each of {num_ranks} ranks has a count"
        )


def _bytes_of(rows: Tensor) -> Tensor:
    """The same memory as bytes, shape (N, bytes of a row)."""
    return rows.view(torch.uint8)
