from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smoes_sim.libraries.families import prepare_case, prepare_cases
from smoes_sim.libraries.pooling import FittedPool, PreparedCase, fit, terms_of
from smoes_sim.libraries.published import PUBLISHED
from smoes_sim.libraries.system import Skip
from smoes_sim.measurements import Measurement, read_measurements
from tests.libraries.rows import row

PRIORS = FittedPool(deviations={}, covariance=np.zeros((0, 0)))


def moe_row(**columns: Any) -> Measurement:
    """Two nodes of 8 H100-like ranks, DeepSeek-V3's layer, fp8 dispatch of 128 tokens in low latency."""
    usual = {
        "nodes": 2,
        "inter_link": "InfiniBand CX7",
        "nic_bandwidth": 50e9,
        "library": "DeepEP",
        "mode": "ep_low_latency",
        "op": "dispatch",
        "size": None,
        "tokens_per_rank": 128.0,
        "hidden": 7168,
        "bytes_per_element": 1.0,
        "top_k": 8,
        "experts": 256,
    }
    return row(**(usual | columns))


def moe(**columns: Any) -> PreparedCase:
    found = prepare_case(moe_row(**columns))
    assert isinstance(found, PreparedCase), found
    return found


def normal(**columns: Any) -> PreparedCase:
    return moe(**({"mode": "ep_normal", "tokens_per_rank": 4096.0} | columns))


def seconds(prepared: PreparedCase, constants: Mapping[str, float] | None = None) -> float:
    """Time with the priors, or with some constants changed."""
    values = {term.name: term.prior for term in terms_of(prepared.family, prepared.case)}
    return prepared.family.duration(prepared.case, prepared.stages, values | dict(constants or {}))


def busy(prepared: PreparedCase) -> dict[str, float]:
    return {kind: value for stage in prepared.stages for kind, value in stage.busy.items()}


def test_low_latency_sends_every_routed_token_separately() -> None:
    (stage,) = moe().stages
    # 128 tokens, 8 experts each, 8 of 16 ranks beyond the NIC and 7 inside the node; 7168 + 4 * 56 + 16 = 7408 bytes.
    assert stage.messages == pytest.approx({"infiniband": 512, "nvlink4": 448})
    assert stage.busy == pytest.approx({"infiniband": 512 * 7408 / 50e9, "nvlink4": 448 * 7408 / 450e9})


def test_a_library_without_nvlink_also_uses_the_nic_inside_a_node() -> None:
    (stage,) = moe(nodes=1, library="DeepEP V1 LL pure RDMA (Feb 2025, no NVLink used even intranode)").stages
    # 7 of 8 ranks: 896 copies of 7408 bytes at 50 GB/s take 132.8 us.
    assert stage.busy == pytest.approx({"infiniband": 132.75e-6}, rel=1e-3)


def test_normal_kernels_send_once_to_each_node_and_forward_inside() -> None:
    between, inside = normal().stages
    # 1.993 / 2 of the tokens cross, 7392 bytes each; each rank then sends 7 / 8 of the 6.523 copies over NVLink.
    assert between.busy == pytest.approx({"infiniband": 4096 * 0.99651 * 7392 / 50e9}, rel=1e-4)
    assert inside.busy == pytest.approx({"nvlink4": 4096 * 6.52328 * 7 / 8 * 7392 / 450e9}, rel=1e-4)


def test_deduplication_by_rank_or_node_follows_from_the_library() -> None:
    once = {"NVLinkTwoSided": "TensorRT-LLM NVLinkTwoSided", "V0": "MORI-EP EP16-V0", "V1": "MORI-EP EP16-V1"}
    crossing = {name: busy(moe(library=library))["infiniband"] for name, library in once.items()}
    # Half of the 6.523 ranks of a token lie beyond the NIC, or 1.993 / 2 nodes.
    rank, node = 128 * 6.52328 / 2 * 7408 / 50e9, 128 * 0.99651 * 7408 / 50e9
    assert crossing == pytest.approx({"NVLinkTwoSided": rank, "V0": rank, "V1": node}, rel=1e-4)


H800 = {"intra_link": "NVLink4 (H800, ~160 GB/s max achievable; 200 nominal)", "intra_bandwidth": 160e9}


