from __future__ import annotations

import subprocess
import sys

import pytest
from lab_topologies import needs_root, small

from smoes_sim.lab import Lab, namespaces, plan_lab
from smoes_sim.lab.launch import exit_code, run_everywhere


@pytest.fixture
def lab():
    with Lab.up(plan_lab(small("star"))) as lab:
        yield lab


@needs_root
def test_all_ranks_run_and_their_success_is_success(lab, tmp_path):
    assert run_everywhere(lab, ["sh", "-c", f"touch {tmp_path}/$RANK"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


@needs_root
@pytest.mark.parametrize(("end", "code"), [("exit 5", 5), ("kill -9 $$", 137)])
def test_the_first_that_fails_ends_the_others_and_its_code_is_passed_on(lab, end, code):
    assert run_everywhere(lab, ["sh", "-c", f"[ $RANK = 2 ] && {end}; sleep 600"]) == code
    assert namespaces.processes_in(lab.namespaces) == []


@needs_root
def test_ranks_reach_each_other_by_address(lab):
    text = (
        "import os, socket\n"
        "rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "place = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])\n"
        "if rank == 0:\n"
        "    server = socket.create_server(place)\n"
        "    ends = [server.accept()[1][0] for _ in range(size - 1)]\n"
        "    assert sorted(ends) == [f'10.77.0.{other + 1}' for other in range(1, size)], ends\n"
        "else:\n"
        "    while True:\n"
        "        try:\n"
        "            socket.create_connection(place)\n"
        "        except ConnectionRefusedError:\n"
        "            continue\n"
        "        break\n"
    )
    assert run_everywhere(lab, [sys.executable, "-c", text]) == 0


def test_codes_read_as_a_shell_says_them():
    ended = subprocess.run(["sh", "-c", "kill -15 $$"], check=False)
    assert [exit_code(code) for code in (0, 3, ended.returncode)] == [0, 3, 143]
