"""Feed-forward part of a decoder layer: dense, or a mixture of experts with visible routing and own dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.learning.scores import NUM_MODALITIES
from smoes_sim.learning.selection import Chosen, Selection, Skip


class Routing(NamedTuple):
    """Routing decision on N tokens.

    Attributes:
        probabilities: Full softmax over the experts that a token may use, shape (N, E).
        chosen: Chosen experts and their weights, shape (N, K) each.
    """

    probabilities: Tensor
    chosen: Chosen


Dispatch = Callable[[Tensor, Chosen, "Experts"], Tensor]
"""Function that runs the chosen experts on tokens (N, D) and returns their weighted sum, (N, D)."""


class Experts(nn.Module):
    """E gated feed-forward networks of inner size F, computed as batched matrix products.

    Attributes:
        rise: Weights of gate and up projection, shape (E, D, 2 F).
        fall: Weights of the down projection, shape (E, F, D).
    """

    def __init__(self, hidden: int, inner: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.rise = nn.Parameter(torch.randn(num_experts, hidden, 2 * inner) / hidden**0.5)
        self.fall = nn.Parameter(torch.randn(num_experts, inner, hidden) / inner**0.5)

    def forward(self, rows: Tensor, expert: Tensor) -> Tensor:
        """Output of each row's expert, shape (N, D).

        Rows are padded to (E, largest load, D), so an uneven load costs products with zeros.

        Args:
            rows: Inputs, shape (N, D).
            expert: Expert of each row, ascending, shape (N,).
        """
        counts = torch.bincount(expert, minlength=self.num_experts)
        capacity = max(int(counts.max()), 1)
        first = counts.cumsum(0) - counts
        slot = expert * capacity + torch.arange(len(expert), device=expert.device) - first[expert]
        laid = rows.new_zeros(self.num_experts * capacity, rows.shape[1]).index_copy(0, slot, rows)
        gate, up = torch.bmm(laid.view(self.num_experts, capacity, -1), self.rise).chunk(2, dim=-1)
        out = torch.bmm(functional.silu(gate) * up, self.fall)
        return out.view(-1, rows.shape[1])[slot]


def run_locally(x: Tensor, chosen: Chosen, experts: Experts) -> Tensor:
    """Weighted sum of the chosen experts' outputs, shape (N, D), with all experts on one rank."""
    ids = chosen.expert_ids.flatten()
    order = torch.argsort(ids, stable=True)[int((ids < 0).sum()) :]
    token = order // chosen.expert_ids.shape[1]
    rows = experts(x[token], ids[order]) * chosen.weights.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, token, rows)


class DispatchOverRanks:
    """The same sum with the experts on R ranks; every exchange is a real buffer whose rows are counted.

    A token is sent once to each rank that holds some of its experts (deduplicated by rank), its experts there run on the
    received rows, and their partial sum is returned. ``smoes_sim.traffic.copies`` predicts the counts from a trace.

    Args:
        expert_rank: Rank of each expert in this layer, shape (E,).
        home: Home rank of each token, in the order of the calls, shape (T,).
        num_ranks: Number of ranks, R.

    Attributes:
        copies: Rows sent so far from rank to rank, shape (R, R); the diagonal is local.
    """

    def __init__(self, expert_rank: Tensor, home: Tensor, num_ranks: int) -> None:
        self.expert_rank, self.home, self.num_ranks = expert_rank, home, num_ranks
        self.copies = torch.zeros(num_ranks, num_ranks, dtype=torch.long)
        self._done = 0

    def __call__(self, x: Tensor, chosen: Chosen, experts: Experts) -> Tensor:
        """Outputs of the next N tokens, shape (N, D)."""
        home = self.home[self._done : self._done + len(x)]
        self._done += len(x)
        y = torch.zeros_like(x)
        for rank in range(self.num_ranks):
            is_here = (chosen.expert_ids >= 0) & (self.expert_rank[chosen.expert_ids] == rank)
            parts = [torch.nonzero((home == source) & is_here.any(dim=1)).flatten() for source in range(self.num_ranks)]
            received = [x[tokens] for tokens in parts]
            for source, buffer in enumerate(received):
                self.copies[source, rank] += len(buffer)
            tokens = torch.cat(parts)
            there = Chosen(
                chosen.expert_ids[tokens].masked_fill(~is_here[tokens], -1), chosen.weights[tokens] * is_here[tokens]
            )
            y = y.index_add(0, tokens, run_locally(torch.cat(received), there, experts))
        return y


class MixtureOfExperts(nn.Module):
    """Router and experts of one layer.

    The rule ``hybrid`` has one router per modality (as MoIIE), every other rule has one.

    Attributes:
        skip: Rule that drops chosen experts at inference, or None.
        dispatch: Function that runs the chosen experts.
        scale: Factor on the output; 0 leaves the experts of this layer out, to measure their importance.
    """

    allowed: Tensor | None

    def __init__(self, hidden: int, inner: int, selection: Selection) -> None:
        super().__init__()
        self.selection = selection
        self.num_routers = NUM_MODALITIES if selection.rule == "hybrid" else 1
        self.router = nn.Linear(hidden, self.num_routers * selection.num_experts, bias=False)
        self.experts = Experts(hidden, inner, selection.num_experts)
        self.register_buffer("allowed", selection.allowed, persistent=False)
        self.skip: Skip | None = None
        self.dispatch: Dispatch = run_locally
        self.scale = 1.0

    def forward(self, x: Tensor, modality: Tensor) -> tuple[Tensor, Routing]:
        """Output (N, D) and routing of tokens (N, D) with modality labels (N,)."""
        label = (modality != 0).long()
        logits = self.router(x)
        if self.num_routers > 1:
            by_router = logits.unflatten(-1, (self.num_routers, -1))
            logits = by_router[torch.arange(len(x), device=x.device), label]
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed[label], -torch.inf)
        probabilities = logits.float().softmax(dim=-1)
        chosen = self.selection.choose(probabilities)
        if self.skip is not None:
            chosen = self.skip(chosen, modality)
        y = self.dispatch(x, Chosen(chosen.expert_ids, chosen.weights.to(x.dtype)), self.experts)
        return self.scale * y, Routing(probabilities, chosen)


class DenseFeedForward(nn.Module):
    """One gated feed-forward network of inner size F for all tokens."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.rise = nn.Linear(hidden, 2 * inner, bias=False)
        self.fall = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, modality: Tensor) -> tuple[Tensor, None]:
        """Output (N, D) of tokens (N, D), and None for the routing."""
        del modality
        gate, up = self.rise(x).chunk(2, dim=-1)
        return self.fall(functional.silu(gate) * up), None
