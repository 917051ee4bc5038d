from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smoes_sim.errors import PlacementError
from smoes_sim.placement import ExpertPlacement
from smoes_sim.placement.formats import all_layers, read_placement, write_counts, write_placement

# two MoE layers of four experts on two ranks, in a model whose layers 0 and 2 are dense
PLACED = ExpertPlacement(physical_to_logical_map=np.array([[3, 1, 0, 2], [2, 3, 1, 0]]), slot_rank=np.array([0, 0, 1, 1]))
MODEL: dict[str, Any] = {"moe_layers": [1, 3], "num_experts": 4, "num_ranks": 2}


def test_the_file_has_the_only_key_and_all_layers_that_sglang_reads(tmp_path: Path) -> None:
    write_placement(PLACED, tmp_path / "p.json", moe_layers=[1, 3], num_layers=5)
    content = json.loads((tmp_path / "p.json").read_text())
    plain = [0, 1, 2, 3]
    assert content == {"physical_to_logical_map": [plain, [3, 1, 0, 2], plain, [2, 3, 1, 0], plain]}


@pytest.mark.parametrize("rows", [[1, 3], [0, 1, 2, 3, 4]])
def test_a_written_placement_reads_back_equal(tmp_path: Path, rows: list[int]) -> None:
    write_placement(PLACED, tmp_path / "p.json", moe_layers=[1, 3], num_layers=5)
    content = json.loads((tmp_path / "p.json").read_text())
    kept = [content["physical_to_logical_map"][row] for row in rows]
    (tmp_path / "p.json").write_text(json.dumps({"physical_to_logical_map": kept}))
    read = read_placement(tmp_path / "p.json", **MODEL)
    assert read.physical_to_logical_map.tolist() == PLACED.physical_to_logical_map.tolist()
    assert read.expert_rank.tolist() == PLACED.expert_rank.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]


def test_counts_have_a_row_for_every_layer(tmp_path: Path) -> None:
    counts = all_layers(np.array([[5, 1], [2, 7]]), moe_layers=[1, 3], num_layers=4)
    write_counts(counts, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == {"logical_count": [[0, 0], [5, 1], [0, 0], [2, 7]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is not JSON"),
        ('{"logical_count": [[1]]}', r"has no physical_to_logical_map"),
        ('{"physical_to_logical_map": [[0, 1.5, 2, 3]]}', r"a value that is not an integer"),
        ('{"physical_to_logical_map": [[0, 1, 2, 3]]}', r"has 1 layers; the model has 2 MoE layers, the last with index 3"),
        (
            '{"physical_to_logical_map": [[0, 1, 2, 2], [0, 1, 2, 3]]}',
            r"layer 1: must hold each expert 0 to 3, and no other",
        ),
        (
            '{"physical_to_logical_map": [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3]]}',
            r"layer 3: has 4 slots, layer 1 has 6",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(PlacementError, match=rf"p\.json: .*{message}"):
        read_placement(tmp_path / "p.json", **MODEL)


def test_ranks_and_paths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_placement(PLACED, tmp_path / "p.json", moe_layers=[1, 3], num_layers=4)
    with pytest.raises(PlacementError, match=r"4 slots do not divide over 3 ranks"):
        read_placement(tmp_path / "p.json", **MODEL | {"num_ranks": 3})
    with pytest.raises(PlacementError, match=r"none\.json: cannot be read"):
        read_placement(tmp_path / "none.json", **MODEL)


def test_a_file_describes_one_ep_group(tmp_path: Path) -> None:
    two_groups = ExpertPlacement(physical_to_logical_map=np.array([[0, 1]]), slot_rank=np.array([0, 1]), num_groups=2)
    with pytest.raises(PlacementError, match=r"^4 ranks form 2 EP groups; a file describes one\. Use 2 ranks\.$"):
        write_placement(two_groups, tmp_path / "p.json", moe_layers=[0], num_layers=1)
