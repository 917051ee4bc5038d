"""Random, unusual topologies for tests of rules that hold on every topology."""

from __future__ import annotations

from build_from import graph
from hypothesis import strategies as st


@st.composite
def graphs(draw):
    """Any graph of devices, NICs of their own and switches, in which some links lead only one way."""
    num_devices, num_switches = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    devices = [f"d{i}" for i in range(num_devices)]
    switches = [f"s{i}" for i in range(num_switches)]
    nics, links = [], []
    for device in devices:
        for number in range(draw(st.integers(0, 2))):
            nics.append(f"{device}n{number}")
            links += [f"{device} {nics[-1]}", f"{nics[-1]} {draw(st.sampled_from(switches))}"]
        for switch in draw(st.lists(st.sampled_from(switches), max_size=2)):
            links.append(f"{device} {switch}")
    ends = st.tuples(st.sampled_from(devices + switches + nics), st.sampled_from(switches))
    for a, b in draw(st.lists(ends, max_size=12)):
        if a != b:
            links.append(f"{a} {b}, duplex: {draw(st.sampled_from(['true', 'true', 'false']))}")
    return graph(", ".join(devices), *links, nics=", ".join(nics), switches=", ".join(switches))