def test_nvlink_limits_16_ranks_of_h800_and_the_nic_limits_32() -> None:
    def gain(nodes: int, **faster: float) -> float:
        return seconds(normal(nodes=nodes, **H800)) / seconds(normal(nodes=nodes, **(H800 | faster)))

    # NVLink: 5.708 copies at 160 of 200 GB/s; the NIC: 0.997 copies at 46.5 GB/s.
    assert gain(2, nic_bandwidth=100e9) < 1.1
    assert gain(4, nic_bandwidth=100e9) > 1.2
    # H100's NVLink is 2.25 times as fast, and 16 ranks gain most of that.
    h100 = {"intra_link": "NVLink4+NVSwitch", "intra_bandwidth": 450e9}
    assert seconds(normal(**H800)) / seconds(normal(**h100)) > 1.5
    assert seconds(normal(nodes=4, **H800)) / seconds(normal(nodes=4, **h100)) < 1.3


def test_the_nominal_rate_counts_where_an_achieved_rate_is_stated_too() -> None:
    plain = {"intra_link": "NVLink4", "intra_bandwidth": 200e9}
    assert seconds(normal(nodes=1, **H800)) == pytest.approx(seconds(normal(nodes=1, **plain)))


def test_overlap_lies_between_the_sum_and_the_maximum_of_both_times() -> None:
    prepared = normal()
    inside, between = 0.0, 0.0
    serial = seconds(prepared, {"overlap.dispatch": 1e-9})
    hidden = seconds(prepared, {"overlap.dispatch": 1 - 1e-9})
    start = 40e-6 + 5e-6 + 8 * 0.2e-6
    between = seconds(
        prepared, {"overlap.dispatch": 1 - 1e-9, "link.nvlink4": 1 - 1e-9, "header": 1e-9, "network.infiniband": 0.5}
    )
    between = (between - start) * 0.5 / 0.93
    inside = serial - start - between
    assert hidden - start == pytest.approx(max(inside, between))
    # Serial 1/4: (a^4 + b^4)^(1/4).
    assert seconds(prepared) - start == pytest.approx((inside**4 + between**4) ** 0.25)


def test_few_sms_limit_the_copies() -> None:
    def up(library: str) -> float:
        return seconds(normal(nodes=1, library=library), {"launch.dispatch": 1e-12, "header": 1e-9})

    # 4096 tokens, 5.295 * 7 / 8 copies of 7392 bytes, 2 SMs of 30 GB/s: 2.338 ms; 100 SMs are no limit.
    assert up("Hybrid-EP, 2 SM") == pytest.approx(4096 * 5.29465 * 7 / 8 * 7392 / 60e9, rel=0.01)
    assert up("Hybrid-EP, 100 SM") == pytest.approx(up("Hybrid-EP"), rel=0.01)


def test_a_header_counts_as_bytes_of_every_copy_on_scale_up_links() -> None:
    prepared = normal(nodes=1)
    # launch 40 us; a header as long as the copy (7168 + 4 * 56 = 7392 bytes) doubles the rest
    plain, headed = (seconds(prepared, {"header": size}) - 40e-6 for size in (0.0, 7392.0))
    assert plain > 100e-6
    assert headed == pytest.approx(2 * plain)


def test_combine_also_reads_the_returned_copies() -> None:
    prepared = moe(op="combine", bytes_per_element=2.0, nodes=1)
    # 128 tokens, 8 copies of 14336 bytes each: 4.89 us at 3 TB/s, none at an infinite rate.
    assert seconds(prepared) - seconds(prepared, {"reduce": 1e30}) == pytest.approx(128 * 8 * 14336 / 3e12)


def test_dispatch_and_combine_in_one_row_add_up() -> None:
    both = moe(op="dispatch+combine")
    apart = seconds(moe()) + seconds(moe(op="combine", bytes_per_element=2.0))
    assert seconds(both) == pytest.approx(apart)


def test_the_first_copies_cost_their_own_time() -> None:
    one, four = (seconds(moe(nodes=1, tokens_per_rank=float(tokens))) for tokens in (1, 4))
    # 7 copies take 0.2 us and 28 take 0.7; either is hidden behind the 3 us that one takes.
    assert 0 < four - one < 0.2e-6


