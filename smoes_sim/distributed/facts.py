"""Versions, processors and network interface of a measurement, read from the system."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

import orjson
import torch

from smoes_sim.distributed.group import RankGroup
from smoes_sim.distributed.hosts import LAB_VARIABLE, RankFacts, SystemFacts
from smoes_sim.version import __version__

_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_TCP = Path("/proc/sys/net/ipv4")
_PAYLOAD = 0.83
"""Share of a send buffer that is payload, the rest is the kernel's bookkeeping: sends of 312,500 and 267,856 B at 12.5 MB/s
returned after 16.4 and 12.7 ms, when 107.5 and 109.1 KB of 128 KiB had not left (frames of 9,000 B)."""
_SETTINGS = ("tcp_congestion_control", "tcp_rmem", "tcp_wmem", "tcp_slow_start_after_idle")


def fixed_send_buffer(backend: str) -> float | None:
    """Payload that the kernel buffers of a message, bytes; None with NCCL or where the kernel varies the buffer.

    Example:
        ``tcp_wmem`` of ``4096 131072 131072`` (a lab): 0.83 * 131072 = 108,790 B.
    """
    sizes = (_setting("tcp_wmem") or "").split()
    if backend != "gloo" or len(sizes) != 3 or sizes[1] != sizes[2]:
        return None
    return round(_PAYLOAD * int(sizes[2]))


def rank_facts(group: RankGroup) -> RankFacts:
    """Host, processor or GPU, interface and TCP settings of the own rank."""
    interface = _interface(group)
    return RankFacts(
        rank=group.place.rank,
        host=socket.gethostname(),
        device=device_name(group),
        cpus=os.cpu_count(),
        interface=interface,
        mtu=None if interface is None else _mtu(interface),
        **{name: _setting(name) for name in _SETTINGS},
    )


def system_facts(group: RankGroup) -> SystemFacts:
    """Versions and backend, which are the same for every rank."""
    return SystemFacts(
        smoes_sim=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        kernel=platform.release(),
        backend=group.backend,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if group.backend == "nccl" else None,
        ranks=group.place.num_ranks,
        nodes=len(set(group.node_of_rank)),
        timeout_s=group.timeout,
        send_buffer_bytes=fixed_send_buffer(group.backend),
        lab=os.environ.get(LAB_VARIABLE),
    )


def all_rank_facts(group: RankGroup) -> tuple[RankFacts, ...]:
    """The facts of every rank, in order, known to all ranks."""
    texts = group.meet("exchange facts about the ranks", orjson.dumps(rank_facts(group)).decode())
    return tuple(RankFacts(**orjson.loads(text)) for text in texts)


def library_name(group: RankGroup) -> str:
    """Name and version of the communication library, for the measurements table."""
    name = "gloo"
    if group.backend == "nccl":
        name = f"{'RCCL' if torch.version.hip else 'NCCL'} {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return f"{name}, torch {torch.__version__}"


def device_name(group: RankGroup) -> str:
    """Name of the GPU, or of the processor as in ``/proc/cpuinfo``."""
    if group.backend == "nccl":
        return str(torch.cuda.get_device_name(group.device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _interface(group: RankGroup) -> str | None:
    """The interface set for the backend, or else the one that leads to the rendezvous."""
    named = os.environ.get("NCCL_SOCKET_IFNAME" if group.backend == "nccl" else "GLOO_SOCKET_IFNAME")
    if named:
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((group.place.address, group.place.port))  # sends nothing
            own = probe.getsockname()[0]
        except OSError:
            return None
        return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), None)


def _address(probe: socket.socket, interface: str) -> str | None:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])


def _mtu(interface: str) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFMTU, struct.pack("16si", interface.encode(), 0))
        except OSError:
            return None
    return int(struct.unpack("16si", answer)[1])


def _setting(name: str) -> str | None:
    try:
        return " ".join((_TCP / name).read_text(encoding="ascii").split())
    except OSError:
        return None
