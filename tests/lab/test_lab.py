from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from lab_topologies import TEXTS, needs_root, small, spec_of

from smoes_sim.errors import LabError
from smoes_sim.lab import Lab, find_lab, namespaces, plan_lab, standing_labs, sweep
from smoes_sim.lab.iproute import SETTINGS
from smoes_sim.lab.state import STATE
from smoes_sim.topology import find_topology

NAME = f"test-{os.getpid()}"
"""Tests of several processes at once do not meet."""


def text_of(lab, rank, *argv):
    process = lab.popen(rank, argv, stdout=subprocess.PIPE, text=True)
    return process.communicate()[0]


def ours(lab):
    return [name for name in namespaces.existing() if namespaces.owner_of(name)[2] == lab.name]


@pytest.fixture
def lab():
    with Lab.up(plan_lab(small("nic_per_rank")), name=NAME) as lab:
        yield lab


@needs_root
def test_a_lab_is_there_and_then_gone_without_a_trace():
    outside = sorted(os.listdir("/sys/class/net"))
    with Lab.up(plan_lab(small("nic_per_rank")), name=NAME) as lab:
        assert sorted(ours(lab)) == sorted(lab.namespaces)
        assert all(name.startswith(f"smoes-sim-{os.getpid()}-") for name in lab.namespaces)
        assert sorted(os.listdir("/sys/class/net")) == outside
        assert find_lab(NAME) == lab
    assert ours(lab) == []
    assert not lab.folder.exists()
    assert sorted(os.listdir("/sys/class/net")) == outside
    lab.down()  # twice is no fault


@needs_root
def test_its_topology_is_an_ordinary_file(lab):
    topology = find_topology(str(lab.topology_file))
    assert (topology.name, topology.num_ranks, topology.num_nodes) == (NAME, 4, 2)


@needs_root
def test_a_program_lives_in_its_rank_and_knows_which(lab):
    told = dict(line.split("=", 1) for line in text_of(lab, 2, "env").splitlines() if "=" in line)
    place = lab.ranks[2]
    assert told | lab.environment(2) == told
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"], told["MASTER_ADDR"]) == ("2", "0", "4", "10.77.0.1")
    assert f"inet {place.address}/32" in text_of(lab, 2, "ip", "address", "show", told["GLOO_SOCKET_IFNAME"])
    assert text_of(lab, 2, "sh", "-c", "echo $LAST").strip() == ""
    process = lab.popen(2, ["sh", "-c", "echo $LAST"], env={"LAST": "word"}, stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0].strip() == "word"


@needs_root
def test_a_rank_that_is_not_there_is_refused(lab):
    with pytest.raises(LabError, match=r"^rank 4: lab \".*\" has ranks 0 to 3\. Choose one of them\.$"):
        lab.popen(4, ["true"])


@needs_root
def test_all_ranks_map_one_clock(lab):
    text_of(lab, 0, sys.executable, "-c", "import os; open(os.environ['SMOES_SIM_CLOCK'], 'r+b').write(b'7')")
    assert text_of(lab, 3, "sh", "-c", "head -c 1 $SMOES_SIM_CLOCK") == "7"
    assert lab.clock.stat().st_size == 65536


@needs_root
def test_every_namespace_has_the_settings_that_make_tcp_a_fluid(lab):
    read = "; ".join(f"cat /proc/sys/{name}" for name in SETTINGS)
    for name in lab.namespaces:
        done = subprocess.run(["ip", "netns", "exec", name, "sh", "-c", read], capture_output=True, text=True, check=True)
        assert [line.split() for line in done.stdout.splitlines()] == [value.split() for value in SETTINGS.values()]


@needs_root
def test_a_setting_that_the_kernel_lacks_is_named(lab):
    with pytest.raises(LabError, match=r"^/proc/sys/net/ipv4/tcp_magic = 1: No such .* A lab needs this kernel setting\.$"):
        namespaces.apply_settings(lab.namespaces[0], {"net/ipv4/tcp_magic": "1"})


