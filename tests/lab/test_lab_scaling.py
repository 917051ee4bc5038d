from __future__ import annotations

import re

import pytest
from lab_topologies import small, spec_of

from smoes_sim.errors import TopologyError
from smoes_sim.lab import plan_lab
from smoes_sim.lab.scaling import COMFORTABLE
from smoes_sim.topology import find_topology, topology_names


def star(ranks, rate):
    return spec_of(f"kind: star\nranks: {ranks}\nlink: {{bandwidth: {rate}}}")


def test_the_load_is_what_all_wires_carry_together_at_most():
    # four ranks send 100 Mb/s each over two wires
    assert plan_lab(small("star"), scale=1.0).load * 8e-6 == pytest.approx(4 * 100 * 2)
    # all 12 wires of a mesh at once, 20 Mb/s each
    assert plan_lab(small("mesh"), scale=1.0).load * 8e-6 == pytest.approx(12 * 20)
    # NICs of 50 Mb/s: 4 out, 4 in; the scale-up of two ranks is one wire of 200 Mb/s, two nodes, two directions
    assert plan_lab(small("nic_per_rank"), scale=1.0).load * 8e-6 == pytest.approx(8 * 50 + 4 * 200)


def test_the_scale_is_the_largest_round_one_that_two_cores_keep_up_with():
    plan = plan_lab(star(2, "10 Gb/s"))
    # both ranks over the one wire that is left of two links and a switch: 20 Gb/s; 2.56 Gb/s are comfortable
    assert (plan.scale, plan.load) == (0.1, pytest.approx(2e9 / 8))
    assert plan.load < COMFORTABLE
    assert plan_lab(star(4, "400 Gb/s")).scale == 0.0005  # 3.2 Tb/s: 0.0008 and down to 5
    assert plan_lab(star(4, "50 Mb/s")).scale == 1.0


def test_a_scale_that_asks_for_more_than_the_box_can_push_is_refused_with_the_number():
    message = re.escape("at scale 0.5 its 16 ranks keep 16 Gb/s busy over all wires, two cores carry 4.8. Use --scale 0.05.")
    with pytest.raises(TopologyError, match=message):
        plan_lab(star(16, "1 Gb/s"), scale=0.5)


def test_ranks_that_leave_each_other_too_little_are_refused_with_the_number():
    text = "kind: two_level\nnodes: 8\nranks_per_node: 8\nscale_up: {bandwidth: 450 GB/s}\nnic: {bandwidth: 400 Gb/s}"
    with pytest.raises(TopologyError, match=r"its 64 ranks leave 0\.8 Mb/s for the slowest link, at least 10 are needed"):
        plan_lab(spec_of(text))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(TopologyError, match=r"is not a positive number"):
        plan_lab(small("star"), scale=scale)


@pytest.mark.parametrize("name", [name for name in topology_names() if name.startswith("lab-")])
def test_shipped_labs_are_built_as_they_are(name):
    plan = plan_lab(find_topology(name))
    assert (plan.scale, plan.left_out) == (1.0, ())
