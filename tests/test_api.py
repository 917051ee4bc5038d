"""The public face: names, light import, typed results, exceptions with one line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import smoes_sim as ss

PACKAGE = Path(__file__).parents[1] / "smoes_sim"
HEAVY = ("numba", "numpy", "pandas", "polars", "pydantic", "scipy", "torch")
SMALL = {"model.layers": 2, "workload.batch": 2, "workload.decode_batch": 1}


def test_every_public_name_exists_and_is_documented():
    for name in ss.__all__:
        found = getattr(ss, name)
        if name != "__version__":
            assert found.__doc__, name
    assert sorted(ss.__all__) == ss.__all__ == dir(ss)


@pytest.mark.parametrize("name", [name for name in ss.__all__ if name[0].islower()])
def test_every_public_function_says_what_comes_back_and_has_an_example(name):
    text = getattr(ss, name).__doc__
    assert all(f"{section}:" in text for section in ("Args", "Example")), name


def test_names_for_type_checkers_are_those_that_are_imported():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name: f"{node.module.removeprefix('smoes_sim.')}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("smoes_sim.")
        for alias in node.names
    }
    del typed["__version__"]
    assert typed == ss._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        _ = ss.simulat


def test_the_import_loads_nothing_heavy():
    code = f"import sys, smoes_sim; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nothing_inside_imports_the_face():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "smoes_sim", path
            elif isinstance(node, ast.Import):
                assert "smoes_sim" not in [alias.name for alias in node.names], path


def test_a_prediction_is_typed_and_prints_as_the_command_does():
    found = ss.simulate("olmoe-two-orin", SMALL, routing__policy="smoes")
    assert found.policy == "smoes"
    assert found.name == "olmoe-two-orin"
    assert 0 < found.bytes_remote < found.bytes_total
    low, high = found.interval("ep_comm_s")
    assert low <= found.ep_comm_s <= high
    assert len(found.draws["ttft_s"]) == 16
    assert "TTFT" in repr(found)
    assert "<table>" in found._repr_html_()
    assert found.to_polars().height == 1
    assert found.to_polars()["transmission_rate_prefill"][0] == found.transmission_rate.prefill
    assert ss.Prediction.of_dict(found.to_dict(), found.draws).to_dict() == found.to_dict()


def test_names_paths_and_objects_give_the_same(tmp_path):
    overrides = [f"{key}={value}" for key, value in SMALL.items()]
    scenario = ss.Scenario.load("olmoe-two-orin", *overrides)
    by_name = ss.simulate("olmoe-two-orin", *overrides, "calibration=null")
    by_object = ss.simulate(scenario, {"calibration": None})
    assert by_object.ttft_s == by_name.ttft_s
    assert by_object.calibration is None
    document = scenario.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"calibration": None}
    assert ss.simulate(document).ttft_s == by_name.ttft_s
    assert ss.Scenario.load("olmoe-two-orin", {"workload.batch": 4}, workload__decode_batch=2, ranks=1).workload.batch == 4


def test_every_value_of_a_list_is_compared_and_shown():
    found = ss.compare("olmoe-two-orin", SMALL, {"placement.spare": [0, 2]}, placement__experts="eplb", calibration=None)
    none, two = (row.memory.need.weights["experts"] for row in found.rows)
    assert two == pytest.approx(34 / 32 * none)  # 32 experts per rank, then 34 slots
    assert "spare" in repr(found)
    assert found.to_polars()["set_placement.spare"].to_list() == ["0", "2"]
    assert found.changes[0]["ttft_s"].value == 0.0


def test_several_scenarios_are_named_and_compared():
    scenario = ss.Scenario.load("olmoe-two-orin", SMALL, calibration=None)
    found = ss.compare([scenario, "olmoe-two-orin"], SMALL, calibration=None)
    assert [row.name.split(" ")[0] for row in found.rows] == ["scenario", "olmoe-two-orin"]
    assert found.rows[0].ttft_s == found.rows[1].ttft_s


def test_a_calibration_of_another_system_is_a_warning():
    found = ss.simulate("olmoe-two-orin", SMALL, topology="8x-h100", compute__device="h100-sxm")
    assert "calibration = two-orin-baseline was fitted on two-orin-10gbe with jetson-agx-orin-64gb" in repr(found)


def test_wrong_words_are_refused_with_the_right_one():
    with pytest.raises(ss.ConfigError, match=r'schedule = "dircet" is unknown\. Did you mean "direct"'):
        ss.alltoall("8x-h100", size="1M", schedule="dircet")
    with pytest.raises(ss.ConfigError, match=r'rule = "bin" is unknown\. Did you mean "bins"'):
        ss.place("bin", "t.npz", ranks=2)
    with pytest.raises(ss.ConfigError, match=r'"ttft" is no quantity of a prediction\. Did you mean "ttft_s"'):
        ss.simulate("olmoe-two-orin", SMALL).interval("ttft")


def test_frames_of_both_kinds_hold_the_same():
    pandas = pytest.importorskip("pandas")
    found = ss.alltoall("two-orin-10gbe", sweep="1K:4K")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["time_s"].tolist() == found.to_polars()["time_s"].to_list()


def test_errors_are_exceptions_with_one_line():
    with pytest.raises(ss.ConfigError, match=r'scenario "olmoe" is neither shipped nor a file\. Known: ') as caught:
        ss.simulate("olmoe")
    assert "\n" not in str(caught.value)
    with pytest.raises(ss.ConfigError, match='unknown key "polcy"'):
        ss.simulate("olmoe-two-orin", {"routing.polcy": "smoes"})
    with pytest.raises(ss.ConfigError, match="is no scenario"):
        ss.simulate(3)
    with pytest.raises(ss.ConfigError, match="baseline = 3 is not one of the 1 rows"):
        ss.compare("olmoe-two-orin", SMALL, baseline=3)


def test_a_trace_goes_through_a_file_and_decides_a_placement(tmp_path):
    trace = ss.synthesize("olmoe-two-orin", SMALL)
    trace.save(tmp_path / "t.npz")
    again = ss.Trace.load(tmp_path / "t.npz")
    assert np.array_equal(again.expert_ids, trace.expert_ids)
    placed = ss.place("eplb", again, ranks=2, spare=1)
    assert placed.physical_to_logical_map.shape == (2, 66)
    assert repr(placed) == "<placement of 64 experts in 66 slots on 2 ranks, 2 layers>"


def test_what_is_shipped_is_listed():
    assert "olmoe-two-orin" in list(ss.catalogue("scenarios"))
    assert "h100-sxm" in repr(ss.catalogue("devices"))
    with pytest.raises(ss.ConfigError, match='"device" is no kind of shipped things'):
        ss.catalogue("device")


def test_a_topology_of_another_device_is_a_warning():
    found = ss.simulate("olmoe-two-orin", SMALL, topology="8x-h100", calibration=None)
    assert repr(found).startswith("warning: compute.device = jetson-agx-orin-64gb, but the ranks of 8x-h100 are h100-sxm")
    assert ss.simulate("olmoe-two-orin", SMALL).warnings == []


def test_without_a_calibration_the_first_line_says_that_links_are_nominal():
    found = ss.simulate("olmoe-two-orin", SMALL, calibration=None)
    assert repr(found).startswith("nominal: links at their full rated bandwidth, no software cost")
    assert "ep_comm_s" not in found.intervals
    assert repr(ss.compare("olmoe-two-orin", SMALL, calibration=None)).startswith("nominal:")
