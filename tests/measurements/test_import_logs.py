from pathlib import Path

import pytest
from test_nccl_logs import RCCL

from smoes_sim.errors import MeasurementError
from smoes_sim.measurements import read_measurements, write_measurements
from smoes_sim.measurements.imported import Facts, import_logs

STAR = "kind: star\nranks: 2\nlink: {bandwidth: 50 GB/s, latency: 0 us}\n"


def test_a_log_becomes_rows_that_name_the_topology_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(STAR)
    (tmp_path / "run.log").write_text(RCCL)
    out = tmp_path / "tables" / "rows.csv"
    imported = import_logs([tmp_path / "run.log"], out, Facts(topology=str(tmp_path / "net.yaml")))
    write_measurements(out, imported.rows)
    rows = read_measurements(out)
    assert [(row.id, row.size, row.nodes, row.ranks_per_node) for row in rows] == [
        ("run-alltoall-256", 256, 2, 1),
        ("run-alltoall-1073741824", 2**30, 2, 1),
    ]
    assert rows[0].topology == "../net.yaml"
    assert Path(rows[0].topology_name).samefile(tmp_path / "net.yaml")
    assert (rows[0].library, rows[0].schedule) == ("rccl 2.27.7", "direct")
    assert imported.left_out == {"size 0": 1}


def test_without_a_topology_nodes_and_ranks_come_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(RCCL)
    facts = Facts(system="MI355X", intra_link="xGMI", intra_bandwidth=535.5e9)
    row = import_logs([tmp_path / "run.log"], tmp_path / "rows.csv", facts).rows[0]
    assert (row.nodes, row.ranks_per_node, row.system, row.intra_link, row.topology) == (2, 1, "MI355X", "xGMI", "")


def test_a_size_that_was_timed_twice_keeps_both_rows(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(RCCL)
    rows = import_logs([tmp_path / "run.log"] * 2, tmp_path / "rows.csv", Facts()).rows
    assert [row.id for row in rows][::2] == ["run-alltoall-256", "run-alltoall-256-2"]


@pytest.mark.parametrize(
    ("text", "facts", "message"),
    [
        (RCCL, Facts(topology="8x-h100"), r"ran on 2 ranks, the topology 8x-h100 has 8"),
        (RCCL, Facts(operation="alltoallv"), r"alltoallv does not print its traffic matrix\. Add --matrix"),
        (RCCL.replace("alltoall_perf", "all_reduce_perf"), Facts(), r"no row to import \(2 x operation all_reduce"),
        (RCCL.replace("# Collective test starting: alltoall_perf\n", ""), Facts(), r"run\.log: does not name its test"),
        (
            "\n".join(line for line in RCCL.splitlines() if "Rank" not in line),
            Facts(),
            r"does not give the number of nodes and ranks",
        ),
    ],
)
def test_missing_facts_are_requested_by_option(tmp_path: Path, text: str, facts: Facts, message: str) -> None:
    (tmp_path / "run.log").write_text(text)
    with pytest.raises(MeasurementError, match=message):
        import_logs([tmp_path / "run.log"], tmp_path / "rows.csv", facts)
