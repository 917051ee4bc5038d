"""Dumps as SGLang's recorder writes them: see the module's docstring for the files they imitate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_archive

from smoes_sim.errors import TraceError
from smoes_sim.routing.sglang_dump import import_expert_distribution, read_expert_counts

# 3 hidden layers, the first dense; 4 logical experts in 5 slots; slot 4 is a copy of expert 0
MAP = np.array([[0, 1, 2, 3, 0], [3, 2, 1, 0, 0], [0, 1, 2, 3, 0]])
IMAGE_PAD = 1_000_123


def padded(layers: list[list[list[int]]]) -> np.ndarray:
    """topk_ids_of_layer of two MoE layers after a dense one, padded to 8 slots as SGLang does."""
    ids = np.full((3, len(layers[0]), 8), -1, dtype=np.int32)
    ids[1:, :, :2] = layers
    return ids


def record(mode: int, tokens: list[int], positions: list[int], ids: np.ndarray, lengths: list[int] | None) -> dict[str, Any]:
    return {
        "forward_pass_id": 0,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": tokens,
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": ids,
        "misc_objects": [],
    }


def per_token() -> dict[str, Any]:
    """Two prompts together (the first with an image), then one decode step of both, then one of the second alone."""
    prompt = padded([[[0, 1], [4, 2], [3, 1], [0, 2], [1, 3]], [[0, 1], [1, 2], [2, 3], [4, 3], [0, 3]]])
    step = padded([[[0, 3], [2, 1]], [[1, 0], [2, 0]]])
    last = padded([[[1, 0]], [[4, 1]]])
    return {
        "records": [
            record(1, [5, IMAGE_PAD, 6, 7, 8], [0, 1, 2, 0, 1], prompt, [3, 2]),
            record(2, [9, 10], [3, 2], step, None),
            record(4, [], [], np.zeros((3, 0, 8), dtype=np.int32), None),
            record(2, [11], [3], last, None),
        ],
        "last_physical_to_logical_map": MAP,
    }


def test_tokens_become_a_trace_of_logical_experts(tmp_path: Path) -> None:
    torch_archive.write(tmp_path / "dump.pt", per_token())
    trace = import_expert_distribution(tmp_path / "dump.pt")
    assert trace.moe_layers.tolist() == [1, 2]
    assert (trace.num_experts, trace.top_k) == (4, 2)
    # prompts of sequences 0 and 1, then their decoded tokens: one of the first, two of the second
    assert trace.sequence_id.tolist() == [0, 0, 0, 1, 1, 0, 1, 1]
    assert trace.phase.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert trace.modality.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    # layer 1 maps slots 0 1 2 3 4 to experts 3 2 1 0 0
    assert trace.expert_ids[:, 0].tolist() == [[3, 2], [0, 1], [0, 2], [3, 1], [2, 0], [3, 0], [1, 2], [2, 3]]
    # layer 2 maps slot 4 to expert 0 and keeps the others
    assert trace.expert_ids[:, 1].tolist() == [[0, 1], [1, 2], [2, 3], [0, 3], [0, 3], [1, 0], [2, 0], [0, 1]]


def test_a_chunked_prompt_is_one_sequence(tmp_path: Path) -> None:
    first, second = padded([[[0, 1]], [[0, 1]]]), padded([[[1, 2]], [[2, 3]]])
    records = [record(1, [5], [0], first, [1]), record(1, [6], [1], second, [1])]
    torch_archive.write(tmp_path / "dump.pt", {"records": records, "last_physical_to_logical_map": MAP})
    trace = import_expert_distribution(tmp_path / "dump.pt")
    assert (trace.sequence_id.tolist(), trace.phase.tolist()) == ([0, 0], [0, 0])


def test_a_sequence_that_ended_is_not_continued(tmp_path: Path) -> None:
    # prompts of 3 and 2; both decode once, the first ends at length 4, the second goes on through length 4
    prompt = padded([[[0, 1]] * 5, [[0, 1]] * 5])
    steps = [padded([[[2, 3]] * count, [[2, 3]] * count]) for count in (2, 1, 1)]
    records = [
        record(1, [5] * 5, [0, 1, 2, 0, 1], prompt, [3, 2]),
        record(2, [6, 6], [3, 2], steps[0], None),
        record(2, [6], [3], steps[1], None),
        record(2, [6], [4], steps[2], None),
    ]
    torch_archive.write(tmp_path / "dump.pt", {"records": records, "last_physical_to_logical_map": MAP})
    trace = import_expert_distribution(tmp_path / "dump.pt")
    assert trace.sequence_id[trace.phase == 1].tolist() == [0, 1, 1, 1]


def test_counts_agree_between_modes(tmp_path: Path) -> None:
    content = per_token()
    torch_archive.write(tmp_path / "token.pt", content)
    wanted = np.zeros((3, 4), dtype=np.int64)
    trace = import_expert_distribution(tmp_path / "token.pt")
    for layer in (0, 1):
        wanted[layer + 1] = np.bincount(trace.expert_ids[:, layer].ravel(), minlength=4)
    assert read_expert_counts(tmp_path / "token.pt").tolist() == wanted.tolist()

    records = []
    for one in content["records"]:
        slots = np.zeros((3, 5), dtype=np.int32)
        for layer, ids in enumerate(one["topk_ids_of_layer"]):
            slots[layer] = np.bincount(ids[ids >= 0], minlength=5)
        records.append({"forward_pass_id": 0, "rank": 0, "global_physical_count": slots})
    torch_archive.write(tmp_path / "pass.pt", {"records": records, "last_physical_to_logical_map": MAP})
    assert read_expert_counts(tmp_path / "pass.pt").tolist() == wanted.tolist()

    steps = np.stack([wanted - 1, np.ones_like(wanted)]).astype(np.int32)
    torch_archive.write(
        tmp_path / "stat.pt", {"rank": 0, "logical_count": steps, "average_utilization_rate_over_window": None}
    )
    assert read_expert_counts(tmp_path / "stat.pt").tolist() == wanted.tolist()


def changed(**changes: Any) -> dict[str, Any]:
    content = per_token()
    content["records"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"rank": 0, "logical_count": np.zeros((1, 2, 4), dtype=np.int32)},
            r"holds expert load counts, no tokens.*`smoes-sim placement make FILE --rule eplb`",
        ),
        ({"records": []}, r"it has no records"),
        ([1], r"is not a dump of SGLang's expert distribution recorder"),
        (
            per_token() | {"last_physical_to_logical_map": None},
            r"last_physical_to_logical_map is not an integer tensor of 2 axes",
        ),
        (
            per_token() | {"last_physical_to_logical_map": MAP[:, :4]},
            r"ids \(-1, 4\); the map has \(layers, slots\) = \(3, 4\)",
        ),
        (changed(positions=[7, 8, 9, 0, 1]), r"records\[0\]: a token at position 7 continues no recorded sequence"),
        (changed(forward_mode=5), r"records\[0\]: forward_mode = 5 is not prefill"),
        (changed(extend_seq_lens=[3, 3]), r"records\[0\]: extend_seq_lens = \[3, 3\] must add up to 5 tokens"),
        (changed(input_ids=[1]), r"records\[0\]: input_ids must hold a number for each of 5 tokens"),
    ],
)
def test_other_dumps_are_refused_with_the_reason(tmp_path: Path, content: Any, message: str) -> None:
    torch_archive.write(tmp_path / "dump.pt", content)
    with pytest.raises(TraceError, match=rf"dump\.pt: .*{message}"):
        import_expert_distribution(tmp_path / "dump.pt")
