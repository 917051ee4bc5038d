from dataclasses import replace
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from smoes_sim.errors import MeasurementError
from smoes_sim.measurements import Measurement, data_hash, measured_time, read_measurements, value_of, write_measurements

FULL = Measurement(
    id="a", system="box", nodes=2, ranks_per_node=4, intra_link="NVLink4", intra_bandwidth=450e9, inter_link="IB",
    nic_bandwidth=50e9, library="nccl", mode="ep_normal", op="dispatch", size=1048576.0, tokens_per_rank=128.0, hidden=7168,
    bytes_per_element=1.0, top_k=8, experts=256, node_limit=4, duration=123.4e-6, derived=1, variant="x, y", source="s",
    notes='says "hello"', topology="net.yaml", matrix="m.txt", schedule="two_hop", order="rail", scenario="s.yaml",
    phase="layer", layer=3, repeats=20, duration_p10=120e-6, duration_p90=130e-6,
)  # fmt: skip


def test_every_column_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    bare = Measurement(
        id="b", nodes=1, ranks_per_node=2, mode="alltoall", op="alltoall", bandwidth=40e9, bandwidth_kind="busbw"
    )
    write_measurements(tmp_path / "t.csv", [FULL, bare])
    found = read_measurements(tmp_path / "t.csv")
    assert found[0].duration == pytest.approx(FULL.duration, rel=1e-12)
    assert found[0] == replace(
        FULL, duration=found[0].duration, duration_p10=found[0].duration_p10, duration_p90=found[0].duration_p90
    )
    assert found[1] == bare


def test_a_frame_written_as_parquet_is_the_same_table(tmp_path: Path) -> None:
    bare = Measurement(id="b", nodes=1, ranks_per_node=2, mode="alltoall", op="alltoall", duration=1e-3)
    write_measurements(tmp_path / "t.csv", [FULL, bare])
    table = read_measurements(tmp_path / "t.csv")
    table.to_polars().write_parquet(tmp_path / "t.parquet")
    assert_frame_equal(read_measurements(tmp_path / "t.parquet").to_polars(), table.to_polars())
    (tmp_path / "bad.parquet").write_text("id\n")
    with pytest.raises(MeasurementError, match=r"bad\.parquet: cannot be read as Parquet"):
        read_measurements(tmp_path / "bad.parquet")


def test_unused_columns_are_not_written(tmp_path: Path) -> None:
    bare = Measurement(id="b", nodes=1, ranks_per_node=2, mode="alltoall", op="alltoall", duration=1e-3)
    write_measurements(tmp_path / "t.csv", [bare])
    assert (tmp_path / "t.csv").read_text() == "id,nodes,ranks_per_node,mode,op,time_us\nb,1,2,alltoall,alltoall,1000\n"


def test_duplicate_ids_are_refused_when_reading_and_writing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(MeasurementError, match=r't\.csv: id = "a" occurs 2 times'):
        write_measurements(path, [FULL, FULL])
    path.write_text("id,nodes,ranks_per_node,mode,op,time_us\na,1,2,m,o,1\na,1,2,m,o,2\n")
    with pytest.raises(MeasurementError, match=r't\.csv:3: id = "a" is also that of line 2'):
        read_measurements(path)


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [("repeats", "0", "integer >= 1"), ("layer", "-1", "integer >= 0"), ("time_p10_us", "0", "must be > 0"),
     ("hidden", "7.5", "integer"), ("tokens_per_rank", "nan", "number >= 0")],
)  # fmt: skip
def test_cells_out_of_range_name_line_and_column(tmp_path: Path, column: str, cell: str, rule: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"id,nodes,ranks_per_node,mode,op,time_us,{column}\na,1,2,m,o,1,{cell}\n")
    with pytest.raises(MeasurementError, match=rf"t\.csv:2: {column} = .*{rule}"):
        read_measurements(path)


def test_a_topology_beside_the_table_comes_before_a_shipped_name(tmp_path: Path) -> None:
    row = replace(FULL, topology="8x-h100", folder=tmp_path)
    assert row.topology_name == "8x-h100"
    (tmp_path / "8x-h100").write_text("kind: star\n")
    assert row.topology_name == str(tmp_path / "8x-h100")


def test_time_follows_from_bus_bandwidth() -> None:
    # busbw = size / time * (R - 1) / R: 8 MB over 8 ranks at 7 GB/s takes 1 ms
    row = Measurement(
        id="a", nodes=1, ranks_per_node=8, mode="alltoall", op="alltoall", size=8e6, bandwidth=7e9, bandwidth_kind="busbw"
    )
    assert measured_time(row) == pytest.approx(1e-3)
    assert measured_time(replace(row, bandwidth_kind="logical_inter")) is None


def test_values_come_in_the_unit_of_their_column() -> None:
    assert value_of(FULL, "intra_GBps") == 450
    assert value_of(FULL, "nic_Gbps") == 400
    assert value_of(FULL, "library") == "nccl"
    assert value_of(FULL, "bandwidth_GBps") is None


def test_a_table_is_a_sequence_a_frame_and_a_summary(tmp_path: Path) -> None:
    rows = [replace(FULL, id=name, duration=duration) for name, duration in (("a", 1e-3), ("b", None))]
    write_measurements(tmp_path / "t.csv", rows)
    table = read_measurements(str(tmp_path / "t.csv"))
    assert [row.id for row in table] == ["a", "b"]
    assert table.data_hash == data_hash(tmp_path / "t.csv")
    frame = table.to_polars()
    assert frame["time_us"].to_list() == [pytest.approx(1000.0), None]
    assert frame["nic_Gbps"].to_list() == [400.0, 400.0]
    assert frame["library"].to_list() == ["nccl", "nccl"]
    assert "bandwidth_GBps" not in frame.columns
    # two rows of one mode, operation and system, one of them timed
    assert repr(table).splitlines()[-1].split() == ["ep_normal", "dispatch", "box", "2", "1"]
    assert list(table.with_rows(table[1:])) == [table[1]]
