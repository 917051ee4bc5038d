from pathlib import Path

import pytest

from smoes_sim.errors import CalibrationError, ConfigError
from smoes_sim.libraries.families import prepare_cases
from smoes_sim.libraries.leave_out import fit_scaled
from smoes_sim.libraries.published import (
    PUBLISHED,
    LibraryCalibration,
    RowPrediction,
    by_pool,
    fit_libraries,
    load_libraries,
    predict_row,
    save_libraries,
)
from smoes_sim.libraries.system import Skip
from smoes_sim.measurements import data_hash, read_measurements, write_measurements
from smoes_sim.validation.published import SPLITS, published_errors
from tests.libraries.rows import row


def predict(calibration: LibraryCalibration, **columns: object) -> RowPrediction:
    found = predict_row(row(**columns), calibration)
    assert isinstance(found, RowPrediction), found
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three systems of the published table, few rows each."""
    path = tmp_path_factory.mktemp("table") / "small.csv"
    chosen = ("8x NVIDIA A100-SXM4-80GB", "8x B200 HGX (Vultr POC)", "8x NVIDIA H100 80GB HBM3")
    rows = [row for row in read_measurements(PUBLISHED) if row.system in chosen]
    write_measurements(path, rows[::4])
    return path


def test_the_shipped_constants_belong_to_the_shipped_table() -> None:
    assert load_libraries().data_hash == data_hash(PUBLISHED)


def test_the_shipped_constants_are_reproduced() -> None:
    """Of the pool that is fitted within a second; ``smoes-sim calibrate published`` makes all of them."""
    again = fit_scaled(by_pool(prepare_cases(read_measurements(PUBLISHED)).cases)["rdma"])
    shipped = load_libraries().fitted("rdma")
    assert list(again.deviations) == list(shipped.deviations)
    assert list(again.deviations.values()) == pytest.approx(list(shipped.deviations.values()), abs=1e-3)
    assert again.scale_unseen == pytest.approx(shipped.scale_unseen, rel=1e-3)


def test_a_fit_gives_the_same_bytes_twice(small: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        save_libraries(fit_libraries([small], command="test"), tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    read = load_libraries(tmp_path / "a.json")
    assert read == fit_libraries([small], command="test")


def test_an_edited_file_is_read_again_in_the_same_process(tmp_path: Path) -> None:
    path, shipped = tmp_path / "c.json", load_libraries()
    for version in ("1", "2"):
        save_libraries(shipped.model_copy(update={"version": version}), path)
        assert load_libraries(path).version == version


def test_a_renamed_system_is_predicted_with_a_wider_interval() -> None:
    shipped = load_libraries()
    seen = predict(shipped, system="8x NVIDIA H100 80GB HBM3")
    renamed = predict(shipped, system="8x Stranger")
    assert renamed.seconds == pytest.approx(seen.seconds, rel=0.2)
    assert renamed.high / renamed.low > seen.high / seen.low
    assert seen.doubt == ""
    assert renamed.doubt == "system never fitted"


def test_unfitted_classes_and_software_are_named_and_have_wider_intervals() -> None:
    shipped = load_libraries()
    renamed = predict(shipped, system="8x Stranger")
    unknown = predict(shipped, system="8x Stranger", intra_link="a new bus", library="a new library")
    assert unknown.doubt.startswith("other never fitted")
    assert unknown.high / unknown.low > renamed.high / renamed.low


def test_the_two_sites_of_one_hardware_differ_less_than_the_interval() -> None:
    # A100 80 GB, NCCL 2.27.3, 512 MiB a rank: 2313.8 us; the same size on the 40 GB boxes of a cloud: 2236.6 us
    found = predict(load_libraries(), system="8x A100", intra_link="NVLink3", intra_bandwidth=300e9, size=2.0**29)
    assert found.low < 2236.6e-6 < found.high
    assert found.low < 2313.8e-6 < found.high


def test_a_mode_without_a_model_is_skipped() -> None:
    assert isinstance(predict_row(row(mode="gather"), load_libraries()), Skip)


def test_every_split_counts_every_row(small: Path) -> None:
    found = published_errors(read_measurements(small))
    assert set(found.splits) == set(SPLITS)
    counted = {name: sum(errors.n for errors in split.systems.values()) for name, split in found.splits.items()}
    num_rows = len(read_measurements(small))
    assert counted == {"system": num_rows, "hardware": num_rows, "size": num_rows, "nodes": 0, "in-sample": num_rows}
    assert found.families["nccl_alltoall, >= 1 MiB"].median_ape < 0.5
    errors = {name: found.splits[name].families["nccl_alltoall, >= 16 MiB, one node"] for name in ("system", "in-sample")}
    assert errors["system"].median_ape > errors["in-sample"].median_ape
    assert found.to_dict()["splits"]["system"]["families"] == found.to_dict()["families"]
    assert max(map(len, repr(found).splitlines())) <= 100


def test_a_table_without_a_known_library_cannot_be_fitted(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_measurements(path, [row(mode="gather")])
    with pytest.raises(CalibrationError, match="no row has a known library model and a time"):
        fit_libraries([path], command="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bad\.json:1:2: is not JSON"),
        ("{}", r"bad\.json: pools: Field required\. Make the file with `calibrate published`"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_libraries(path)
