import json
from pathlib import Path

import pytest

from smoes_sim.cli import main
from smoes_sim.display.tables import as_text
from smoes_sim.libraries.published import PUBLISHED, fit_libraries, save_libraries
from smoes_sim.measurements import read_measurements, write_measurements
from smoes_sim.validation.published import published_errors
from tests.libraries.rows import row


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A box of one's own: measured at three sizes, asked at one."""
    path = tmp_path / "mine.csv"
    times = {2.0**16: 30e-6, 2.0**22: 60e-6, 2.0**28: 2000e-6}
    rows = [row(id=f"mine-{size:.0f}", size=size, duration=time) for size, time in times.items()]
    write_measurements(path, [*rows, row(id="asked", size=2.0**25)])
    return path


def test_own_rows_are_predicted_and_then_fitted(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(mine), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert len(before["rows"]) == 3
    assert [entry["id"] for entry in before["unmeasured"]] == ["asked"]
    assert not before["in_sample"]

    save_libraries(fit_libraries([mine], command="test"), tmp_path / "mine.json")
    assert main(["validate", str(mine), "--calibration", str(tmp_path / "mine.json"), "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["in_sample"]["nccl_alltoall"]["n"] == 3
    assert not after["families"]
    error = {
        name: max(abs(entry["relative_error"]) for entry in found["rows"])
        for name, found in (("before", before), ("after", after))
    }
    assert error["after"] < 0.5 * error["before"]


def test_predictions_without_a_time_are_printed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(mine)]) == 0
    assert "Predictions for rows without a time\nid     family" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "mine.csv", "--add", "more.csv", "-o", "a.json"], "--add adds rows to published"),
        (["calibrate", "published", "--fit", "id=1", "-o", "a.json"], "--fit chooses rows of your own table"),
        (["validate", "--calibration", "a.json"], "calibration needs a table of yours"),
    ],
)
def test_contradictory_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_table_has_every_split_and_system(tmp_path: Path) -> None:
    rows = [entry for entry in read_measurements(PUBLISHED) if entry.mode in {"sendrecv", "alltoall_rdma"}]
    path = tmp_path / "few.csv"
    write_measurements(path, rows)
    text = as_text(published_errors(read_measurements(path)).tables())
    for words in ("systems left out", "sizes left out", "in-sample", "H100 DGX, nccl: sendrecv", "rdma_alltoall"):
        assert words in text
