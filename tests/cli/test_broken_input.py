"""Every kind of broken input gives one line with the place and the way out, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from smoes_sim.cli import main

STAR = "kind: star\nranks: 4\nlink: {bandwidth: 50 GB/s}\n"
TRACE = {
    "expert_ids": np.zeros((3, 1, 2), dtype=np.int16),
    "modality": np.zeros(3, dtype=np.uint8),
    "sequence_id": np.zeros(3, dtype=np.int32),
    "phase": np.zeros(3, dtype=np.uint8),
    "moe_layers": np.zeros(1, dtype=np.int32),
    "num_experts": np.int32(4),
}
ORIN = "simulate olmoe-two-orin"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of broken files."""
    monkeypatch.chdir(tmp_path)
    texts = {
        "star.yaml": STAR,
        "unknown-key.yaml": STAR.replace("link", "lnk"),
        "ambiguous.yaml": STAR.replace("50 GB/s", "400G"),
        "no-unit.yaml": STAR.replace("50 GB/s", "50"),
        "negative.yaml": STAR.replace("50 GB/s", "-50 GB/s"),
        "zero.yaml": STAR.replace("50 GB/s", "0 GB/s"),
        "missing-key.yaml": "kind: star\nranks: 4\n",
        "no-kind.yaml": "ranks: 4\n",
        "kind.yaml": "kind: stra\nranks: 4\n",
        "fraction.yaml": STAR.replace("ranks: 4", "ranks: 4.5"),
        "twice.yaml": "kind: star\nkind: mesh\n",
        "syntax.yaml": "kind: [\n",
        "list.yaml": "- kind\n",
        "disconnected.yaml": "kind: graph\ndevices: [a, b]\nlinks: []\n",
        "small.txt": "1 2\n3 4\n",
        "nan.txt": "0 1 2 3\n1 0 nan 2\n1 1 1 1\n1 1 1 1\n",
        "minus.txt": "0 1 2 3\n1 0 2 2\n1 1 1 1\n1 1 -1 1\n",
        "columns.csv": "id,nodes\nx,1\n",
        "typo.csv": "id,nodes,ranks_per_node,mode,op,time_us,libary\nx,1,8,alltoall,alltoall,1,1\n",
        "cell.csv": "id,nodes,ranks_per_node,mode,op,time_us\nx,1,8,alltoall,alltoall,abc\n",
        "empty.csv": "id,nodes,ranks_per_node,mode,op,time_us\n",
        "broken.json": '{"scenario": ',
        "a-file": "x",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    traces = {
        "empty.npz": TRACE | {"expert_ids": np.zeros((0, 1, 2), dtype=np.int16)},
        "shape.npz": TRACE | {"modality": np.zeros(4, dtype=np.uint8)},
        "range.npz": TRACE | {"expert_ids": np.full((3, 1, 2), 4, dtype=np.int16)},
        "top-k.npz": TRACE | {"num_experts": np.int32(1)},
        "weights.npz": TRACE | {"expert_weights": np.full((3, 1, 2), np.nan, dtype=np.float16)},
        "floats.npz": TRACE | {"expert_ids": np.zeros((3, 1, 2))},
        "other.npz": TRACE,
        "nobody.npz": TRACE | {"expert_ids": np.full((3, 1, 2), -1, dtype=np.int16)},
        "three.npz": TRACE | {"num_experts": np.int32(3)},
        "missing.npz": {key: value for key, value in TRACE.items() if key != "phase"},
    }
    for name, arrays in traces.items():
        np.savez(tmp_path / name, **arrays)
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    return tmp_path


CASES = [
    ("topology check unknown-key.yaml", r'unknown-key\.yaml:3:1: unknown key "lnk"\. Did you mean "link"\?'),
    ("topology check ambiguous.yaml", r'ambiguous\.yaml:3:19: .*"400G" has no unit.*Write "400 Gb/s" or "50 GB/s"'),
    ("topology check no-unit.yaml", r"no-unit\.yaml:3:19: .*50 has no unit of bandwidth\. Write"),
    ("topology check negative.yaml", r"negative\.yaml:3:19: .*-50 GB/s.* is negative"),
    ("topology check zero.yaml", r"zero\.yaml:3:19: .*is zero; bandwidth must be > 0"),
    ("topology check missing-key.yaml", r'missing-key\.yaml:1:1: the key "link" is missing.*Add it'),
    ("topology check no-kind.yaml", r'no-kind\.yaml:1:1: the key "kind" is missing'),
    ("topology check kind.yaml", r'kind\.yaml:1:7: kind = "stra" is unknown\. Did you mean "star"\?'),
    ("topology check fraction.yaml", r"fraction\.yaml:2:8: ranks = 4\.5"),
    ("topology check twice.yaml", r'twice\.yaml:2:1: .*duplicate key "kind"'),
    ("topology check syntax.yaml", r"syntax\.yaml:2:1: is not YAML"),
    ("topology check list.yaml", r"list\.yaml:1:1: is not a mapping"),
    ("topology check disconnected.yaml", r"rank 0 \(a\) has no route to rank 1 \(b\).*Add a link"),
    ("topology check binary.yaml", r"binary\.yaml: is not UTF-8"),
    ("topology check folder.yaml", r"folder\.yaml: cannot be read \(Is a directory\)"),
    ("topology check nowhere.yaml", r"nowhere\.yaml: cannot be read \(No such file"),
    ("topology check 8x-b20", r'"8x-b20" is neither shipped nor a file\. Did you mean "8x-b200"\?'),
    ("alltoall star.yaml --matrix small.txt", r"small\.txt: is 2 x 2, the topology has 4 ranks"),
    ("alltoall star.yaml --matrix nan.txt", r'nan\.txt:2: "nan" is not a number of bytes'),
    ("alltoall star.yaml --matrix minus.txt", r'minus\.txt:4: "-1" is not a number of bytes'),
    ("alltoall star.yaml --bytes 64T", r'--bytes = "64T" has no unit.*Write "64 MiB"'),
    ("alltoall star.yaml --sweep 8MiB:1MiB", r"--sweep = 8388608 B to 1048576 B is empty"),
    ("alltoall star.yaml --sweep 8MiB", r'--sweep = "8MiB" is not LOW:HIGH'),
    ("alltoall star.yaml --bytes 1MiB --matrix nan.txt", r"exclude each other"),
    ("alltoall star.yaml --foo", r"No such option: --foo"),
    ("alltoall star.yaml --zipf 1 --lognormal 1", r"--zipf and --lognormal each say who sends what\. Give one of them"),
    ("alltoall star.yaml --trace other.npz --workload W1", r"--workload and --trace each say who sends what"),
    ("alltoall star.yaml --matrix nan.txt --zipf 1", r"--matrix and --zipf each say who sends what"),
    ("alltoall star.yaml --matrix nan.txt --sweep 1MiB:2MiB", r"--bytes, --sweep and --matrix exclude each other"),
    ("alltoall star.yaml --per-source", r"--per-source says how --zipf is drawn\. Give --zipf too"),
    ("alltoall star.yaml --step 1", r"--step picks a step of --workload\. Give --workload too"),
    ("alltoall star.yaml --workload W1 --step -1", r"Invalid value for '--step'"),
    ("alltoall star.yaml --workload W2_hotrank", r'"W2_hotrank" is unknown\. Did you mean "W2_hot_rank"\?'),
    ("alltoall star.yaml --zipf nan", r"--zipf = nan: must be a number >= 0"),
    ("alltoall star.yaml --zipf -1", r"--zipf = -1\.0: must be a number >= 0"),
    ("alltoall star.yaml --zipf much", r"Invalid value for '--zipf'"),
    ("alltoall star.yaml --lognormal inf", r"--lognormal = inf: must be a number >= 0"),
    ("alltoall star.yaml --trace nowhere.npz", r"nowhere\.npz: cannot be read as a trace"),
    ("alltoall star.yaml --trace truncated.npz", r"truncated\.npz: cannot be read as a trace"),
    ("alltoall star.yaml --trace nobody.npz", r"nobody\.npz: no token goes to any expert"),
    ("alltoall star.yaml --trace three.npz", r"three\.npz: 3 experts leave some of the 4 ranks of an EP group without one"),
    ("alltoall star.yaml --schedule low_latency", r"one message a copy\. Give --message-size"),
    ("alltoall star.yaml --schedule low_latency --message-size 7", r'--message-size = "7" has no unit'),
    ("alltoall star.yaml --schedule low_latency --message-size 0B", r"--message-size = 0 B: must be more than 0 bytes"),
    ("alltoall star.yaml --schedule ring", r"Invalid value for '--schedule'"),
    ("alltoall star.yaml --order left", r"Invalid value for '--order'"),
    ("alltoall star.yaml --fidelity exact", r"Invalid value for '--fidelity'"),
    ("alltoall star.yaml --fidelity fifo --window 0B", r"--window = 0 B: must be more than 0 bytes"),
    ("alltoall star.yaml --fidelity fifo --window 64k", r'--window = "64k" has no unit'),
    ("alltoall star.yaml --fidelity fifo --chunk 0B", r"--chunk = 0 B: must be more than 0 bytes"),
    ("alltoall star.yaml --fidelity fifo --injection lifo", r"Invalid value for '--injection'"),
    ("alltoall star.yaml --tolerance nan", r"--tolerance = nan: must be between 0 \(exact\) and 0\.1"),
    ("alltoall star.yaml --tolerance 1", r"--tolerance = 1\.0: must be between 0 \(exact\) and 0\.1"),
    ("alltoall star.yaml --per-message 5", r'--per-message = "5" has no unit'),
    ("alltoall star.yaml --links 0", r"Invalid value for '--links'"),
    ("alltoall star.yaml --seed -1", r"Invalid value for '--seed'"),
    ("alltoall star.yaml --plot a.pdf", r'a\.pdf: ends in "\.pdf": a plot is \.svg or \.png'),
    ("alltoall star.yaml --plot a-file/a.svg", r"a-file/a\.svg: cannot be written"),
    ("alltoall star.yaml --plot a.svg --fidelity fifo", r"--fidelity fifo does not record\. Use --fidelity fluid"),
    ("validate columns.csv", r"columns\.csv:1: the column ranks_per_node is missing"),
    ("validate typo.csv", r'typo\.csv:1: unknown column "libary"\. Did you mean "library"\?'),
    ("validate cell.csv", r'cell\.csv:2: time_us = "abc" is not a number'),
    ("validate empty.csv", r"empty\.csv: has no row"),
    ("trace info empty.npz", r"empty\.npz: .*the trace is empty"),
    ("trace info shape.npz", r"shape\.npz: modality has the shape \(4,\).*needs \(3,\)"),
    ("trace info range.npz", r"range\.npz: expert_ids holds 4; with num_experts = 4"),
    ("trace info top-k.npz", r"top-k\.npz: top_k = 2 is more than num_experts = 1"),
    ("trace info weights.npz", r"weights\.npz: expert_weights\[0, 0, 0\] is nan"),
    ("trace info floats.npz", r"floats\.npz: expert_ids is float64; it must hold integers"),
    ("trace info missing.npz", r"missing\.npz: has no array phase"),
    ("trace info truncated.npz", r"truncated\.npz: cannot be read as a trace"),
    ("trace info star.yaml", r"star\.yaml: cannot be read as a trace"),
    (f"{ORIN} model=olmo", r'model = "olmo" is unknown'),
    (f"{ORIN} compute.device=h100", r'device = "h100" may be h100-nvl, h100-pcie or h100-sxm\. Write one of them'),
    (f"{ORIN} workload.preset=mmu", r'preset = "mmu" is unknown\. Did you mean "mmmu"\?'),
    (f"{ORIN} workload.decode_batch=9", r"decode_batch = 9 is more than batch = 8.*Use 1\.\.8"),
    (f"{ORIN} routing.policy=smos", r'"smos" is unknown\. Did you mean "smoes"\?'),
    (f"{ORIN} routing.skip.vision=0.9", r"skip\.vision = 0\.9: the best slot of a token is never skipped, so at most 0"),
    (
        f"{ORIN} routing.policy=group_balanced routing.groups=16",
        r"olmoe-1b-7b: .*groups = 16 does not divide top_k = 8",
    ),
    (f"{ORIN} routing.policy=device_limited routing.groups=5", r"groups = 5 does not divide 64 experts\. Use 1, 2, 4, 8"),
    (f"{ORIN} routing.groups=5", r"groups = 5 belong to device_limited and group_balanced, not standard"),
    (f"{ORIN} seed", r'"seed": is not key=value'),
    (f"{ORIN} seed=-1", r"seed = -1"),
    (f"{ORIN} compute.flops_efficiency=.nan", r"flops_efficiency = nan"),
    (f"{ORIN} topology=gb200-nvl72", r"64 experts leave some of the 72 ranks .*parallelism\.expert=36"),
    (f"{ORIN} routing.trace=other.npz", r"other\.npz: num_experts = 4, but the scenario's model and workload have 64"),
    (f"{ORIN} calibration=broken.json", r"broken\.json:1:\d+: is not JSON"),
    (f"{ORIN} communication.library=low_latency", r"cannot deduplicate by rank\. Write deduplicate: none"),
    ("compare seed=0,1", r"no scenario is named"),
    ("compare olmoe-two-orin --baseline 3 calibration=null", r"baseline = 3 is not one of the 1 rows"),
    ("schema foo", r'"foo" is not a kind of file'),
    ("simulat", r"No such command 'simulat'"),
]


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command for command, _ in CASES])
def test_broken_input_gives_one_line_with_the_way_out(
    command: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("smoes-sim: ")
    assert re.search(message, err), err
    assert sorted(folder.rglob("*")) == before


def test_results_that_cannot_be_written_leave_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["trace", "synthesize", "olmoe-two-orin", "workload.batch=1", "-o", "a-file/trace.npz"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "a-file/trace.npz: cannot be written" in err
    assert sorted(folder.rglob("*")) == before
