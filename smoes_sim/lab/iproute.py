"""A plan as input of ``ip`` and ``tc`` and as kernel settings: text, so that it can be read and tested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smoes_sim.lab.plan import Channel, LabPlan, Wire, usual_wire

MTU = 9000
HEADERS = 40
"""IP and TCP without timestamps: bytes of an MTU that are not payload."""
ETHERNET = 14
"""Bytes of a frame in addition to the MTU, as queues count them."""
IN_FLIGHT = 128 * 2**10
"""Send buffer of a connection, bytes, and so about its data in flight: above any product of rate and round trip here, and
small enough that a flow that is limited further on soon stops taking more than its share of earlier links."""
_WINDOW = 8 * 2**20
"""Receive window, bytes. It never limits a flow: acknowledgements are sent before payload here, and TCP drops a segment
whose acknowledgement number is older by more than the window."""
QUEUE = 64 * 2**20
"""Size of the queue of one pair, bytes: enough for many connections without loss."""
BURST = 500e-6
"""Seconds of delay that a shaper makes up for."""
_MAC = "02:00:00:00:00:01"
"""Address of every interface: without ARP a frame is sent to the sender's own address, so both ends have the same one."""
_PACKETS = _WINDOW // MTU
_ROUTE = f"window {_WINDOW} initcwnd {_PACKETS} initrwnd {_PACKETS} rto_min 1s"
"""Windows that are fully open from the first byte, and no retransmission while queues are long."""
_FIRST_TABLE = 100
_ACK_FLAG, _SIX_FLAGS = "0x10", "0x3f"

SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ip_forward": "1",
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/tcp_timestamps": "0",
    "net/ipv4/tcp_rmem": f"4096 {4 * _WINDOW} {4 * _WINDOW}",
    "net/ipv4/tcp_wmem": f"4096 {IN_FLIGHT} {IN_FLIGHT}",
    "net/ipv4/tcp_moderate_rcvbuf": "0",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/tcp_early_retrans": "0",
}
"""Kernel settings of every namespace, as files below ``/proc/sys``: they make TCP share links almost like a fluid."""


def wire_rate(bandwidth: float) -> int:
    """Bits per second of frames that carry ``bandwidth`` bytes per second of payload.

    Example:
        12.5 MB/s of payload are 100,602,679 bit/s of frames: 9014 bytes for every 8960.
    """
    return round(bandwidth * 8 * (MTU + ETHERNET) / (MTU - HEADERS))


def creation(plan: LabPlan, prefix: str) -> str:
    """Input of ``ip -batch``: the namespaces, then the wires, whose ends are created inside them."""
    name = {vertex: prefix + short for vertex, short in plan.namespaces.items()}
    lines = [f"netns add {full}" for full in name.values()]
    for wire in plan.wires:
        ends = [f"netns {name[end]} address {_MAC} mtu {MTU}" for end in wire.ends]
        lines.append(f"link add {wire.name} {ends[0]} type veth peer name {wire.name} {ends[1]}")
    return _text(lines)


def addresses_and_routes(plan: LabPlan, vertex: int) -> str:
    """Input of ``ip -n NAMESPACE -batch``: interfaces up, the address of the rank, the next wire of every pair."""
    lines = ["link set lo up"]
    lines += [f"link set {wire.name} up arp off gso_max_segs 1" for wire in plan.wires if vertex in wire.ends]
    own = ""
    if vertex < len(plan.ranks):
        rank = plan.ranks[vertex]
        lines.append(f"address add {rank.address}/32 dev {rank.interface}")
        own = f" src {rank.address} {_ROUTE}"
    usual = usual_wire(plan, vertex)
    for destination, wire in usual.items():
        lines.append(f"route add {plan.ranks[destination].address}/32 dev {plan.wires[wire].name}{own}")
    return _text(lines + list(_exceptions(plan, vertex, usual)))


def _exceptions(plan: LabPlan, vertex: int, usual: dict[int, int]) -> Iterator[str]:
    """Pairs that leave a switch by another wire than most sources with the same destination: equal routes, by hash."""
    tables = set()
    for (here, source, destination), wire in sorted(plan.next_wire.items()):
        if here != vertex or usual[destination] == wire:
            continue
        table = _FIRST_TABLE + wire
        if table not in tables:
            tables.add(table)
            yield f"route add default dev {plan.wires[wire].name} table {table}"
        ends = f"from {plan.ranks[source].address} to {plan.ranks[destination].address}"
        yield f"rule add {ends} lookup {table} priority 1000"


def queues(plan: LabPlan, vertex: int) -> str:
    """Input of ``tc -n NAMESPACE -batch``: the rate of every direction, shaped at its sending end."""
    lines: list[str] = []
    for wire in plan.wires:
        if vertex in wire.ends:
            lines += _shape(plan, wire, wire.channels[wire.ends.index(vertex)])
    return _text(lines)


def _shape(plan: LabPlan, wire: Wire, channel: Channel) -> Iterator[str]:
    """One htb: a class for acknowledgements, which go first, and one class per pair; the pairs share the rate evenly."""
    if channel.bandwidth is None:
        return
    dev, rate = f"dev {wire.name}", wire_rate(channel.bandwidth)
    frame = MTU + ETHERNET
    size = max(round(rate / 8 * BURST), 1)
    burst = f"burst {size} cburst {size}"
    yield f"qdisc add {dev} root handle 1: htb"
    yield f"class add {dev} parent 1: classid 1:1 htb rate {rate}bit ceil {rate}bit {burst} quantum {frame}"
    yield f"class add {dev} parent 1: classid 1:2 htb rate 10gbit ceil 10gbit quantum {frame} prio 0"
    yield _leaf(dev, 2, channel.latency)
    yield f"filter add {dev} parent 1: protocol ip prio 1 u32 {_bare_acknowledgement()} flowid 1:2"
    share = max(rate // len(channel.pairs), 1)
    for number, (source, destination) in enumerate(channel.pairs, start=16):
        ends = f"match ip src {plan.ranks[source].address}/32 match ip dst {plan.ranks[destination].address}/32"
        limits = f"rate {share}bit ceil {rate}bit {burst} quantum {frame} prio 1"
        yield f"class add {dev} parent 1:1 classid 1:{number:x} htb {limits}"
        yield _leaf(dev, number, channel.latency)
        yield f"filter add {dev} parent 1: protocol ip prio 2 u32 {ends} flowid 1:{number:x}"


def _leaf(dev: str, number: int, latency: float) -> str:
    """The queue of a class; classes of payload that wait take turns frame by frame."""
    if latency:
        return f"qdisc add {dev} parent 1:{number:x} netem delay {latency * 1e6:.3f}us limit {QUEUE // HEADERS}"
    return f"qdisc add {dev} parent 1:{number:x} bfifo limit {QUEUE}"


def _bare_acknowledgement() -> str:
    """Match IP and TCP headers without options or payload, with no flag except ACK."""
    return f"match ip protocol 6 0xff match u16 {HEADERS:#06x} 0xffff at 2 match u8 {_ACK_FLAG} {_SIX_FLAGS} at 33"


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
