"""What is measured in the labs: exchanges and MoE layers, which of them are fitted, and nothing of how."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smoes_sim.distributed.bench_plan import BenchCase
from smoes_sim.distributed.matrix import Matrix, aligned, even_blocks, one_way
from smoes_sim.network import Network, lower_bound, phases_of
from smoes_sim.topology import find_topology
from smoes_sim.traffic.skewed import Matrix as Bytes
from smoes_sim.traffic.skewed import uniform_matrix, workload_matrix, zipf_matrix

TOPOLOGIES = (
    "lab-star-4",
    "lab-star-8",
    "lab-two-level-2x2",
    "lab-two-level-2x2-oversubscribed",
    "lab-two-level-2x2-mixed",
    "lab-two-level-2x4",
    "lab-two-level-4x2",
)
QUICK = ("lab-star-4", "lab-two-level-2x2")
"""A third of the cases: the labs of four ranks."""
TWO_NODES = "lab-two-level-2x2"
"""Where SMoES and standard routing are compared under every token placement."""
PLACEMENTS = ("data_parallel", "sharded", "modality", "affinity")
POLICIES = ("standard", "smoes")
KEYS = "keys-smoes-modality"
"""Scenario in which keys and values travel."""
_LONG = 3
"""Sequences a rank there: layers long enough that what kernels buffer (128 KiB a message, 10 ms) hardly moves the saving."""
FITTED_S = 0.1
"""Seconds that the one fitted all-to-all takes at least when sent at once; its size follows from the topology."""
_EVEN_S = (0.05, 0.15, 0.25, 0.4)
_SKEWED_S = 0.15
_PING_PONG_S = (0.01, 0.05)
_LEAST_SIZE = 4096
FIT_EXCHANGES = ("op=sendrecv", "variant=fit")
"""Rows that are fitted, as ``calibrate --fit`` takes them: ping-pong and one all-to-all size under each own schedule."""
_FITTED_LAYERS = "variant=standard-data_parallel,phase="
FIT_LAYERS = (*FIT_EXCHANGES, f"{_FITTED_LAYERS}experts", f"{_FITTED_LAYERS}layer")
"""Constants of computation come from one scenario, of standard routing; SMoES and other placements are predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Exchanges of one schedule that are measured one after the other.

    Attributes:
        name: Of the table that holds them.
        schedule: How they are sent.
        cases: What is sent.
        words: What each of them is, in one word.
    """

    name: str
    schedule: str
    cases: tuple[BenchCase, ...]
    words: tuple[str, ...]


def exchange_groups(topology: str, *, seed: int) -> list[Group]:
    """All exchanges of a lab, by schedule.

    Sizes follow from the topology: an exchange that must take 0.1 s on a slow lab and a fast one has different bytes.
    """
    sized = _Sized(topology, seed=seed)
    skewed = dict(sized.skewed())
    some = [name for name in ("zipf", "hot_sender", "random") if name in skewed]
    pairs = [("ping_pong", sized.ping_pong(seconds, pair)) for pair in sized.pairs for seconds in _PING_PONG_S]
    fitted = [("fit", sized.even(FITTED_S))]
    even = [("even", sized.even(seconds)) for seconds in _EVEN_S]
    few = [("even", sized.even(_EVEN_S[0])), ("even", sized.even(_EVEN_S[2])), *((name, skewed[name]) for name in some)]
    found = [
        _group("ping-pong", "direct", pairs),
        _group("direct", "direct", [*fitted, *even, *skewed.items()]),
        _group("pairwise", "pairwise", [*fitted, *few]),
        _group("all_to_all_single", "all_to_all_single", few),
    ]
    if find_topology(topology).num_nodes not in {1, sized.num_ranks}:
        found.append(_group("two_hop", "two_hop", [*fitted, *few]))
    return found


def _group(name: str, schedule: str, cases: Sequence[tuple[str, BenchCase]]) -> Group:
    return Group(
        name=name, schedule=schedule, cases=tuple(case for _, case in cases), words=tuple(word for word, _ in cases)
    )


class _Sized:
    """Cases of a topology whose bound is a number of seconds."""

    def __init__(self, topology: str, *, seed: int) -> None:
        self._network = Network.on(find_topology(topology))
        self.num_ranks = self._network.topology.num_ranks
        self._seed = seed

    def _scaled(self, of_one_byte: Bytes, seconds: float) -> Bytes:
        """The matrix with the sizes at which nothing could be quicker than so many seconds."""
        large = of_one_byte * 2.0**40
        bound = lower_bound(self._network, phases_of(self._network, [large]))
        return large * (seconds / bound)

    def even(self, seconds: float) -> BenchCase:
        """Equal blocks."""
        matrix = even_blocks(self._scaled(uniform_matrix(self.num_ranks, 1.0), seconds))
        return BenchCase(operation="alltoall", matrix=matrix, is_even=True)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The first rank and the last, and where nodes have several ranks the first two of one node."""
        node = self._network.topology.node_of_rank
        inside = [(0, 1)] if self._network.topology.num_nodes > 1 and node[0] == node[1] else []
        return [(0, self.num_ranks - 1), *inside]

    def ping_pong(self, seconds: float, pair: tuple[int, int]) -> BenchCase:
        """One message there and back."""
        whole = self._scaled(one_way(self.num_ranks, *pair, 1).astype(np.float64), seconds)
        return BenchCase(operation="sendrecv", matrix=even_blocks(whole), is_even=False)

    def skewed(self) -> Iterator[tuple[str, BenchCase]]:
        """Unequal blocks, by what they are called."""
        num_ranks, seed = self.num_ranks, self._seed
        rng = np.random.default_rng(seed)
        popular = rng.lognormal(0.0, 1.0, (num_ranks, num_ranks))
        shapes = {
            "zipf": zipf_matrix(num_ranks, 1.0, exponent=1.0, seed=seed, per_source=False),
            "zipf_per_source": zipf_matrix(num_ranks, 1.0, exponent=1.0, seed=seed, per_source=True),
            "hot_receiver": workload_matrix("W2", num_ranks, 1.0, seed=seed),
            "hot_sender": workload_matrix("W2", num_ranks, 1.0, seed=seed + 1).T,
            "ragged": workload_matrix("W4", num_ranks, 1.0, seed=seed),
            "idle_receiver": workload_matrix("W5", num_ranks, 1.0, seed=seed),
            "random": popular / popular.sum(axis=1, keepdims=True),
        }
        for name, shape in shapes.items():
            matrix = _large_enough(aligned(self._scaled(shape, _SKEWED_S)))
            yield name, BenchCase(operation="alltoall", matrix=matrix, is_even=False)


