import pytest

from smoes_sim.libraries.system import Skip, hardware_of, scale_out_class, scale_up_class, software_of, system_case
from tests.libraries.rows import case, row


@pytest.mark.parametrize(
    ("link", "rate", "expected"),
    [
        ("NVLink4 (H800, ~160 GB/s max achievable per README; 200 nominal)", 160e9, "nvlink4"),
        ("NVLink 5 + NVSwitch", 900e9, "nvlink5"),
        ("NVLink5 MNNVL", 900e9, "nvlink5_mnnvl"),
        ("NVLink (generation not named)", 310e9, "nvlink3"),
        ("PCIe4 (no NVLink)", 31e9, "pcie4"),
        ("PCIe Gen 5 x16", 63e9, "pcie5"),
        ("PCIe only (host memory staging, no P2P), dual-channel DDR4-3200", 16e9, "shm"),
        ("xGMI full mesh (7 links x 76.5)", 535.5e9, "xgmi"),
        ("a new bus", 100e9, "other"),
    ],
)
def test_class_of_a_scale_up_link(link: str, rate: float, expected: str) -> None:
    assert scale_up_class(link, rate) == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("CX7 InfiniBand", "infiniband"),
        ("RoCEv2, AMD Pensando Pollara 400 AI NIC, 8 per node (ionic_0..7)", "roce"),
        ("AWS EFAv3, 16 x 200 Gb/s per node", "efa"),
        ("HPE Slingshot 11", "slingshot"),
        ("100 GbE, TCP", "ethernet"),
        ("pigeons", "other"),
    ],
)
def test_class_of_a_network(link: str, expected: str) -> None:
    assert scale_out_class(link) == expected


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("rccl-tests alltoall_perf 2.17.9, RCCL 2.27.7", "rccl"),
        ("NCCL torch all_to_all_single", "nccl"),
        ("UCCL-EP lite (DeepEP V2 port)", "uccl_ep"),
        ("DeepEP (through SGLang)", "deepep"),
        ("OpenMPI 5", "mpi"),
        ("something new", "generic"),
    ],
)
def test_software_by_its_name(library: str, expected: str) -> None:
    assert software_of(library) == expected


def test_counts_and_sites_do_not_change_the_system() -> None:
    names = {hardware_of(name) for name in ("2x NVIDIA A100-SXM4-80GB", "8x NVIDIA A100-SXM4-80GB")}
    assert names == {"A100-SXM4-80GB"}
    assert hardware_of("2 x 8x MI355X (site A and B)") == hardware_of("8x MI355X (site A)") == "MI355X"


def test_a_mesh_divides_the_rate_over_its_links() -> None:
    topology = case(intra_link="xGMI full mesh (7x64)", intra_bandwidth=448e9).topology
    assert topology.num_links == 8 * 7
    assert set(topology.link_bandwidth) == {64e9}
    # half of the box: three of the seven links are used, each as fast as before
    half = case(intra_link="xGMI full mesh (7x64)", intra_bandwidth=448e9, ranks_per_node=4).topology
    assert set(half.link_bandwidth) == {64e9}


def test_nodes_are_joined_by_a_nic_per_rank() -> None:
    kinds = case(nodes=2, inter_link="InfiniBand", nic_bandwidth=50e9).topology.count_kinds()
    assert kinds["infiniband"] == 2 * 16


def test_devices_on_pcie_cross_roots_and_sockets() -> None:
    kinds = case(intra_link="PCIe4 (no NVLink)", intra_bandwidth=31e9).topology.count_kinds()
    assert kinds == {"pcie4": 16, "root": 8, "host": 2}  # 8 devices, 4 switches, 2 sockets, both directions
    assert case(intra_link="PCIe4", intra_bandwidth=31e9, ranks_per_node=2).topology.count_kinds() == {"pcie4": 4}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"mode": "gather"}, 'mode "gather" has no library model'),
        ({"ranks_per_node": 1}, "one rank sends nothing"),
        ({"nodes": 512}, "4096 ranks"),
        ({"intra_bandwidth": None, "intra_link": "a new bus"}, "has no known nominal rate"),
        ({"nodes": 2, "inter_link": "InfiniBand"}, "nic_Gbps is empty"),
    ],
)
def test_missing_columns_are_named(columns: dict[str, object], reason: str) -> None:
    found = system_case(row(**columns))
    assert isinstance(found, Skip)
    assert reason in found.reason


def test_a_missing_rate_is_the_nominal_one() -> None:
    assert case(intra_bandwidth=None).layout.rate == 450e9


def test_trays_of_one_scale_up_domain_are_one_node() -> None:
    found = case(nodes=4, ranks_per_node=4, intra_link="NVLink5 MNNVL", inter_link="NVLink5 MNNVL (NVL72)")
    assert found.inter is None
    assert found.topology.count_kinds() == {"nvlink5_mnnvl": 32}
