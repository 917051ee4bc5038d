from __future__ import annotations

import re

import pytest
from lab_topologies import TEXTS, small, spec_of
from test_lab_plan import routes_of

from smoes_sim.lab import plan_lab
from smoes_sim.lab.iproute import MTU, addresses_and_routes, creation, queues, wire_rate

every_kind = pytest.mark.parametrize("name", TEXTS)


def forwarding(plan, vertex):
    """What the kernel does with the text: rules first, then the main table; as a function of two addresses."""
    main, tables, rules = {}, {}, {}
    for line in addresses_and_routes(plan, vertex).splitlines():
        if match := re.match(r"route add default dev (\S+) table (\d+)$", line):
            tables[match[2]] = match[1]
        elif match := re.match(r"route add (\S+)/32 dev (\S+)", line):
            main[match[1]] = match[2]
        elif match := re.match(r"rule add from (\S+) to (\S+) lookup (\d+)", line):
            rules[match[1], match[2]] = match[3]
    return lambda source, destination: (
        tables[rules[source, destination]] if ((source, destination) in rules) else main[destination]
    )


@every_kind
@pytest.mark.parametrize("seed", [0, 1])
def test_the_routes_that_ip_is_told_are_those_of_the_prediction(name, seed):
    plan = plan_lab(small(name), scale=1.0, seed=seed)
    tables = {vertex: forwarding(plan, vertex) for vertex in plan.namespaces}
    wires = {wire.name: wire for wire in plan.wires}
    address = [rank.address for rank in plan.ranks]
    for (a, b), links in routes_of(plan.topology, seed).items():
        here, passed = a, [a]
        while here != b:
            ends = wires[tables[here](address[a], address[b])].ends
            here = ends[1 - ends.index(here)]
            passed.append(here)
        route = [a, *(int(plan.topology.link_target[link]) for link in links)]
        assert passed == [vertex for vertex in route if vertex in plan.namespaces]


def test_equal_routes_need_rules_and_trees_do_not():
    def rules(name):
        plan = plan_lab(small(name), scale=1.0)
        return sum(addresses_and_routes(plan, vertex).count("rule add") for vertex in plan.namespaces)

    assert rules("fat_tree") > 0
    assert rules("star") == rules("nic_per_node") == 0


@every_kind
def test_every_end_of_a_wire_is_born_in_a_namespace_of_ours(name):
    plan = plan_lab(small(name), scale=1.0)
    lines = creation(plan, "pre-").splitlines()
    made = {line.split()[-1] for line in lines if line.startswith("netns add ")}
    assert made == {f"pre-{short}" for short in plan.namespaces.values()}
    for line in lines[len(made) :]:
        first, second = re.match(r"link add w\d+ netns (\S+) .* type veth peer name w\d+ netns (\S+) ", line).groups()
        assert {first, second} <= made
    assert len(lines) == len(made) + len(plan.wires)


@every_kind
def test_every_shared_direction_has_a_class_for_each_pair_and_their_rates_fill_it(name):
    plan = plan_lab(small(name), scale=1.0)
    for vertex in plan.namespaces:
        lines = queues(plan, vertex).splitlines()
        for wire in plan.wires:
            if vertex not in wire.ends:
                continue
            own = [line for line in lines if f" dev {wire.name} " in line]
            channel = wire.channels[wire.ends.index(vertex)]
            if channel.bandwidth is None:
                assert own == []
                continue
            rate = wire_rate(channel.bandwidth)
            shares = [
                int(re.search(r" rate (\d+)bit", line)[1]) for line in own if "parent 1:1 " in line and "class" in line
            ]
            assert len(shares) == len(channel.pairs)
            assert rate - len(shares) < sum(shares) <= rate
            pairs = {tuple(re.findall(r"10\.77\.0\.(\d+)/32", line)) for line in own if "match ip src" in line}
            assert pairs == {(str(a + 1), str(b + 1)) for a, b in channel.pairs}


def test_frames_carry_the_bandwidth_as_payload():
    # 12.5 MB/s of payload; a frame of MTU and 14 bytes carries the MTU without 40 bytes of headers
    assert wire_rate(12.5e6) == round(100e6 * (MTU + 14) / (MTU - 40)) == 100_602_679


def test_a_kernel_that_can_delay_is_told_the_latency_of_a_wire():
    text = "kind: star\nranks: 2\nlink: {bandwidth: 100 Mb/s, latency: 150 us}"
    plan = plan_lab(spec_of(text), has_delay=True)
    # two links are one wire; payload and acknowledgements wait alike
    assert [line.split("netem ")[1].split(" limit")[0] for line in queues(plan, 0).splitlines() if "netem" in line] == [
        "delay 300.000us",
        "delay 300.000us",
    ]
