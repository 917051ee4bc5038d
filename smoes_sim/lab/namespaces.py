"""Network namespaces of this box: enter, list, sweep, delete. All of ours bear one prefix; nothing else is touched."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from smoes_sim.errors import LabError

MARK = "smoes-sim"
"""Every namespace is called ``smoes-sim-PID-START-LAB-PLACE``: process and start time (clock ticks) of its creator."""
_NAMES = re.compile(rf"{MARK}-(?P<pid>\d+)-(?P<start>\d+)-(?P<lab>.+)-[rs]\d+")
_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
PATIENCE = 1.0
"""Seconds that a process inside has between being asked to end and being killed."""
T = TypeVar("T")


def require_root() -> None:
    """See that a lab can be built here.

    Raises:
        LabError: If not, with the reason.
    """
    reason = why_not()
    if reason is not None:
        raise LabError(reason)


def why_not() -> str | None:
    """Why no lab can be built here, in one line, or ``None`` if it can."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"a lab needs {' and '.join(missing)}, which this machine lacks. Install iproute2."
    if os.geteuid() != 0:
        return f"a lab needs root (network namespaces), this is user {os.geteuid()}. Run it with sudo."
    return None


def prefix_of(lab: str) -> str:
    """Start of the names of a lab's namespaces that this process makes."""
    return f"{MARK}-{os.getpid()}-{started(os.getpid())}-{lab}-"


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; ``None`` if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether the very process still runs; a later one with the same id does not count."""
    return started(pid) == start


def batch(tool: str, text: str, *, namespace: str | None = None) -> None:
    """Let ``ip`` or ``tc`` do a list of commands, inside a namespace or in none.

    Raises:
        LabError: With the first complaint.
    """
    where = [] if namespace is None else ["-n", namespace]
    done = subprocess.run([tool, *where, "-batch", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LabError(f"{tool} refused to build the lab ({said}). Does this kernel have veth, htb and cls_u32?")


def run_inside(namespace: str, function: Callable[[], T]) -> T:
    """The result of a function called by a thread that is inside a namespace; sockets it opens stay there."""
    found: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            _enter(namespace)
            found.append(function())
        except BaseException as error:  # handed on to the caller
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _enter(namespace: str) -> None:
    handle = os.open(_FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), namespace)
    finally:
        os.close(handle)


def apply_settings(namespace: str, settings: dict[str, str]) -> None:
    """Write kernel settings, files below ``/proc/sys``, of a namespace.

    Raises:
        LabError: If the kernel does not know one.
    """

    def write() -> None:
        for name, value in settings.items():
            try:
                Path("/proc/sys", name).write_text(value, encoding="ascii")
            except OSError as error:
                if name.startswith("net/ipv6/") and not Path("/proc/sys/net/ipv6").exists():
                    continue  # there is nothing to turn off
                raise LabError(f"/proc/sys/{name} = {value}: {error.strerror}. A lab needs this kernel setting.") from None

    run_inside(namespace, write)


def can_delay() -> bool:
    """Whether this kernel can delay packets (netem), tried in a namespace of its own."""
    name = f"{prefix_of('trial')}r0"
    batch("ip", f"netns add {name}\n")
    try:
        delay = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(delay, capture_output=True, check=False).returncode == 0
    finally:
        delete([name])


def existing() -> list[str]:
    """Names of all namespaces that labs have made."""
    if not _FOLDER.is_dir():
        return []
    return sorted(name for name in os.listdir(_FOLDER) if _NAMES.fullmatch(name))


def owner_of(namespace: str) -> tuple[int, int, str]:
    """Creator (process, start) and lab of a namespace of ours."""
    match = _NAMES.fullmatch(namespace)
    assert match is not None
    return int(match["pid"]), int(match["start"]), match["lab"]


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """Ids of the processes inside some namespaces."""
    inodes = set()
    for name in namespaces:
        try:
            inodes.add(os.stat(_FOLDER / name).st_ino)
        except OSError:
            continue
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                found.append(int(entry))
        except OSError:
            continue
    return found


def delete(namespaces: Iterable[str]) -> None:
    """End the processes inside and delete the namespaces; those that are gone already are no fault."""
    names = list(namespaces)
    end_processes(names)
    for name in names:
        if (_FOLDER / name).exists():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def end_processes(namespaces: Sequence[str]) -> None:
    """Ask the processes inside to end, and kill those that still run after :data:`PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    _send(processes_in(namespaces), signal.SIGTERM)
    while (left := processes_in(namespaces)) and time.monotonic() < deadline:
        time.sleep(0.02)
    while left:
        _send(left, signal.SIGKILL)
        time.sleep(0.02)
        left = processes_in(namespaces)


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        if pid != os.getpid():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
