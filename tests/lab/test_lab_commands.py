from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from lab_topologies import TEXTS, needs_root

from smoes_sim.cli import main
from smoes_sim.lab import find_lab, namespaces, standing_labs

NAME = f"cli-{os.getpid()}"


@pytest.fixture
def star(tmp_path):
    path = tmp_path / f"{NAME}.yaml"
    path.write_text(TEXTS["star"])
    return str(path)


@pytest.fixture
def standing(star, capfd):
    assert main(["lab", "up", star, "--name", NAME, "--no-check", "--json"]) == 0
    yield json.loads(capfd.readouterr().out)
    for lab in standing_labs():
        if lab.name == NAME:
            lab.down()


@needs_root
def test_up_prints_where_every_rank_lives(standing):
    assert (standing["name"], standing["scale"], standing["left_out"], standing["check"]) == (NAME, 1.0, [], None)
    assert [(rank["rank"], rank["address"], rank["bandwidth"]) for rank in standing["ranks"]] == [
        (rank, f"10.77.0.{rank + 1}", 12.5e6) for rank in range(4)
    ]
    assert os.path.exists(standing["topology_file"])


@needs_root
def test_exec_runs_as_a_rank_and_passes_its_exit_code_on(standing, capfd):
    assert main(["lab", "exec", NAME, "3", "--", "sh", "-c", "echo rank $RANK; exit 4"]) == 4
    assert capfd.readouterr().out == "rank 3\n"
    assert main(["lab", "exec", NAME, "4", "--", "true"]) == 2
    assert "has ranks 0 to 3" in capfd.readouterr().err


@needs_root
def test_down_takes_down_what_it_is_told_to(standing, capfd, monkeypatch):
    mine = find_lab(NAME)
    monkeypatch.setattr("smoes_sim.lab.standing_labs", lambda: [mine, mine])
    assert main(["lab", "down"]) == 2
    assert f"lab down needs a name, or --all. Up: {NAME}, {NAME}." in capfd.readouterr().err
    monkeypatch.setattr("smoes_sim.lab.standing_labs", lambda: [mine])
    assert main(["lab", "down"]) == 0
    assert namespaces.processes_in(mine.namespaces) == []
    assert not set(mine.namespaces) & set(namespaces.existing())
    assert main(["lab", "down", NAME]) == 2
    assert f'no lab "{NAME}" is up' in capfd.readouterr().err


@needs_root
def test_run_passes_on_the_code_of_the_rank_that_fails_and_leaves_nothing(star, capfd):
    before = namespaces.existing()
    command = ["sh", "-c", "echo $RANK; [ $RANK = 1 ] && exit 9; sleep 600"]
    assert main(["lab", "run", star, "--no-check", "--", *command]) == 9
    assert "1" in capfd.readouterr().out.split()
    assert [name for name in namespaces.existing() if f"-{NAME}-" in name and name not in before] == []


@needs_root
def test_a_lab_that_fails_its_check_is_not_left_up(star, capfd, monkeypatch):
    monkeypatch.setattr("smoes_sim.lab.check.TOLERANCE", -1.0)
    monkeypatch.setattr("smoes_sim.lab.check._PERIODS", 1)
    monkeypatch.setattr("smoes_sim.lab.check._SHORTEST", 0.1)
    assert main(["lab", "up", star, "--name", NAME]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert "4 flows over every link at once" in said.err
    assert NAME not in [lab.name for lab in standing_labs()]


@needs_root
def test_a_launcher_that_is_told_to_end_takes_its_lab_with_it(star):
    text = "import sys; from smoes_sim.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", text, "lab", "run", star, "--no-check", "--", "sh", "-c", "echo up; sleep 600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as launcher:
        assert launcher.stdout.readline() == "up\n"
        left = [name for name in namespaces.existing() if namespaces.owner_of(name)[0] == launcher.pid]
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
    assert len(left) == 5  # four ranks and the switch
    assert not set(left) & set(namespaces.existing())


def test_without_root_every_command_says_so_in_one_line(star, capsys, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool: f"/bin/{tool}")
    for command in (["up", star], ["run", star, "--", "true"], ["down"]):
        assert main(["lab", *command]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "smoes-sim: a lab needs root (network namespaces), this is user 1000. Run it with sudo.\n"


def test_a_topology_that_cannot_be_built_is_refused_before_anything_is(tmp_path, capsys):
    path = tmp_path / "big.yaml"
    path.write_text("kind: star\nranks: 100\nlink: {bandwidth: 1 Gb/s}\n")
    if namespaces.why_not() is not None:
        pytest.skip(str(namespaces.why_not()))
    assert main(["lab", "up", str(path)]) == 2
    assert "big: 100 ranks: a lab on one machine has 2 to 64. Use a part of the topology." in capsys.readouterr().err
