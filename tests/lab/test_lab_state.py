"""Files in the state folder are trusted only if no user except root can have written them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys

import pytest
from lab_topologies import TEXTS, needs_root, small

from smoes_sim.cli import main
from smoes_sim.errors import LabError
from smoes_sim.lab import Lab, find_lab, namespaces, plan_lab, standing_labs, state, sweep

pytestmark = needs_root
_NOBODY = 65534
NAME = f"state-{os.getpid()}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A state folder of the test's own, not made yet; labs of others, which it does not know, are out of sight."""
    every = namespaces.existing
    monkeypatch.setattr(state, "STATE", tmp_path / "labs")
    monkeypatch.setattr(namespaces, "existing", lambda: [name for name in every() if f"-{NAME}-" in name])
    return tmp_path / "labs"


def document(lab, **changed):
    """What a lab of one rank, built by this process, writes; with some of it changed."""
    pid, start = os.getpid(), namespaces.start_of(os.getpid())
    namespace = f"smoes-sim-{pid}-{start}-{lab}-r0"
    rank = {"rank": 0, "node": 0, "local_rank": 0, "namespace": namespace, "address": "10.77.0.1", "interface": "w0"}
    fields = {"name": lab, "ranks": [rank | {"bandwidth": 1e6}], "namespaces": [namespace], "scale": 1.0, "seed": 0}
    return fields | {"left_out": [], "pid": pid, "start": start, "kept": True} | changed


def plant(folder, entry, content, *, owner=0):
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / entry).mkdir()
    file = folder / entry / "lab.json"
    file.write_text(json.dumps(content))
    for path in (file, folder / entry):
        os.chown(path, owner, owner)


def test_the_folder_is_made_for_root_alone(folder):
    before = os.umask(0)
    try:
        assert sweep().labs == ()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_lab_writes_what_is_read_again(folder):
    plant(folder, "mine", document("mine"))
    (lab,) = standing_labs()
    assert json.loads(json.dumps(dataclasses.asdict(lab))) == document("mine")


@pytest.mark.parametrize(
    ("owner", "mode", "message"),
    [
        (
            _NOBODY,
            0o755,
            r"labs: belongs to user 65534 with mode 0755: files of labs are trusted only in a directory of root",
        ),
        (0, 0o777, r"labs: belongs to user 0 with mode 0777: .* with mode 0700\. Look at who made it, then remove it\."),
        (0, 0o720, r"labs: belongs to user 0 with mode 0720: "),
    ],
)
def test_a_folder_that_others_could_write_is_refused_and_left_alone(folder, capsys, owner, mode, message):
    plant(folder, "x", document("x"), owner=owner)
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    for call in (standing_labs, sweep, lambda: find_lab("x"), lambda: Lab.up(plan_lab(small("star")))):
        with pytest.raises(LabError, match=message):
            call()
    assert main(["lab", "down", "--all"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (folder / "x" / "lab.json").exists()


def test_a_folder_that_others_can_only_read_is_closed(folder):
    folder.mkdir(mode=0o755)
    assert standing_labs() == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_symbolic_link_in_place_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LabError, match=r"labs: is not a directory\. Look at what it is and who made it, then remove it\.$"):
        sweep()
    assert folder.is_symlink()


def test_a_user_other_than_root_is_told_so(monkeypatch, folder):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"^labs belong to root, this is user 1000\. Run it with sudo\.$"):
        standing_labs()
    assert not folder.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../victim"},
        {"name": "other"},
        {"namespaces": ["../../proc/1/ns/net"]},
        {"namespaces": ["smoes-sim-1-2-mine-r0"]},
        {"namespaces": []},
        {"pid": 1},
        {"start": "1"},
        {"ranks": [document("mine")["ranks"][0] | {"interface": "w0; reboot"}]},
        {"ranks": [document("mine")["ranks"][0] | {"namespace": "mine"}]},
        {"ranks": [document("mine")["ranks"][0] | {"rank": 1}]},
        {"kept": "yes"},
    ],
    ids=lambda changed: next(iter(changed)),  # values hold ids of this process
)
def test_a_file_that_no_lab_writes_is_no_lab_and_names_nothing_to_delete(folder, tmp_path, changed):
    victim = tmp_path / "victim"
    victim.mkdir()
    plant(folder, "mine", document("mine", **changed))
    assert standing_labs() == []
    with pytest.raises(LabError, match=r'no lab "mine" is up'):
        find_lab("mine")
    assert sweep().labs == ("mine",)  # cleared as any half-made lab is
    assert victim.exists()
    assert not (folder / "mine").exists()