def test_a_process_on_the_host_pays_for_every_peer() -> None:
    host, device = moe(library="UCCL-EP"), moe()
    # 8 peers beyond the NIC: 3 us each instead of 0.2.
    assert seconds(host) - seconds(device) == pytest.approx(8 * 2.8e-6)
    assert seconds(moe(inter_link="AWS EFAv3")) == pytest.approx(seconds(host))


def test_the_link_between_sockets_limits_devices_on_pcie() -> None:
    pcie = {"nodes": 1, "intra_link": "PCIe 5.0 x16", "intra_bandwidth": 63e9}
    prepared = moe(**pcie)
    # 4 ranks a socket send 128 copies to each of 4 over the bridge: 16 * 128 * 7408 bytes at 22 GB/s take 690 us.
    assert busy(prepared)["host"] == pytest.approx(16 * 128 * 7408 / 22e9)
    assert seconds(prepared) > busy(prepared)["host"]


@pytest.mark.parametrize(
    ("kind", "count", "columns"),
    [("logical_inter", 1.99302, {}), ("logical_intra", 5.29465, {"nodes": 1})],
)
def test_logical_bandwidth_counts_the_own_node_or_rank(kind: str, count: float, columns: dict[str, Any]) -> None:
    prepared = normal(duration=None, bandwidth=74e9, bandwidth_kind=kind, **columns)
    assert prepared.measured == pytest.approx(4096 * count * 7392 / 74e9, rel=1e-5)


def test_a_published_time_takes_precedence_over_a_bandwidth() -> None:
    assert moe(duration=1e-4, bandwidth=1e9, bandwidth_kind="logical_inter").measured == 1e-4
    assert moe(bandwidth=1e9, bandwidth_kind="busbw").measured is None
    assert moe(op="dispatch+combine", bandwidth=1e9, bandwidth_kind="logical_inter").measured is None


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"hidden": None}, "hidden is empty"),
        ({"op": "gather"}, 'op "gather" is not dispatch, combine'),
        ({"experts": 8}, "experts = 8 are fewer than the 16 ranks"),
        ({"top_k": 300}, "the top_k = 300"),
    ],
)
def test_rows_without_a_model_name_the_reason(columns: dict[str, Any], reason: str) -> None:
    found = prepare_case(moe_row(**columns))
    assert isinstance(found, Skip)
    assert reason in found.reason


def test_unknown_software_is_predicted_with_a_wider_interval() -> None:
    members = [moe(nodes=nodes, tokens_per_rank=tokens) for nodes in (1, 2, 4) for tokens in (8.0, 64.0, 512.0)]
    fitted = fit([replace(member, measured=1.4 * seconds(member)) for member in members])
    prepared, stranger = moe(), moe(library="Frobnicate 1.0", system="8x Elsewhere")
    assert busy(stranger) == pytest.approx(busy(prepared))
    time, deviation = fitted.predict(stranger)
    # It goes most of the way to the 1.4 that it has not seen, and says that it may be further off.
    assert 1.1 < time / seconds(stranger) < 1.4
    assert deviation > 1.5 * fitted.predict(prepared)[1]


def doubled(prepared: PreparedCase) -> PreparedCase:
    """The same case with priors of all costs in seconds that are twice as large."""
    costs = {"launch", "handshake", "peer", "first"}
    constants = [replace(c, prior=2 * c.prior) if c.what in costs else c for c in prepared.family.constants]
    return replace(prepared, family=replace(prepared.family, constants=constants))


def test_a_fit_to_two_nodes_of_h100_predicts_four_regardless_of_the_priors() -> None:
    rows = [row for row in read_measurements(PUBLISHED) if row.mode == "ep_low_latency" and "H100" in row.system]
    cases = [doubled(prepared) for prepared in prepare_cases(rows).cases]
    fitted = fit([prepared for prepared in cases if prepared.case.row.nodes <= 2])
    four = [prepared for prepared in cases if prepared.case.row.nodes == 4]
    errors = [abs(fitted.predict(prepared)[0] / (prepared.measured or 0) - 1) for prepared in four]
    assert len(errors) == 26
    assert np.mean(errors) < 0.08
    assert np.mean([abs(seconds(prepared) / (prepared.measured or 0) - 1) for prepared in four]) > 0.15
