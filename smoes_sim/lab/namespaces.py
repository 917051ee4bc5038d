"""Network namespaces of this machine: enter, list, delete. All of ours share one prefix; no other is touched."""

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
_NAMES = re.compile(rf"{MARK}-(?P<pid>\d{{1,9}})-(?P<start>\d{{1,18}})-(?P<lab>[A-Za-z0-9_.-]+)-[rs]\d{{1,9}}", re.ASCII)
_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
PATIENCE = 1.0
"""Seconds between SIGTERM and SIGKILL to the processes inside."""
T = TypeVar("T")


def require_root() -> None:
    """Check that a lab can be built here.

    Raises:
        LabError: If it cannot, with the reason.
    """
    reason = why_not()
    if reason is not None:
        raise LabError(reason)


def why_not() -> str | None:
    """The reason why no lab can be built here, one line; None if it can."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"a lab needs {' and '.join(missing)}, which this machine lacks. Install iproute2."
    if os.geteuid() != 0:
        return f"a lab needs root (network namespaces), this is user {os.geteuid()}. Run it with sudo."
    return None


def prefix_of(lab: str, *, pid: int, start: int) -> str:
    """Start of the names of a lab's namespaces that a process (id and start time) makes."""
    return f"{MARK}-{pid}-{start}-{lab}-"


def start_of(pid: int) -> int:
    """Start time of a process that runs, clock ticks since boot.

    Raises:
        LabError: If there is no such process.
    """
    start = started(pid)
    if start is None:
        raise LabError(f"/proc/{pid}/stat cannot be read: a lab needs the start times of processes. Mount /proc.")
    return start


def started(pid: int) -> int | None:
    """Start time of a process, clock ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether the process with this id and start time still runs; a later one with the same id does not count."""
    return started(pid) == start


def batch(tool: str, text: str, *, namespace: str | None = None) -> None:
    """Run a list of ``ip`` or ``tc`` commands, in a namespace or in our own.

    Raises:
        LabError: With the tool's error message.
    """
    where = [] if namespace is None else ["-n", namespace]
    done = subprocess.run([tool, *where, "-batch", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LabError(f"{tool} refused to build the lab ({said}). Does this kernel have veth, htb and cls_u32?")


def run_inside(namespace: str, function: Callable[[], T]) -> T:
    """The result of a function that a thread calls inside a namespace; sockets that it opens stay there."""
    found: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            _enter(namespace)
            found.append(function())
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _enter(namespace: str) -> None:
    handle = os.open(_file(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), namespace)
    finally:
        os.close(handle)


def apply_settings(namespace: str, settings: dict[str, str]) -> None:
    """Write kernel settings (files below ``/proc/sys``) of a namespace.

    Raises:
        LabError: If this kernel has no such setting.
    """

    def write() -> None:
        for name, value in settings.items():
            try:
                Path("/proc/sys", name).write_text(value, encoding="ascii")
            except OSError as error:
                if name.startswith("net/ipv6/") and not Path("/proc/sys/net/ipv6").exists():
                    continue  # no IPv6 to turn off
                raise LabError(f"/proc/sys/{name} = {value}: {error.strerror}. A lab needs this kernel setting.") from None

    run_inside(namespace, write)


def can_delay() -> bool:
    """Whether this kernel can delay packets (netem); tried in a namespace made for it."""
    name = f"{prefix_of('trial', pid=os.getpid(), start=start_of(os.getpid()))}r0"
    batch("ip", f"netns add {name}\n")
    try:
        delay = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(delay, capture_output=True, check=False).returncode == 0
    finally:
        delete([name])


def existing() -> list[str]:
    """Names of all namespaces that labs have made, sorted."""
    if not _FOLDER.is_dir():
        return []
    return sorted(name for name in os.listdir(_FOLDER) if _NAMES.fullmatch(name))


def owner_of(namespace: str) -> tuple[int, int, str]:
    """Creator (process id and start time) and lab of a namespace of ours.

    Raises:
        LabError: If no lab can have made a namespace of this name.
    """
    match = _matched(namespace)
    return int(match["pid"]), int(match["start"]), match["lab"]


def _matched(namespace: str) -> re.Match[str]:
    match = _NAMES.fullmatch(namespace)
    if match is None:
        raise LabError(f'"{namespace}" is no namespace of a lab: those are called {MARK}-PID-START-LAB-PLACE.')
    return match


def _file(namespace: str) -> Path:
    """The file that stands for a namespace of ours; no other name leads to a file."""
    return _FOLDER / _matched(namespace).string


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """Ids of the processes inside some namespaces of ours; never those of the namespace that we are in ourselves."""
    wanted = {found for name in namespaces if (found := _identity(_file(name))) is not None}
    wanted.discard(_identity(Path("/proc/self/ns/net")))
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if _identity(Path(f"/proc/{pid}/ns/net")) in wanted]


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a namespace; None if there is none, or no more."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def delete(namespaces: Iterable[str]) -> None:
    """End the processes inside and delete the namespaces; those that no longer exist are skipped.

    Raises:
        LabError: If a name is not that of a lab's namespace; then nothing has been done.
    """
    names = list(namespaces)
    end_processes(names)
    for name in names:
        if _file(name).exists():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def end_processes(namespaces: Sequence[str]) -> None:
    """Send SIGTERM to the processes inside, and SIGKILL to those that still run after :data:`PATIENCE` seconds."""
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