def test_entries_of_other_users_and_symbolic_links_are_neither_read_nor_removed(folder, tmp_path):
    plant(folder, "theirs", document("theirs"), owner=_NOBODY)
    (tmp_path / "target").mkdir()
    (folder / "link").symlink_to(tmp_path / "target")
    (folder / "-rf").mkdir()
    assert standing_labs() == []
    assert sweep().labs == ()
    assert sorted(os.listdir(folder)) == ["-rf", "link", "theirs"]
    with pytest.raises(LabError, match=r'a lab "link" is up already'):
        Lab.up(plan_lab(small("star")), name="link")


def test_a_file_of_another_user_or_behind_a_link_is_not_read(folder, tmp_path):
    plant(folder, "mine", document("mine"))
    file = folder / "mine" / "lab.json"
    os.chown(file, _NOBODY, _NOBODY)
    assert state.read("mine", "lab.json") is None
    os.chown(file, 0, 0)
    file.rename(tmp_path / "lab.json")
    file.symlink_to(tmp_path / "lab.json")
    assert state.read("mine", "lab.json") is None


def test_nothing_is_removed_through_a_name_that_leads_outside(folder, tmp_path):
    (tmp_path / "victim").mkdir()
    folder.mkdir(mode=0o700)
    for name in ("../victim", "..", ".", "", "a/b", "a" * 65, "x\n", "\x00"):
        with pytest.raises(LabError, match="cannot be the name of a lab"):
            state.remove(name)
    assert (tmp_path / "victim").exists()


def test_names_of_labs_are_made_from_any_text():
    assert [state.name_from(text) for text in ("../../etc", "a;$(reboot)", "", "é", "x" * 99)] == [
        "etc", "a-reboot", "lab", "lab", "x" * 64,
    ]  # fmt: skip


def test_processes_are_looked_for_only_in_namespaces_of_labs(monkeypatch, tmp_path):
    with pytest.raises(LabError, match=r'^"\.\./\.\./proc/1/ns/net" is no namespace of a lab'):
        namespaces.delete(["../../proc/1/ns/net"])
    # a name of ours that leads to the machine's own namespace
    monkeypatch.setattr(namespaces, "_FOLDER", tmp_path)
    (tmp_path / "smoes-sim-1-2-x-r0").symlink_to("/proc/self/ns/net")
    assert namespaces.processes_in(["smoes-sim-1-2-x-r0"]) == []


@pytest.mark.parametrize("left", ["nothing", "empty builder", "dead builder"])
def test_a_half_made_lab_is_cleared_by_the_next_start_or_lab_down(folder, capfd, left):
    def half_made():
        (folder / NAME).mkdir(parents=True)
        folder.chmod(0o700)
        if left != "nothing":
            (folder / NAME / "builder").write_text("" if left == "empty builder" else f"{os.getpid()} 1")

    half_made()
    with Lab.up(plan_lab(small("star")), name=NAME) as lab:
        assert lab.name == NAME
    half_made()
    assert main(["lab", "down", NAME]) == 0
    assert "cleared what dead processes left: 1 labs, 0 namespaces" in capfd.readouterr().err
    half_made()
    assert main(["lab", "down"]) == 0
    assert os.listdir(folder) == []


def test_a_lab_that_a_living_process_builds_is_left_alone(folder):
    with state.locked():
        assert state.claim("soon")
    assert sweep().labs == ()
    assert standing_labs() == []
    assert (folder / "soon" / "builder").exists()


def test_a_builder_killed_anywhere_leaves_a_name_that_can_be_used_again(folder, tmp_path):
    """The first kill comes between making the directory of the lab and saying who builds it."""
    text = (
        "import os, sys; from pathlib import Path; from smoes_sim.lab import Lab, namespaces, plan_lab, state\n"
        "from smoes_sim.topology import find_topology\n"
        "state.STATE, namespaces.existing = Path(sys.argv[1]), list\n"
        "write, number = Path.write_text, iter(range(99))\n"
        "def write_or_die(path, *words, **more):\n"
        "    if next(number) == int(sys.argv[3]): os.kill(os.getpid(), 9)\n"
        "    return write(path, *words, **more)\n"
        "Path.write_text = write_or_die\n"
        "Lab.up(plan_lab(find_topology(sys.argv[2])), name=sys.argv[4], kept=True)\n"
    )
    (tmp_path / "star.yaml").write_text(TEXTS["star"])
    for number in (0, 3):  # the builder's name; a setting of the first namespace
        argv = [sys.executable, "-c", text, str(folder), str(tmp_path / "star.yaml"), str(number), NAME]
        assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
        assert (folder / NAME).exists()
        with Lab.up(plan_lab(small("star")), name=NAME) as lab:
            assert lab.name == NAME
    assert os.listdir(folder) == []
