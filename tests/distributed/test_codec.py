from __future__ import annotations

import pytest
import torch

from smoes_sim.distributed.codec import RowCodec, dtype_of
from smoes_sim.traffic.copies import ElementType, copy_bytes

ELEMENTS: list[ElementType] = ["bf16", "fp16", "fp32", "fp8"]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", [(5, 200), (1, 130), (3, 1), (0, 24)])
def test_a_row_takes_the_bytes_that_traffic_counts(element: ElementType, shape: tuple[int, int]) -> None:
    codec = RowCodec(element=element, hidden=shape[1])
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sent = codec.encode(rows)
    assert sent.dtype == torch.uint8
    assert sent.shape == (shape[0], copy_bytes(shape[1], element))
    back = codec.decode(sent, torch.float32)
    assert back.shape == rows.shape
    torch.testing.assert_close(back, rows, rtol={"fp32": 0, "fp16": 2**-11, "bf16": 2**-8, "fp8": 2**-4}[element], atol=1e-2)


@pytest.mark.parametrize("element", ["bf16", "fp16", "fp32"])
def test_rows_of_the_wires_own_type_arrive_as_they_were(element: ElementType) -> None:
    rows = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)).to(dtype_of(element))
    codec = RowCodec(element=element, hidden=24)
    assert torch.equal(codec.decode(codec.encode(rows), rows.dtype), rows)


def test_fp8_scales_each_block_by_its_largest_magnitude() -> None:
    """Block one has 448 at most, so scale 1; block two 44.8, so 0.1: 3.2 / 0.1 = 32 is a number of e4m3, 0.33 is not."""
    rows = torch.zeros(1, 130)
    rows[0, 0], rows[0, 1], rows[0, 128], rows[0, 129] = 448.0, 0.33, 44.8, 3.2
    codec = RowCodec(element="fp8", hidden=130)
    sent = codec.encode(rows)
    assert sent[0, 130:].clone().view(torch.float32).tolist() == pytest.approx([1.0, 0.1])
    back = codec.decode(sent, torch.float32)[0]
    assert back[[0, 128, 129]].tolist() == pytest.approx([448.0, 44.8, 3.2], rel=1e-6)
    assert back[1].item() == 0.34375  # the nearest of 0.3125 and 0.34375, steps of 2^-5 from a quarter to a half


def test_a_block_of_zeros_stays_zero() -> None:
    codec = RowCodec(element="fp8", hidden=24)
    assert torch.equal(codec.decode(codec.encode(torch.zeros(2, 24)), torch.float32), torch.zeros(2, 24))
