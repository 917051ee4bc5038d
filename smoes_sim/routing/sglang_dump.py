"""Traces and expert counts from dumps of SGLang's expert distribution recorder.

Format: sgl-project/sglang ``python/sglang/srt/eplb/expert_distribution.py``, ``.pt`` files of three shapes. Mode
``per_token``: ``records``, one per forward pass, with ``topk_ids_of_layer`` (layers, tokens, 8), *physical* ids, -1 where a
layer or a slot is unused, ``positions``, ``input_ids``, ``extend_seq_lens`` and ``forward_mode``; and
``last_physical_to_logical_map`` (layers, slots). Mode ``per_pass``: records with ``global_physical_count`` (layers, slots)
instead. Modes ``stat`` and ``stat_approx``: ``logical_count`` (steps, layers, experts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import TraceError
from smoes_sim.routing.formats import SequenceRouting, trace_of
from smoes_sim.routing.torch_file import load_torch_file
from smoes_sim.routing.trace import IMAGE, TEXT, RoutingTrace

_FIRST_PAD = 1_000_000
"""SGLang writes image tokens as this plus a hash: MM_PAD_SHIFT_VALUE of ``python/sglang/srt/managers/schedule_batch.py``."""
_EXTEND, _DECODE, _IDLE = 1, 2, 4
"""Values of ForwardMode in ``python/sglang/srt/model_executor/forward_batch_info.py``."""
_NOT_A_DUMP = "is not a dump of SGLang's expert distribution recorder"
_ONLY_COUNTS = (
    "holds expert load counts, no tokens: no trace can be made of it. Make a placement from it with "
    "`smoes-sim placement make FILE --rule eplb`, or record with --expert-distribution-recorder-mode per_token."
)


@dataclass(slots=True)
class _Sequence:
    """A sequence while its tokens are collected; ids are physical, each piece has shape (layers, tokens, 8).

    ``is_open`` becomes False when a decode pass does not contain it: then it has ended.
    """

    pieces: list[NDArray[np.int64]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt: int = 0
    is_open: bool = True


def import_expert_distribution(path: Path) -> RoutingTrace:
    """Trace of a dump in mode ``per_token``; nothing in the file is executed.

    Physical ids become logical ones by the dump's last map (exact unless EPLB moved experts while it recorded). Tokens
    with ids of 1,000,000 and more are images. The dump does not name requests: tokens from position p on continue a
    sequence that has p tokens; among several that decode, the oldest, which is the order in which SGLang keeps a batch. A
    sequence that is missing from a decode pass has ended; if another of the same length continues in that pass, the two may
    be exchanged.

    Raises:
        TraceError: If it is another file, a dump of counts, or one that started in the middle of a sequence.
    """
    content = load_torch_file(path)
    try:
        records, to_logical = _records(content), _map_of(content)
        sequences = [sequence for sequence in _sequences(records) if sequence.tokens]
        if not sequences:
            raise TraceError("holds no token. Was a request running during the recording?")
        return _trace(sequences, to_logical, name=path.name)
    except TraceError as error:
        raise error.at(str(path)) from None


def read_expert_counts(path: Path) -> NDArray[np.int64]:
    """Routed tokens of each logical expert over a dump of any mode, shape (layers, experts); zeros in dense layers.

    Raises:
        TraceError: If it is another file.
    """
    content = load_torch_file(path)
    try:
        if isinstance(content, dict) and "logical_count" in content:
            return _integers(content, "logical_count", axes=3).sum(axis=0)
        to_logical = _map_of(content)
        counts = np.zeros((len(to_logical), int(to_logical.max()) + 1), dtype=np.int64)
        layer = np.arange(len(to_logical))[:, None]
        for record in _records(content):
            np.add.at(counts, (layer, to_logical), _physical_counts(record, to_logical.shape))
        return counts
    except TraceError as error:
        raise error.at(str(path)) from None


def _physical_counts(record: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    if "global_physical_count" in record:
        counts = _integers(record, "global_physical_count", axes=2)
        if counts.shape != shape:
            raise TraceError(f"global_physical_count has the shape {counts.shape}, the map {shape}. Is the file damaged?")
        return counts
    ids = _topk_ids(record)
    _refuse_slots(ids, shape)
    counts = np.zeros(shape, dtype=np.int64)
    layer = np.broadcast_to(np.arange(len(ids))[:, None, None], ids.shape)
    np.add.at(counts, (layer[ids >= 0], ids[ids >= 0]), 1)
    return counts


def _records(content: Any) -> list[dict[str, Any]]:
    records = content.get("records") if isinstance(content, dict) else None
    if isinstance(content, dict) and "logical_count" in content:
        raise TraceError(_ONLY_COUNTS)
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise TraceError(f"{_NOT_A_DUMP}: it has no records. Record with mode per_token or per_pass.")
    return records


def _map_of(content: Any) -> NDArray[np.int64]:
    found = _integers(content, "last_physical_to_logical_map", axes=2)
    if not found.size or found.min() < 0 or found.max() >= found.shape[1]:
        raise TraceError("last_physical_to_logical_map must hold one of its experts in each slot. Is the file damaged?")
    return found


def _integers(holder: Any, name: str, *, axes: int) -> NDArray[np.int64]:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.ndim != axes:
        raise TraceError(f"{_NOT_A_DUMP}: {name} is not an integer tensor of {axes} axes.")
    return value.astype(np.int64)


def _topk_ids(record: dict[str, Any]) -> NDArray[np.int64]:
    if "topk_ids_of_layer" not in record:
        raise TraceError(_ONLY_COUNTS)
    return _integers(record, "topk_ids_of_layer", axes=3)


def _refuse_slots(ids: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    if len(ids) != shape[0] or (ids.size and (ids.min() < -1 or ids.max() >= shape[1])):
        extreme = (int(ids.min()), int(ids.max())) if ids.size else ()
        raise TraceError(
            f"topk_ids_of_layer has {len(ids)} layers and ids {extreme}; the map has (layers, slots) = {shape}."
        )


def _sequences(records: list[dict[str, Any]]) -> list[_Sequence]:
    sequences: list[_Sequence] = []
    for number, record in enumerate(records):
        if record.get("forward_mode") != _IDLE:
            try:
                _add_pass(sequences, record)
            except TraceError as error:
                raise error.at(f"records[{number}]") from None
    return sequences


def _add_pass(sequences: list[_Sequence], record: dict[str, Any]) -> None:
    """Append each run of tokens of one pass to the sequence that it continues."""
    ids, mode = _topk_ids(record), record.get("forward_mode")
    tokens, positions = (_list_of(record, name, ids.shape[1]) for name in ("input_ids", "positions"))
    if mode not in {_EXTEND, _DECODE}:
        raise TraceError(
            f"forward_mode = {mode!r} is not prefill (1) or decode (2): speculative and mixed batches are not read. "
            "Record without them."
        )
    lengths = record.get("extend_seq_lens") if mode == _EXTEND else [1] * len(tokens)
    if not isinstance(lengths, list) or sum(lengths) != len(tokens) or min(lengths, default=1) < 1:
        raise TraceError(f"extend_seq_lens = {lengths!r} must add up to {len(tokens)} tokens.")
    taken: list[_Sequence] = []
    start = 0
    for length in lengths:
        sequence = _continued(sequences, taken, positions[start], is_prompt=mode == _EXTEND)
        taken.append(sequence)
        sequence.pieces.append(ids[:, start : start + length])
        sequence.tokens += tokens[start : start + length]
        if mode == _EXTEND:
            sequence.prompt = len(sequence.tokens)
        start += length
    if mode == _DECODE:
        for sequence in sequences:
            sequence.is_open = any(sequence is other for other in taken)


def _list_of(record: dict[str, Any], name: str, count: int) -> list[int]:
    value = record.get(name)
    if not isinstance(value, list) or len(value) != count or not all(isinstance(item, int) for item in value):
        raise TraceError(f"{name} must hold a number for each of {count} tokens.")
    return value


def _continued(sequences: list[_Sequence], taken: list[_Sequence], position: int, *, is_prompt: bool) -> _Sequence:
    """The sequence that a run of tokens continues; a new one at position 0.

    It must have ``position`` tokens and not be in this pass already. A chunk of a prompt continues the newest that has
    not decoded, a decoded token the oldest that has not ended.
    """
    if position == 0 and is_prompt:
        sequences.append(_Sequence())
        return sequences[-1]
    for sequence in reversed(sequences) if is_prompt else sequences:
        is_next = sequence.prompt == len(sequence.tokens) if is_prompt else sequence.is_open
        if is_next and len(sequence.tokens) == position and not any(sequence is other for other in taken):
            sequence.is_open = True
            return sequence
    raise TraceError(
        f"a token at position {position} continues no recorded sequence (started before the recording, or its prompt was "
        "in the prefix cache). Record whole requests, with --disable-radix-cache."
    )


def _trace(sequences: list[_Sequence], to_logical: NDArray[np.int64], *, name: str) -> RoutingTrace:
    physical = [np.concatenate(sequence.pieces, axis=1).transpose(1, 0, 2) for sequence in sequences]
    together = np.concatenate(physical)
    _refuse_slots(together.transpose(1, 0, 2), to_logical.shape)
    layers = np.flatnonzero((together >= 0).any(axis=(0, 2)))
    slots = np.flatnonzero((together >= 0).any(axis=(0, 1)))
    if not len(layers):
        raise TraceError("no layer has routed tokens. Does the model have experts?")
    used = int(slots[-1]) + 1
    found = []
    for sequence, ids in zip(sequences, physical, strict=True):
        kept = ids[:, layers, :used]
        logical = np.where(kept >= 0, to_logical[layers[None, :, None], kept], -1)
        modality = np.where(np.array(sequence.tokens) >= _FIRST_PAD, IMAGE, TEXT).astype(np.uint8)
        found.append(SequenceRouting(expert_ids=logical.astype(np.int16), modality=modality, prompt_tokens=sequence.prompt))
    return trace_of(
        found,
        num_experts=int(to_logical.max()) + 1,
        moe_layers=layers.astype(np.int32),
        metadata={"source": "sglang expert distribution", "file": name, "hidden_layers": len(to_logical)},
    )
