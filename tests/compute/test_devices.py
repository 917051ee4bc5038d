from __future__ import annotations

from importlib import resources

import pytest

from smoes_sim.compute import Device, Range, device_names, find_device
from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import Document


def entries():
    text = (resources.files("smoes_sim") / "data" / "devices.yaml").read_text(encoding="utf-8")
    return Document(text, name="devices.yaml").data["devices"]


def test_devices_are_shipped_under_unique_names():
    names = [entry["name"] for entry in entries()]
    assert len(names) == len(set(names))
    assert tuple(sorted(names)) == device_names()


@pytest.mark.parametrize("name", device_names())
def test_every_device_names_its_source_and_has_plausible_figures(name):
    device = find_device(name)
    assert any(word in device.source for word in (".com", ".io", ".cz", ".se", "data sheet", "assumed:"))
    # the ridge of every accelerator of these years lies between 100 and 1000 operations per byte, of a core near 10; H20's
    # arithmetic is cut to a seventh of H100's
    least = 10 if name.endswith("-core") or name == "h20" else 100
    assert least < device.peak_bf16 / device.memory_bandwidth < 1000
    # FP8 runs at twice the BF16 rate (L40S's sheet prints 362.05 and 733)
    assert device.peak_fp8 is None or device.peak_fp8 == pytest.approx(2 * device.peak_bf16, rel=0.02)
    # INT8 runs at that rate too, except on Blackwell Ultra; FP4 at twice the FP8 rate or more
    assert device.peak_int8 is None or name in ("b300-sxm", "gb300") or device.peak_int8 > 1.9 * device.peak_bf16
    assert device.peak_fp4 is None or device.peak_fp4 >= 3.99 * device.peak_bf16


def test_orin_is_64_tensor_cores_of_256_multiply_adds_at_1_3_ghz():
    orin = find_device("jetson-agx-orin-64gb")
    assert orin.peak_bf16 == pytest.approx(64 * 256 * 2 * 1.3e9, rel=0.001)
    assert orin.memory_bandwidth == 256 * 3.2e9 * 2 / 8
    assert orin.peak_fp8 is None


def test_mi300x_is_304_units_of_4096_fp8_operations_at_2_1_ghz():
    assert find_device("mi300x").peak_fp8 == pytest.approx(304 * 4096 * 2.1e9, rel=1e-4)
    assert find_device("mi355x").peak_fp8 == pytest.approx(256 * 8192 * 2.4e9, rel=1e-4)


def test_h100_turns_compute_bound_at_295_operations_per_byte():
    h100 = find_device("h100-sxm")
    assert h100.peak_bf16 / h100.memory_bandwidth == pytest.approx(295, abs=0.5)
    assert h100.memory == 80e9


def test_an_unknown_device_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r'device = "h100-smx" is unknown. Did you mean "h100-sxm"\?'):
        find_device("h100-smx")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("h200", "h200-sxm"),
        ("B200", "b200-sxm"),
        ("H100 SXM", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("mi355x", "mi355x"),
        ("rtx_pro_6000", "rtx-pro-6000"),
        ("gb200-nvl72", "gb200"),
        ("GB300 NVL72", "gb300"),
    ],
)
def test_devices_are_found_by_the_names_in_use(name, meant):
    assert find_device(name).name == meant


def test_a_name_of_several_devices_is_refused_with_their_names():
    with pytest.raises(ConfigError, match=r'device = "H100" may be h100-nvl, h100-pcie or h100-sxm\. Write one of them\.'):
        find_device("H100")
    with pytest.raises(ConfigError, match=r'"a100-80gb" may be a100-pcie-80gb or a100-sxm4-80gb\.'):
        find_device("a100-80gb")


def test_a_wrong_guess_is_answered_with_the_nearest_name_in_use():
    with pytest.raises(ConfigError, match=r'device = "GB200 NVL" is unknown\. Did you mean "gb200-nvl4"\?'):
        find_device("GB200 NVL")
    with pytest.raises(ConfigError, match=r'device = "tpu-v5p" is unknown\. Known: a100-pcie-80gb, a100-sxm4-40gb, '):
        find_device("tpu-v5p")


def test_products_run_in_units_of_the_format_only_where_they_are_faster():
    b300, h100, a100 = (find_device(name) for name in ("b300-sxm", "h100-sxm", "a100-sxm4-80gb"))
    assert b300.peak("int8") == b300.peak("bf16") == 2250e12  # its INT8 units do 150e12
    assert (b300.peak("nvfp4"), b300.peak("int4")) == (14000e12, 2250e12)
    assert [h100.peak(weights) for weights in ("fp8", "int8", "mxfp4", "fp32")] == [1978.9e12, 1978.9e12, 989.4e12, 494.7e12]
    assert (a100.peak("fp8"), a100.peak("int8")) == (312e12, 624e12)


def test_a_peak_without_a_unit_is_refused():
    with pytest.raises(ValueError, match="312 has no unit of compute rate"):
        Device.model_validate(entries()[0] | {"peak_bf16": 312})


def test_efficiency_ranges_stand_in_order_and_have_quantiles():
    for device in (find_device(name) for name in device_names()):
        for spread in (device.flops_efficiency, device.memory_efficiency):
            assert spread.low < spread.value < spread.high
    spread = Range(low=0.2, value=0.4, high=0.8)
    assert [spread.quantile(part) for part in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.8])
    with pytest.raises(ValueError, match=r"low = 0.5, value = 0.4, high = 0.8: must rise"):
        Range(low=0.5, value=0.4, high=0.8)


def test_default_ranges_hold_the_kernels_that_they_are_taken_from():
    # DeepGEMM on H800, FP8: 590 to 1358 TFLOPS of 1978.9, 1688 to 2668 GB/s of 3350; FlashMLA: 3000 GB/s
    h800 = find_device("h800-sxm")
    assert h800.flops_efficiency.low == pytest.approx(590e12 / h800.peak_fp8, abs=0.01)
    assert h800.flops_efficiency.high == pytest.approx(1358e12 / h800.peak_fp8, abs=0.02)
    assert h800.memory_efficiency.low == pytest.approx(1688e9 / h800.memory_bandwidth, abs=0.01)
    assert h800.memory_efficiency.high == pytest.approx(3000e9 / h800.memory_bandwidth, abs=0.01)
