"""Which machines and networks a measurement was made on; the classes of what ``facts`` finds out. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LAB_VARIABLE = "SMOES_SIM_LAB"
"""Environment variable with the name of the lab that a rank runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFacts:
    """The host and interface of one rank; None for what the system does not tell.

    Attributes:
        rank: 0 to R - 1.
        host: Name of the host.
        device: GPU or processor.
        cpus: Number of processors of the host.
        interface: Network interface of the backend.
        mtu: Its largest frame, bytes.
        tcp_congestion_control: Kernel setting, as are the following.
        tcp_rmem: Smallest, default and largest receive buffer, bytes.
        tcp_wmem: Smallest, default and largest send buffer, bytes.
        tcp_slow_start_after_idle: 1 if the congestion window shrinks after a pause.
    """

    rank: int
    host: str
    device: str
    cpus: int | None
    interface: str | None
    mtu: int | None
    tcp_congestion_control: str | None
    tcp_rmem: str | None
    tcp_wmem: str | None
    tcp_slow_start_after_idle: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """Versions and settings that all ranks share.

    Attributes:
        smoes_sim: Version of this package.
        python: Version of Python.
        torch: Version of torch.
        kernel: Version of the kernel.
        backend: ``gloo`` or ``nccl``.
        nccl: Version of NCCL or RCCL; None with gloo.
        ranks: Number of ranks.
        nodes: Number of hosts that the ranks see.
        timeout_s: Seconds for the ranks to come, and for each operation.
        send_buffer_bytes: What the kernel takes of a message before it has left, bytes; None where that varies.
        lab: Name of the lab; None outside of labs.
    """

    smoes_sim: str
    python: str
    torch: str
    kernel: str
    backend: str
    nccl: str | None
    ranks: int
    nodes: int
    timeout_s: float
    send_buffer_bytes: float | None
    lab: str | None


def is_loopback(system: SystemFacts, ranks: Sequence[RankFacts]) -> bool:
    """Whether all bytes stay in the memory of one host: gloo on one machine, outside of labs."""
    return system.backend == "gloo" and system.lab is None and len({rank.host for rank in ranks}) == 1


def network_words(system: SystemFacts, ranks: Sequence[RankFacts]) -> str:
    """What the ranks really ran on.

    Example:
        ``4 ranks on this machine, loopback``; ``4 ranks in lab lab-star-4``; ``16 ranks on 2 hosts, interface ib0``.
    """
    if system.lab is not None:
        return f"{system.ranks} ranks in lab {system.lab}"
    if is_loopback(system, ranks):
        return f"{system.ranks} ranks on this machine, loopback"
    hosts = {rank.host for rank in ranks}
    if len(hosts) == 1:
        return f"{system.ranks} ranks on this machine"
    interfaces = sorted({rank.interface for rank in ranks if rank.interface is not None})
    where = f", interface {', '.join(interfaces)}" if interfaces else ""
    return f"{system.ranks} ranks on {len(hosts)} hosts{where}"
