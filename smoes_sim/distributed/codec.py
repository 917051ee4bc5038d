"""Rows in the element type of an exchange, as bytes: as many as ``traffic.copy_bytes`` counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from smoes_sim.traffic.copies import FP8_BLOCK, ElementType

_FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FP8).max
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE: dict[ElementType, float] = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 1e-2, "fp8": 8e-2}
"""Largest error of outputs and gradients, as a share of the reference's largest value, where the coarser of the two
exchanges uses the type: a few of its roundings (relative 2^-24, 2^-11, 2^-8, and 2^-4 for e4m3) add up."""


def dtype_of(element: ElementType) -> torch.dtype:
    """Element type of the computation for rows that are sent as ``element``; bf16 for fp8."""
    return _DTYPES.get(element, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCodec:
    """Rows (N, D) as bytes (N, B) and back; B is ``copy_bytes(hidden, element)``.

    ``fp8`` is e4m3 with one float32 scale per 128 elements, the block's largest magnitude over 448 (DeepSeek-V3,
    arXiv 2412.19437, section 3.3.2); the scales follow the elements of their row.

    Example:
        Hidden 256 in fp8: 256 + 2 * 4 = 264 bytes.
    """

    element: ElementType
    hidden: int

    def encode(self, rows: Tensor) -> Tensor:
        """Rows (N, D) of any real type as uint8 (N, B)."""
        if self.element != "fp8":
            return _viewed(rows.to(_DTYPES[self.element]), torch.uint8)
        blocks = _in_blocks(rows.float())
        scale = blocks.abs().amax(dim=-1).clamp(min=torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
        quantised = (blocks / scale[..., None]).to(_FP8).flatten(1)[:, : self.hidden]
        return torch.cat([_viewed(quantised, torch.uint8), _viewed(scale, torch.uint8)], dim=1)

    def decode(self, encoded: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes (N, B) as rows (N, D) of ``dtype``."""
        if self.element != "fp8":
            return _viewed(encoded, _DTYPES[self.element]).to(dtype)
        blocks = _in_blocks(_viewed(encoded[:, : self.hidden], _FP8).float())
        scale = _viewed(encoded[:, self.hidden :].clone(), torch.float32)  # a clone: floats must start at multiples of 4
        return (blocks * scale[..., None]).flatten(1)[:, : self.hidden].to(dtype)


def _viewed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A view of rows (N, D) as another type, (N, D * old size / new size)."""
    width = rows.shape[1] * rows.element_size() // dtype.itemsize
    return rows.reshape(-1).view(dtype).view(len(rows), width)


def _in_blocks(rows: Tensor) -> Tensor:
    """Rows in blocks that share a scale, zeros behind the last element, (N, D / 128, 128)."""
    missing = -rows.shape[1] % FP8_BLOCK
    return functional.pad(rows, (0, missing)).unflatten(1, (-1, FP8_BLOCK))
