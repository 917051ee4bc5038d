"""The schema of topology files: every field says what it is, in which unit, and shows an example."""

from __future__ import annotations

import pytest
from build_from import NODES, topology

from smoes_sim.compute import device_names
from smoes_sim.errors import ConfigError
from smoes_sim.topology import build, find_spec, find_topology, topology_names
from smoes_sim.topology.node_link import read_node_link
from smoes_sim.topology.shipped import TopologyFile

NODE_LINK = """
{"directed": false, "graph": {"device": "mi300x"}, "nodes": [{"id": 0, "kind": "device"}, {"id": 1, "kind": "device"}],
 "edges": [{"source": 0, "target": 1, "bandwidth": "1 GB/s"}]}
"""


def fields():
    """Every field of every model of a topology file: its schema, and whether it may be left out."""
    for model, schema in TopologyFile.model_json_schema(by_alias=True)["$defs"].items():
        for name, field in schema.get("properties", {}).items():
            yield pytest.param(field, name not in schema.get("required", ()), id=f"{model}.{name}")


@pytest.mark.parametrize(("field", "is_optional"), list(fields()))
def test_every_field_has_a_description_with_its_default_and_an_example(field, is_optional):
    assert field["description"].endswith(".")
    assert is_optional == ("Default" in field["description"])
    assert field["examples"]


def test_the_accelerator_of_a_topology_survives_a_smaller_job_and_node_link_json():
    built = topology(NODES + "device: h100-sxm\n")
    assert (built.device, built.first(2).device) == ("h100-sxm", "h100-sxm")
    assert topology(NODES).device is None
    assert build(read_node_link(NODE_LINK, name="a.json"), name="a").device == "mi300x"


def test_shipped_topologies_name_accelerators_that_are_known():
    named = {name: find_spec(name).device for name in topology_names()}
    assert set(named.values()) <= {None, *device_names()}
    # labs have no accelerator; TPU v5p, L4 and the dragonfly's devices are not in data/devices.yaml
    assert all(device or name.startswith(("lab-", "tpu-", "4x-l4", "dragonfly")) for name, device in named.items())
    assert find_topology("gb200-nvl72-x8").first(72).device == "gb200"


def test_an_accelerator_that_is_no_name_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(NODES + "device: 7\n")
    with pytest.raises(ConfigError, match="device"):
        find_topology(str(path))
