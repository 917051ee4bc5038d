from __future__ import annotations

from pathlib import Path

import pytest
from failing_ranks import STEPS_BEFORE
from started import run_script

from smoes_sim.distributed.group import place_in
from smoes_sim.distributed.journal import Journal, read_journals
from smoes_sim.errors import ConfigError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def fail(how: str, rank: int, folder: Path, *, num_ranks: int = 2, timeout: float = 60.0, grace: float = 10.0) -> list[int]:
    return run_script("failing_ranks.py", num_ranks, how, str(rank), str(folder), str(timeout), grace=grace)


def steps(folder: Path) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in read_journals(folder):
        found.setdefault(row["rank"], []).append(row["step"])
    return found


def test_a_rank_that_dies_is_named_and_ends_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the time-out is a minute and is not what ends them
    assert fail("dies", 2, tmp_path, num_ranks=3) == [1, 1, -9]
    lines = capsys.readouterr().err.splitlines()
    assert "smoes-sim: rank 2 was ended by SIGKILL" in lines
    assert (
        sum(line.startswith("smoes-sim: rank 2 died or hangs: no answer within 3 s. Noticed by rank ") for line in lines)
        == 1
    )
    assert len(lines) == 2
    assert steps(tmp_path) == {rank: list(range(STEPS_BEFORE)) for rank in range(3)}


def test_when_rank_0_dies_the_others_end_without_the_rendezvous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("dies", 0, tmp_path) == [-9, 1]
    assert "rank 0 was ended by SIGKILL" in capsys.readouterr().err


def test_a_rank_that_hangs_ends_the_others_by_the_timeout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("hangs", 1, tmp_path, timeout=4, grace=0.5) == [1, -9]
    assert "rank 1 died or hangs: no answer within 3 s." in capsys.readouterr().err


def test_a_rank_that_is_busy_elsewhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("stays away", 1, tmp_path, timeout=4) == [1, 1]
    error = capsys.readouterr().err
    assert f"step {STEPS_BEFORE}: did not end within 4 s; rank 1 is still at: between exchanges" in error


def test_bad_input_on_one_rank_is_printed_once_and_ends_all_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail("raises", 1, tmp_path) == [2, 2]
    assert capsys.readouterr().err == "smoes-sim: rows.yaml:3:1: no such thing. Write another.\n"


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (0, "rank 0 did not join within 2 s: nothing listens at"),
        (1, "rank 1 did not join within 2 s: 1 of 2 ranks joined at"),
    ],
)
def test_a_rank_that_never_joins_is_named(
    absent: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("not at all", "9", str(tmp_path), "60", "2")
    codes = run_script("failing_ranks.py", 2, *arguments, absent=absent, grace=0.1)
    assert codes[1 - absent] == 1
    ours = [line for line in capsys.readouterr().err.splitlines() if "was ended by" not in line]
    assert len(ours) == 1
    assert ours[0].startswith(f"smoes-sim: {words}")


def test_the_environment_of_torchrun_is_read() -> None:
    place = place_in(TORCHRUN | {"GROUP_RANK": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert (place.rank, place.num_ranks, place.local_rank, place.address, place.port) == (3, 4, 1, "10.0.0.1", 29500)
    assert place.node.endswith("/1")
    assert not place.hosts_store
    assert place_in(TORCHRUN | {"RANK": "0"}).hosts_store
    assert not place_in(TORCHRUN | {"RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}).hosts_store


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": ""}, "environment: RANK is not set. Start the ranks with torchrun or with --ranks N."),
        ({"WORLD_SIZE": "four"}, 'environment: WORLD_SIZE = "four" is not a whole number >= 0.'),
        ({"RANK": "4"}, "environment: RANK = 4 is not below WORLD_SIZE = 4."),
        ({"MASTER_ADDR": ""}, "environment: MASTER_ADDR is not set."),
    ],
)
def test_a_broken_environment_is_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        place_in(TORCHRUN | change)
    assert words in str(refused.value)


def test_a_journal_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    with Journal(tmp_path, 0) as journal:
        journal.write({"step": 0})
        journal.write({"step": 1})
        with (tmp_path / "rank-0000.jsonl").open("ab") as file:
            file.write(b'{"step": 2, "ti')
        assert [row["step"] for row in read_journals(tmp_path)] == [0, 1]
    (tmp_path / "rank-0001.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"rank-0001.jsonl:2: is not JSON"):
        read_journals(tmp_path)
    with pytest.raises(ConfigError, match="holds no rank-"):
        read_journals(tmp_path / "elsewhere")