def _large_enough(matrix: Matrix) -> Matrix:
    """Blocks of 0 bytes or at least 4 KiB: less is no message worth the name."""
    return np.where((matrix > 0) & (matrix < _LEAST_SIZE), _LEAST_SIZE, matrix)


def layer_scenarios(topology: str, *, seed: int) -> dict[str, dict[str, Any]]:
    """Scenarios of a lab by name, without the topology: every token placement on two nodes, two elsewhere.

    Attention asks with queries where sequences live on several ranks; once keys and values travel in place of them.
    """
    placements = PLACEMENTS if topology == TWO_NODES else PLACEMENTS[::2]
    batch = find_topology(topology).num_ranks * (_LONG if topology == TWO_NODES else 1)
    found = {
        f"{policy}-{tokens}": _scenario(policy, tokens, batch=batch, seed=seed)
        for tokens in placements
        for policy in POLICIES
    }
    found[KEYS] = _scenario("smoes", "modality", batch=batch, seed=seed) | {"attention": {"exchange": "kv"}}
    return found


def _scenario(policy: str, tokens: str, *, batch: int, seed: int) -> dict[str, Any]:
    """A small model whose layers travel as long as they take on a rack of GPUs, relative to their computation."""
    return {
        "model": {
            "name": "lab-moe",
            "layers": 2,
            "hidden": 512,
            "experts": 16,
            "top_k": 2,
            "expert_ffn": 256,
            "vocab": 1024,
            "heads": 8,
            "kv_heads": 8,
            "head_dim": 64,
            "image_tokens": {"kind": "fixed", "tokens": 400},
            "source": "chosen: as large as two cores compute and a lab carries in some tenths of a second",
            "image_source": "chosen",
        },
        "workload": {"batch": batch, "images": 1, "image_width": 336, "image_height": 336, "text_tokens": 150}
        | {"output_tokens": 1},
        "routing": {"policy": policy},
        "placement": {"tokens": tokens},
        "attention": {"exchange": "auto" if tokens == "data_parallel" else "queries"},
        "communication": {"library": "direct", "deduplicate": "rank"},
        "compute": {"device": "zen4-core", "shared_cores": len(os.sched_getaffinity(0))},
        "seed": seed,
    }
