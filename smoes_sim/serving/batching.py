"""What a step takes: continuous batching with chunked prefill and a paged KV cache, for one attention group.

The rules are those of vLLM's V1 scheduler (vllm/v1/core/sched/scheduler.py, read at 00024d3), first come first served:

1. Running sequences come first, oldest first. Each takes one token to decode, or as much of its prompt as the step has left.
2. A sequence that finds no free block preempts the youngest running one, itself at last: that one's blocks are freed, it
   goes to the head of the queue and later computes its prompt *and* its answer so far again (recompute, vLLM's way).
3. Waiting sequences are admitted while tokens and places are left and all that is known of the sequence fits into free
   blocks (vLLM's ``scheduler_reserve_full_isl``). Blocks are taken as tokens are computed. A step that preempts admits
   no sequence: the preempted sequence heads the queue and needs at least the blocks that it lost, some of which are taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from smoes_sim.serving.requests import Request

BLOCK = 16
"""Tokens of a block of the KV cache (vLLM's default)."""
_MOST_REPEATS = 1 << 30
"""More steps than any answer takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the batch of an attention group.

    Attributes:
        groups: Attention groups; each has its own queue and cache, and all take their steps together.
        cache_blocks: Blocks of the KV cache of a group.
        max_batch_tokens: Tokens of a group in a step.
        max_sequences: Sequences of a group that run at a time.
        prefill_chunk: Prompt tokens of a group in a step.
    """

    groups: int
    cache_blocks: int
    max_batch_tokens: int
    max_sequences: int
    prefill_chunk: int


class Sequence:
    """A request on its way.

    Attributes:
        request: What was asked.
        known: Tokens of prompt and answer so far.
        computed: Tokens whose keys and values are in the cache.
        generated: Tokens of the answer so far.
        blocks: Blocks of the cache that it holds.
        is_encoded: Whether its images have been encoded; a recompute does not encode them again (vLLM keeps the results).
        first_token: Seconds when its first token was there; nan before.
        finish: Seconds when its last token was there; nan before.
    """

    __slots__ = ("blocks", "computed", "finish", "first_token", "generated", "is_encoded", "known", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.known = request.prompt_tokens
        self.computed = self.generated = self.blocks = 0
        self.is_encoded = request.images == 0
        self.first_token = self.finish = float("nan")

    @property
    def missing(self) -> int:
        """Known tokens that are not in the cache; 1 where the next step decodes."""
        return self.known - self.computed

    @property
    def is_decoding(self) -> bool:
        """Whether only the last generated token is missing."""
        return self.generated > 0 and self.known - self.computed == 1


StepPlan = list[tuple[Sequence, int]]
"""Sequences of a step and how many tokens each takes."""


class Group:
    """Queue, running sequences and cache of one attention group.

    Attributes:
        waiting: Not admitted, next first.
        running: Admitted, oldest first.
        free: Number of blocks that are not in use.
        preemptions: How often a sequence lost its blocks.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.free = limits.cache_blocks
        self.preemptions = 0

    def plan(self) -> StepPlan:
        """Choose the tokens of the next step, admit and preempt; empty if there is nothing to do."""
        plan: StepPlan = []
        tokens, prompts = self._limits.max_batch_tokens, self._limits.prefill_chunk
        place = 0
        while place < len(self.running) and tokens > 0:
            sequence = self.running[place]
            missing = sequence.known - sequence.computed
            is_decoding = missing == 1 and sequence.generated > 0  # as is_decoding says, without a call for each sequence
            number = 1 if is_decoding else min(missing, tokens, prompts)
            if number > 0:
                if sequence.computed + number > sequence.blocks * BLOCK and not self._make_room(sequence, number):
                    break
                plan.append((sequence, number))
                tokens -= number
                prompts -= 0 if is_decoding else number
            place += 1
        self._admit(plan, tokens, prompts)
        return plan

    def _admit(self, plan: StepPlan, tokens: int, prompts: int) -> None:
        """Add waiting sequences to the plan."""
        while self.waiting and min(tokens, prompts) > 0 and len(self.running) < self._limits.max_sequences:
            sequence = self.waiting[0]
            if _blocks(sequence.known) > self.free:
                break
            self.running.append(self.waiting.popleft())
            number = min(sequence.missing, tokens, prompts)
            self._take(sequence, number)
            plan.append((sequence, number))
            tokens -= number
            prompts -= number

    def _make_room(self, sequence: Sequence, number: int) -> bool:
        """Find blocks for more tokens of a running sequence; False if it was preempted itself."""
        while _blocks(sequence.computed + number) - sequence.blocks > self.free:
            victim = self.running.pop()
            self._release(victim)
            victim.computed = 0
            self.waiting.appendleft(victim)
            self.preemptions += 1
            if victim is sequence:
                return False
        self._take(sequence, number)
        return True

    def _take(self, sequence: Sequence, number: int) -> None:
        wanted = _blocks(sequence.computed + number) - sequence.blocks
        sequence.blocks += wanted
        self.free -= wanted

    def _release(self, sequence: Sequence) -> None:
        self.free += sequence.blocks
        sequence.blocks = 0

    def repeats(self, plan: StepPlan) -> int:
        """How many more steps take the same sequences if no request arrives.

        Only where all that run decode: until the first of them ends, and as long as the free blocks are enough in any case.
        Nothing is admitted in between, since places stay taken and no block becomes free.
        """
        if len(plan) < len(self.running) or not all(sequence.is_decoding for sequence, _ in plan):
            return 0
        left = min((sequence.request.output_tokens - sequence.generated for sequence, _ in plan), default=_MOST_REPEATS)
        return min(left - 1, self.free // max(len(plan), 1) * BLOCK)

    def complete(self, plan: StepPlan, now: float, *, steps: int = 1) -> int:
        """Enter what a step computed; returns how many sequences ended with it.

        Args:
            plan: What the step took.
            now: Seconds when it ended.
            steps: How often it was taken; more than once only as :meth:`repeats` allows.
        """
        ended = 0
        for sequence, number in plan:
            if steps > 1:
                self._take(sequence, steps)
                sequence.generated += steps - 1
                sequence.known += steps - 1
                sequence.computed += steps - 1
            sequence.computed += number
            sequence.is_encoded = True
            if sequence.known > sequence.computed:
                continue
            sequence.generated += 1
            sequence.known += 1
            if sequence.generated == 1:
                sequence.first_token = now
            if sequence.generated == sequence.request.output_tokens:
                sequence.finish = now
                self._release(sequence)
                self.running.remove(sequence)
                ended += 1
        return ended


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
