from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from smoes_sim.errors import ConfigError
from smoes_sim.models import find_model
from smoes_sim.routing import Rates
from smoes_sim.scenario import Scenario, load_scenario, scenario_names
from smoes_sim.topology.shipped import find_spec
from smoes_sim.topology.specs import StarSpec

SMALLEST = """\
topology: two-orin-10gbe
model: olmoe-1b-7b
workload: {text_tokens: 8, output_tokens: 2}
compute: {device: a100-sxm4-80gb}
"""


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_loads(name):
    assert isinstance(load_scenario(name), Scenario)


def test_the_shipped_scenario_is_the_deployment_of_the_paper():
    # notes, section 2: OLMoE on two Orin over 10GbE, MMMU; TTFT at batch 8, TPOT at batch 1
    scenario = load_scenario("olmoe-two-orin")
    assert (scenario.model, scenario.topology) == ("olmoe-1b-7b", "two-orin-10gbe")
    assert (scenario.workload.preset, scenario.workload.batch, scenario.workload.decode_batch) == ("mmmu", 8, 1)
    assert scenario.compute.device == "jetson-agx-orin-64gb"
    assert (scenario.routing.policy, scenario.routing.rates) == ("standard", "published")


def test_what_is_left_out_has_its_default(tmp_path):
    scenario = load_scenario(written(tmp_path, SMALLEST))
    assert scenario.routing.policy == "standard"
    assert scenario.placement.tokens == "data_parallel"
    assert (scenario.communication.library, scenario.communication.deduplicate) == ("direct", "rank")
    assert (scenario.overlap, scenario.calibration, scenario.seed) == ("none", None, 0)


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ([], "contiguous"),
        (["routing.policy=smoes"], "bins"),
        (["routing.policy=hard"], "bins"),
        (["routing.policy=hybrid"], "bins"),
        (["routing.policy=device_limited"], "contiguous"),
        (["routing.policy=group_balanced"], "contiguous"),
        (["routing.policy=smoes", "placement.experts=random"], "random"),
        (["placement.experts=bins"], "bins"),
    ],
)
def test_experts_are_placed_in_bins_by_default_if_the_router_has_sides(tmp_path, overrides, rule):
    assert load_scenario(written(tmp_path, SMALLEST), overrides).expert_rule == rule


def test_overrides_replace_and_add_values_of_any_depth(tmp_path):
    overrides = [
        "seed=7",
        "routing.policy=smoes",
        "routing.score=attention",
        "routing.rates={prefill_vision: 0.1, prefill: 0.2, decode: 0.3}",
        "communication.per_message=3 us",
        "topology={kind: star, ranks: 4, link: {bandwidth: 50 GB/s}}",
        "workload.preset=gsm8k",
    ]
    scenario = load_scenario(written(tmp_path, SMALLEST), overrides)
    assert scenario.seed == 7
    assert scenario.routing.rates == Rates(prefill_vision=0.1, prefill=0.2, decode=0.3)
    assert scenario.communication.per_message == pytest.approx(3e-6)
    assert isinstance(scenario.topology, StarSpec)
    assert (scenario.topology.ranks, scenario.topology.link.bandwidth) == (4, 50e9)
    assert (scenario.workload.preset, scenario.workload.text_tokens) == ("gsm8k", 8)


def test_the_last_of_two_overrides_of_one_key_wins(tmp_path):
    assert load_scenario(written(tmp_path, SMALLEST), ["seed=1", "seed=2"]).seed == 2


def test_null_takes_a_calibration_away():
    assert load_scenario("olmoe-two-orin").calibration == "two-orin-baseline"
    assert load_scenario("olmoe-two-orin", ["calibration=null"]).calibration is None


def test_a_scenario_cannot_be_changed_after_loading():
    scenario = load_scenario("olmoe-two-orin")
    with pytest.raises(ValidationError, match="frozen"):
        scenario.seed = 1


