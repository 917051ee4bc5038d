"""Traces from and to other programs, by command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_archive

from smoes_sim.cli import main

ROUTED = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]], [[2, 0], [3, 2]]], dtype=np.int16)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_routed_experts_are_imported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(here / "r.npy", ROUTED)
    arguments = ["trace", "import", "r.npy", "--format", "vllm", "--num-experts", "4", "--prompt-tokens", "2", "-o", "t.npz"]
    found = document(capsys, *arguments)
    assert (found["tokens"], found["prefill_tokens"], found["vision_tokens"], found["top_k"]) == (3, 2, 0, 2)
    assert found == document(capsys, "trace", "info", "t.npz")


def test_info_prints_one_line_per_key_in_100_columns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "synthesize", "olmoe-two-orin", "workload.batch=1", "-o", "t.npz"]) == 0
    capsys.readouterr()
    assert main(["trace", "info", "t.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    found = dict(line.split(maxsplit=1) for line in lines if not line.startswith(" "))
    assert (found["layers"], found["experts"], found["metadata.model"]) == ("16", "64", "olmoe-1b-7b")
    assert main(["trace", "inspect", "t.npz"]) == 0  # the name in the documentation of version 0.1
    assert capsys.readouterr().out.splitlines() == lines


def test_a_tokens_file_says_which_tokens_are_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(here / "r.npz", a=ROUTED, b=ROUTED[:2])
    sequences = [{"prompt_tokens": 2, "modality": [1, 0]}, {"modality": [1, 1]}]
    (here / "tokens.json").write_text(json.dumps({"num_experts": 4, "sequences": sequences}))
    found = document(capsys, "trace", "import", "r.npz", "--format", "sglang", "--tokens", "tokens.json", "-o", "t.npz")
    assert (found["tokens"], found["sequences"], found["vision_tokens"]) == (5, 2, 3)


def test_an_sglang_dump_is_imported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "forward_mode": 1,
        "input_ids": [1, 1_000_001],
        "positions": [0, 1],
        "extend_seq_lens": [2],
        "topk_ids_of_layer": ROUTED[:2].transpose(1, 0, 2).astype(np.int32),
    }
    dump = {"records": [record], "last_physical_to_logical_map": np.tile(np.arange(4), (2, 1))}
    torch_archive.write(here / "dump.pt", dump)
    found = document(capsys, "trace", "import", "dump.pt", "--format", "sglang", "-o", "t.npz")
    assert (found["tokens"], found["vision_tokens"], found["experts"]) == (2, 1, 4)


def test_import_says_in_one_line_what_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(here / "r.npy", ROUTED)
    (here / "t.json").write_text('{"num_experts": 4, "sequences": [{}]}')
    start = ["trace", "import", "r.npy", "--format", "vllm", "-o", "out.npz"]
    assert "r.npy: the number of experts is not in the arrays" in refusal(capsys, *start)
    assert "t.json describes the sequences already" in refusal(capsys, *start, "--tokens", "t.json", "--prompt-tokens", "2")
    torch_archive.write(here / "d.pt", {"records": []})
    dump = ["trace", "import", "d.pt", "--format", "sglang", "-o", "out.npz"]
    assert "d.pt: a recorder dump describes its own tokens" in refusal(capsys, *dump, "--num-experts", "4")
    assert "it has no records" in refusal(capsys, *dump)
    assert not (here / "out.npz").exists()


def test_bins_and_counts_are_exported_for_sglang(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # layer 0: text chooses 2 and 3, images 0 and 1; layer 1 the other way round; the model has a dense layer before them
    text, image = [[2, 3], [0, 1]], [[0, 1], [2, 3]]
    np.save(here / "r.npy", np.array([text, image, image]))
    (here / "t.json").write_text('{"num_experts": 4, "moe_layers": [1, 2], "sequences": [{"modality": [0, 1, 1]}]}')
    arguments = ["trace", "import", "r.npy", "--format", "vllm", "--tokens", "t.json", "-o", "t.npz"]
    document(capsys, *arguments)
    assert main(["trace", "export", "t.npz", "--placement", "bins", "--ranks", "2", "-o", "p.json"]) == 0
    assert json.loads((here / "p.json").read_text()) == {
        "physical_to_logical_map": [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 0, 1]]
    }
    assert main(["trace", "export", "t.npz", "--counts", "-o", "c.json"]) == 0
    assert json.loads((here / "c.json").read_text()) == {"logical_count": [[0, 0, 0, 0], [2, 2, 1, 1], [1, 1, 2, 2]]}
    torch_archive.write(here / "stat.pt", {"rank": 0, "logical_count": np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])})
    assert main(["trace", "export", "stat.pt", "--counts", "-o", "c.json"]) == 0
    assert json.loads((here / "c.json").read_text()) == {"logical_count": [[6, 8], [10, 12]]}
    capsys.readouterr()
    assert "write either --placement RULE or --counts" in refusal(capsys, "trace", "export", "t.npz", "-o", "x.json")
    start = ["trace", "export", "t.npz", "-o", "x.json", "--placement", "bins"]
    assert "needs the number of ranks. Give --ranks" in refusal(capsys, *start)
    assert "4 slots on 3 ranks are 1 or 2 on each" in refusal(capsys, *start, "--ranks", "3")
    dump = ["trace", "export", "stat.pt", "-o", "x.json", "--placement", "bins", "--ranks", "2"]
    assert "stat.pt: is a recorder dump; bins needs a trace" in refusal(capsys, *dump)


def test_a_placement_is_made_from_exported_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # layer 0 is dense (no counts): experts in order. Layer 1, two slots per rank, the heaviest first to the lighter rank
    # that has room: 4 -> rank 0; 2 -> rank 1; expert 1 -> rank 1 (2 < 4), now full; expert 3 -> rank 0: loads 5 and 3
    (here / "c.json").write_text('{"logical_count": [[0, 0, 0, 0], [4, 1, 2, 1]]}')
    make = ["placement", "make", "c.json", "-o", "p.json", "--rule", "eplb", "--ranks", "2"]
    assert main(make) == 0
    assert json.loads((here / "p.json").read_text()) == {"physical_to_logical_map": [[0, 1, 2, 3], [0, 3, 2, 1]]}
    # a spare slot per rank: expert 0 gets a 2nd copy, then (lowest of equals) a 3rd. 2 -> rank 0; 4/3, 4/3 -> rank 1;
    # 4/3 -> rank 0 (2 < 8/3); expert 1 -> rank 1 (8/3 < 10/3), now full; expert 3 -> rank 0: loads 13/3 and 11/3
    assert main([*make, "--spare", "1"]) == 0
    assert json.loads((here / "p.json").read_text()) == {"physical_to_logical_map": [[0, 1, 2, 3, 0, 1], [2, 0, 3, 0, 0, 1]]}
    # the recorder's own file of the same counts, in two steps
    counts = np.array([[[0, 0, 0, 0], [1, 1, 0, 1]], [[0, 0, 0, 0], [3, 0, 2, 0]]])
    torch_archive.write(here / "stat.pt", {"rank": 0, "logical_count": counts})
    assert main([*make[:2], "stat.pt", *make[3:]]) == 0
    assert json.loads((here / "p.json").read_text())["physical_to_logical_map"][1] == [0, 3, 2, 1]


def test_counts_that_make_no_placement_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "c.json").write_text('{"logical_count": [[4, 1, 2, 1]]}')
    make = ["placement", "make", "c.json", "-o", "p.json", "--ranks", "2", "--rule"]
    assert "c.json: holds expert load counts, from which only --rule eplb can place experts, not bins" in refusal(
        capsys, *make, "bins"
    )
    assert "4 slots on 3 ranks are 1 or 2 on each; the file" in refusal(capsys, *make, "eplb", "--ranks", "3")
    for content in ('{"counts": [[1]]}', "[[1, 2]]", '{"logical_count": [[1, 2], [3]]}', '{"logical_count": [[1, -2]]}'):
        (here / "c.json").write_text(content)
        assert 'c.json: is not {"logical_count": [[...], ...]}' in refusal(capsys, *make, "eplb")
    (here / "c.json").write_text('{"logical_count": [[0, 0]]}')
    assert "all expert load counts are 0" in refusal(capsys, *make, "eplb")
    torch_archive.write(here / "stat.pt", {"rank": 0, "logical_count": np.array([[[1, 2]]])})
    import_ = ["trace", "import", "stat.pt", "--format", "sglang", "-o", "t.npz"]
    assert "stat.pt: holds expert load counts, no tokens: no trace can be made of it" in refusal(capsys, *import_)


def test_capture_names_the_extra_that_is_missing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("smoes_sim.learning.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refusal(capsys, "trace", "capture", "--hf", "x", "--prompts", "y", "-o", "z.npz")
    assert line == "smoes-sim: trace capture needs torch. Install it with: pip install 'smoes-sim[capture]'"