@needs_root
def test_processes_inside_end_with_the_lab():
    with Lab.up(plan_lab(small("star")), name=NAME) as lab:
        stubborn = lab.popen(1, ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 60; done"], stdout=subprocess.PIPE)
        assert stubborn.stdout.readline() == b"up\n"
        assert stubborn.pid in namespaces.processes_in(lab.namespaces)
    assert stubborn.wait() == -signal.SIGKILL
    stubborn.stdout.close()


@needs_root
def test_two_labs_of_one_topology_stand_side_by_side():
    plan = plan_lab(small("star"))
    with Lab.up(plan) as first, Lab.up(plan) as second:
        assert first.name != second.name
        assert set(first.namespaces).isdisjoint(second.namespaces)
        second.down()
        assert sorted(ours(first)) == sorted(first.namespaces)


@needs_root
def test_a_name_that_is_taken_and_one_that_is_not_there_are_refused(lab):
    with pytest.raises(LabError, match=rf'a lab "{NAME}" is up already\. Take it down, or choose another --name\.'):
        Lab.up(plan_lab(small("star")), name=NAME)
    with pytest.raises(LabError, match=rf'no lab "none-{NAME}" is up\. Up: .*{NAME}'):
        find_lab(f"none-{NAME}")


@needs_root
def test_a_lab_that_cannot_be_built_leaves_nothing(monkeypatch):
    monkeypatch.setattr("smoes_sim.lab.lab.queues", lambda plan, vertex: "qdisc add dev nowhere root htb\n")
    with pytest.raises(LabError, match=r"tc refused to build the lab \(.*nowhere.*Does this kernel have"):
        Lab.up(plan_lab(small("star")), name=NAME)
    assert [name for name in namespaces.existing() if f"-{NAME}-" in name] == []
    assert not (STATE / NAME).exists()


BUILDER = """
    import sys, time
    from smoes_sim.lab import Lab, plan_lab
    from smoes_sim.topology import find_topology
    lab = Lab.up(plan_lab(find_topology(sys.argv[1])), name=sys.argv[2], kept=sys.argv[3] == "kept")
    lab.popen(0, ["sleep", "600"])
    print("up", flush=True)
    time.sleep(600)
"""


def killed_builder(tmp_path, label, kept):
    """A lab whose builder was killed -9 while a program ran inside."""
    path = tmp_path / "star.yaml"
    path.write_text(TEXTS["star"])
    argv = [sys.executable, "-c", textwrap.dedent(BUILDER), str(path), label, kept]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout.readline() == "up\n"
        standing = find_lab(label)
        builder.kill()
    return standing


@needs_root
def test_what_a_killed_builder_left_is_swept_and_nothing_else(tmp_path, lab):
    orphan = killed_builder(tmp_path, f"{NAME}-orphan", "held")
    other = f"other-{NAME}"
    subprocess.run(["ip", "netns", "add", other], check=True)
    try:
        assert sorted(ours(orphan)) == sorted(orphan.namespaces)
        inside = namespaces.processes_in(orphan.namespaces)
        assert len(inside) == 1
        sweep()
        assert ours(orphan) == []
        assert not orphan.folder.exists()
        assert namespaces.started(inside[0]) is None
        assert sorted(ours(lab)) == sorted(lab.namespaces)
        assert Path("/run/netns", other).exists()
    finally:
        subprocess.run(["ip", "netns", "delete", other], check=True)


@needs_root
def test_a_kept_lab_outlives_its_builder_until_it_is_taken_down(tmp_path):
    kept = killed_builder(tmp_path, f"{NAME}-kept", "kept")
    try:
        sweep()
        assert sorted(ours(kept)) == sorted(kept.namespaces)
        assert kept in standing_labs()
    finally:
        kept.down()
    assert ours(kept) == []


def test_the_same_process_id_at_another_time_is_not_the_builder():
    start = namespaces.started(os.getpid())
    assert namespaces.is_alive(os.getpid(), start)
    assert not namespaces.is_alive(os.getpid(), start - 1)


def test_names_of_others_are_not_ours(tmp_path, monkeypatch):
    for name in (
        "mine",
        "smoes-sim",
        "smoes-sim-12-r0",
        "smoes-sim-12-34-lab-r0",
        "smoes-sim-12-34-a-b-s7",
        "x-smoes-sim-1-2-l-r0",
    ):
        (tmp_path / name).touch()
    monkeypatch.setattr(namespaces, "_FOLDER", tmp_path)
    assert namespaces.existing() == ["smoes-sim-12-34-a-b-s7", "smoes-sim-12-34-lab-r0"]
    assert namespaces.owner_of("smoes-sim-12-34-a-b-s7") == (12, 34, "a-b")


def test_without_root_or_tools_one_line_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "tc" else f"/bin/{tool}")
    with pytest.raises(LabError, match=r"^a lab needs tc, which this machine lacks\. Install iproute2\.$"):
        Lab.up(plan_lab(small("star")))
    monkeypatch.setattr("shutil.which", lambda tool: f"/bin/{tool}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(
        LabError, match=re.escape("a lab needs root (network namespaces), this is user 1000. Run it with sudo.")
    ):
        Lab.up(plan_lab(spec_of(TEXTS["star"])))