@pytest.mark.parametrize("overrides", [[], ["topology={kind: star, ranks: 2, link: {bandwidth: 1 GB/s}}"]])
def test_a_scenario_printed_and_read_again_is_the_same(overrides):
    scenario = load_scenario("olmoe-two-orin", overrides)
    assert Scenario.model_validate(scenario.model_dump(mode="json", by_alias=True)) == scenario


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=olmoe-1b-7c", r'model = "olmoe-1b-7c" is unknown\. Did you mean "olmoe-1b-7b"\?'),
        ("compute.device=h100-sxn", r'device = "h100-sxn" is unknown\. Did you mean "h100-sxm"\?'),
        ("workload.preset=mmmo", r'preset = "mmmo" is unknown\. Did you mean "mmmu"\?'),
        ("routing.policy=smos", r'routing\.policy = "smos" is unknown\. Did you mean "smoes"\?'),
        ("routing.polcy=smoes", r'unknown key "polcy"\. Did you mean "policy"\?'),
        ("placement.token=modality", r'unknown key "token"\. Did you mean "tokens"\?'),
        ("routing.score=attention", 'score = "attention" belongs to policy smoes, not standard. Leave it out'),
        ("routing={policy: dense, skip: {text: 0.5}}", r"policy dense has no routed slots to skip\. Leave it out"),
        ("routing.groups=4", r"groups = 4 belong to device_limited and group_balanced, not standard\. Leave them out"),
        ("routing={policy: group_balanced, keep: 2}", r"keep = 2 belongs to policy device_limited, not group_balanced"),
        ("routing={policy: device_limited, keep: 9}", r"keep = 9 is more than groups = 8\. Give keep as 1 to 8"),
        ("routing={policy: device_limited, groups: 2}", r"keep = 3 is more than groups = 2\. Give keep as 1 to 2"),
        ("routing={policy: device_limited, groups: 0}", r"routing\.groups = 0: .* greater than or equal to 1"),
        ("routing.skip=0.5", r"routing\.skip = 0\.5"),
        ("routing.skip={vision: 1}", r"skip\.vision = 1: .* less than 1"),
        ("routing.skip={images: 0.5}", r'unknown key "images"'),
        ("routing.popularity=-1", r"routing\.popularity = -1: .* greater than or equal to 0"),
        ("routing.msi=1.5", r"routing\.msi = 1\.5: .* less than or equal to 1"),
        ("routing.rates={prefill_vision: 0.1, prefill: 2, decode: 0.1}", r"rates\.prefill = 2: .* less than or equal to 1"),
        ("routing.rates={prefill_vision: 0.1, prefill: 0.2}", 'the key "decode" is missing in routing.rates'),
        ("communication.per_message=3", r'per_message = 3 has no unit of time\. Write "3 us"'),
        ("communication.dispatch=fp4", r'communication\.dispatch = "fp4" is unknown\. Did you mean "fp8"\?'),
        (
            "communication.library=deepep",
            r'"deepep" is a library.*Write two_hop \(its normal .* or low_latency \(',
        ),
        ("communication.library=DeepEP_low-latency", r"Write low_latency\.$"),
        ("communication.library=nccl", r'"nccl" is a library, not a schedule of messages\. Write direct\.$'),
        ("communication.library=ring", r'communication\.library = "ring" is unknown\. Known: '),
        ("overlap=three_batch", r'overlap = "three_batch" is unknown\. Did you mean "two_batch"\?'),
        ("compute.flops_efficiency=0", r"compute\.flops_efficiency = 0: .* greater than 0"),
        ("compute.memory_efficiency=1.1", r"compute\.memory_efficiency = 1\.1: .* less than or equal to 1"),
        ("workload.batch=eight", r"workload\.batch = 'eight': .* valid integer"),
        ("seed=-1", r"seed = -1: .* greater than or equal to 0"),
        ("topology={kind: ring, ranks: 3}", r'kind = "ring" is unknown\. '),
        ("topology={kind: star, ranks: 3}", 'the key "link" is missing in topology'),
        ("compute.device", r'"compute\.device": is not key=value'),
        (
            "compute.device.x=3",
            r"compute\.device is the value \'jetson.*, not a mapping\. Override compute\.device as a whole",
        ),
        ("model.topk=4", r'unknown key "topk"\. Did you mean "top_k"\?'),
        ("model.top_k=65", r"^olmoe-two-orin:5:8 with .*: model: top_k = 65 must lie in 1\.\.64, the number of experts"),
        ("topology.link.bandwith=25 Gb/s", r'unknown key "bandwith"\. Did you mean "bandwidth"\?'),
        ("topology.link.bandwidth=25", r'topology\.link\.bandwidth = 25 has no unit of bandwidth\. Write "400 Gb/s"'),
        (
            "topology.link.incast.flows=3",
            r'two-orin-10gbe\.yaml:6:1 with .*: the key "efficiency" is missing in topology\.link\.incast',
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_override_the_value_and_the_way_out(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario("olmoe-two-orin", [override])
    assert "\n" not in str(caught.value)
    assert override in str(caught.value)


def test_an_override_below_the_name_of_a_topology_changes_one_number_of_it(tmp_path):
    changed = load_scenario("olmoe-two-orin", ["topology.link.bandwidth=25 Gb/s"]).topology
    shipped = find_spec("two-orin-10gbe")
    assert changed.link.bandwidth == 25e9 / 8
    assert changed.model_copy(update={"link": shipped.link, "sources": shipped.sources, "name": None}) == shipped
    assert changed.name == "two-orin-10gbe with link.bandwidth=25 Gb/s"
    assert changed.sources == shipped.sources | {"link.bandwidth": "override topology.link.bandwidth=25 Gb/s"}
    # a file of one's own, by its path
    (tmp_path / "mine.yaml").write_text("kind: star\nranks: 2\nlink: {bandwidth: 1 GB/s}\n")
    own = load_scenario("olmoe-two-orin", [f"topology={tmp_path / 'mine.yaml'}", "topology.link.latency=9 us"]).topology
    assert (own.link.bandwidth, own.link.latency) == (1e9, pytest.approx(9e-6))


def test_an_override_of_a_section_replaces_the_sources_of_all_its_numbers():
    overrides = ["topology=h100-rail-16", "topology.nic={bandwidth: 800 Gb/s}", "topology.fabric.nodes_per_pod=2"]
    changed, shipped = load_scenario("olmoe-two-orin", overrides).topology, find_spec("h100-rail-16")
    assert (changed.nic.bandwidth, changed.scale_up) == (100e9, shipped.scale_up)
    for name, source in shipped.sources.items():
        is_changed = name.startswith("nic.") or name == "fabric.nodes_per_pod"
        assert changed.sources[name].startswith("override topology.") if is_changed else changed.sources[name] == source


def test_an_override_may_reach_a_nic_of_a_two_level_topology():
    changed = load_scenario("olmoe-two-orin", ["topology=2x8-h100-ndr400", "topology.nic.bandwidth=800 Gb/s"]).topology
    assert (changed.kind, changed.nic.bandwidth) == ("two_level", 100e9)
    with pytest.raises(ConfigError, match=r'unknown key "bandwdith"\. Did you mean "bandwidth"\?'):
        load_scenario("olmoe-two-orin", ["topology=2x8-h100-ndr400", "topology.nic.bandwdith=800 Gb/s"])
    with pytest.raises(ConfigError, match=r'^"topology\.nic\.kind=x": topology "2x8" is neither shipped nor a file'):
        load_scenario("olmoe-two-orin", ["topology=2x8", "topology.nic.kind=x"])


def test_an_override_below_the_name_of_a_model_changes_its_shape_and_says_so():
    changed, shipped = load_scenario("olmoe-two-orin", ["model.top_k=4"]).model_shape, find_model("olmoe-1b-7b")
    assert (changed.top_k, changed.layers, changed.vision) == (4, shipped.layers, shipped.vision)
    assert changed.source == f"{shipped.source}; override model.top_k=4"
    assert (changed.published_total, changed.published_active) == (None, None)


def test_the_last_override_of_a_name_wins_over_what_was_below_the_old_name():
    overrides = ["topology.link.bandwidth=25 Gb/s", "topology=4x8-p5-efa", "topology.nodes=2"]
    found = load_scenario("olmoe-two-orin", overrides).topology
    changed = {"nodes": 2, "sources": found.sources, "name": "4x8-p5-efa with nodes=2"}
    assert found == find_spec("4x8-p5-efa").model_copy(update=changed)


def test_hugging_face_names_in_a_model_are_answered_with_all_names_at_once(tmp_path):
    text = SMALLEST.replace(
        "model: olmoe-1b-7b", "model: {hidden_size: 64, num_experts_per_tok: 2, kv_lora_rank: 8, width: 3}"
    )
    message = (
        r'run\.yaml:2:9: unknown keys in model: "hidden_size" \(write hidden\), "num_experts_per_tok" \(write top_k\), '
        r'"kv_lora_rank" \(write kv_lora_rank in the section mla\), "width"\. Known: .*experts, .*layers, '
    )
    with pytest.raises(ConfigError, match=message):
        load_scenario(written(tmp_path, text))


def test_policy_dense_replaces_the_model_by_its_dense_counterpart_of_equal_total_size():
    asked = load_scenario("olmoe-two-orin", ["routing.policy=dense"]).model_shape
    assert asked == load_scenario("olmoe-two-orin", ["model=olmoe-1b-7b-dense-total"]).model_shape


def test_a_mistake_in_a_file_is_reported_with_its_line_and_column(tmp_path):
    path = written(tmp_path, SMALLEST + "overlap: all\n")
    with pytest.raises(ConfigError, match=rf'^{re.escape(path)}:5:10: overlap = "all" is unknown\. Known: attention'):
        load_scenario(path)


@pytest.mark.parametrize("key", ["topology", "model", "workload", "compute"])
def test_what_cannot_be_guessed_must_be_given(tmp_path, key):
    text = "".join(line for line in SMALLEST.splitlines(keepends=True) if not line.startswith(key))
    with pytest.raises(ConfigError, match=rf'run\.yaml:1:1: the key "{key}" is missing\. Add it\.$'):
        load_scenario(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("olmoe-two-orn", r'scenario "olmoe-two-orn" is neither shipped nor a file\. Did you mean "olmoe-two-orin"\?'),
        ("none.yaml", r"none\.yaml: cannot be read \(No such file or directory\)"),
    ],
)
def test_a_scenario_that_is_not_there_is_named(name, message):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        load_scenario(name)
