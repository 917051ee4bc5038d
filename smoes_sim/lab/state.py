"""Where labs keep their files: a directory of root that no other user can enter, read or write.

The files name directories to delete and processes to end, so nothing is trusted that another user could have written: the
folder and every entry must belong to root, the mode of the folder is 0700, no symbolic link is followed, and names are
checked on reading as on writing. One process at a time makes changes, under a lock on the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from smoes_sim.errors import LabError
from smoes_sim.lab import namespaces

STATE = Path("/dev/shm/smoes-sim-labs")
"""In memory: a restart of the machine clears labs and their files together."""
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
"""Names of labs: one component of a path, 1 to 64 characters, neither ``.`` nor ``..``."""
_BUILDER = "builder"
_ROOT, _PRIVATE = 0, 0o700


def name_from(wanted: str) -> str:
    """A valid name of a lab, made from any text.

    Example:
        >>> name_from("../my lab; rm"), name_from("***")
        ('my-lab-rm', 'lab')
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", wanted)[:64].strip("-.") or "lab"


def path_of(name: str) -> Path:
    """The folder of a lab's files.

    Raises:
        LabError: If a lab cannot have this name.
    """
    if not _NAME.fullmatch(name):
        raise LabError(f'"{name}" cannot be the name of a lab: 1 to 64 letters, digits, "_", "." and "-". Choose another.')
    return STATE / name


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Context in which the state folder exists, has been checked, and no other process changes it.

    Raises:
        LabError: If it is not a directory of root with mode 0700, or this process is not root.
    """
    with _opened(make=True) as handle:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def names() -> list[str]:
    """Names of the labs with a directory of root in the state folder, sorted.

    Raises:
        LabError: If the folder cannot be trusted, or this process is not root.
    """
    with _opened() as handle:
        return [] if handle is None else sorted(name for name in os.listdir(handle) if _is_own(name))


@contextlib.contextmanager
def _opened(*, make: bool = False) -> Iterator[int | None]:
    """A handle of the state folder, checked; None where there is no folder and none is to be made."""
    if os.geteuid() != _ROOT:
        raise LabError(f"labs belong to root, this is user {os.geteuid()}. Run it with sudo.")
    try:
        if make:
            _make_folder()
        handle = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError:  # a symbolic link, or no directory
        raise LabError(f"{STATE}: is not a directory. Look at what it is and who made it, then remove it.") from None
    try:
        _check_folder(handle)
        yield handle
    finally:
        os.close(handle)


def _make_folder() -> None:
    with contextlib.suppress(FileExistsError):
        try:
            STATE.mkdir(mode=_PRIVATE)
        except FileNotFoundError:
            raise LabError(f"{STATE.parent}: is missing; files of labs go there. Mount a tmpfs on it.") from None


def _check_folder(handle: int) -> None:
    """Check that root owns the folder and nobody else could write to it; remove read access, which version 0.1 gave.

    Raises:
        LabError: If another user owns the folder or could have written to it.
    """
    found = os.fstat(handle)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == _ROOT and not mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.fchmod(handle, _PRIVATE)
        return
    raise LabError(
        f"{STATE}: belongs to user {found.st_uid} with mode {mode:04o}: files of labs are trusted only in a directory of "
        "root with mode 0700. Look at who made it, then remove it."
    )


def _is_own(name: str) -> bool:
    """Whether an entry of the state folder is a directory of root with a valid name; a symbolic link is not."""
    try:
        found = path_of(name).lstat()
    except (LabError, OSError):
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == _ROOT


def claim(name: str) -> bool:
    """Make the folder of a lab, with who builds it; False if the name is taken. Call it while :func:`locked`."""
    folder = path_of(name)
    try:
        folder.mkdir(mode=_PRIVATE)
    except FileExistsError:
        return False
    pid = os.getpid()
    (folder / _BUILDER).write_text(f"{pid} {namespaces.started(pid)}", encoding="ascii")
    return True


def is_being_built(name: str) -> bool:
    """Whether the process that claimed a name still runs. Call it while :func:`locked`, or a claim may be half made."""
    text = read(name, _BUILDER)
    match = re.fullmatch(rb"(\d+) (\d+)", text or b"")
    return match is not None and namespaces.is_alive(int(match[1]), int(match[2]))


def read(name: str, file: str) -> bytes | None:
    """The bytes of a file of a lab; None if there is no such regular file of root."""
    try:
        handle = os.open(path_of(name) / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        return stream.read() if stat.S_ISREG(found.st_mode) and found.st_uid == _ROOT else None


def remove(name: str) -> None:
    """Delete the folder of a lab, and nothing outside the state folder. Call it while :func:`locked`.

    Raises:
        LabError: If a lab cannot have this name.
    """
    folder = path_of(name)
    if _is_own(name):
        shutil.rmtree(folder, ignore_errors=True)  # follows no symbolic link
