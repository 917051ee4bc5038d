"""Number of tokens of the language model that one image becomes: one rule for each family of vision towers.

The key ``kind`` selects the rule. The number depends on the size of the image in pixels only. Beginning and end markers
are counted where the family puts them between the patches (DeepSeek-VL2's line ends, Llama 4's tile separators) and not
where the chat template writes them (InternVL's ``<img>``, Qwen's ``<|vision_start|>``).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import Spec

Positive = Annotated[int, Field(ge=1)]


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ConfigError(f"image of {width} x {height} px: both sides must be >= 1. Give the size in pixels.")


class FixedImageTokens(Spec):
    """The same number for every image, which the tower resizes or pads to one resolution.

    Example:
        LLaVA-1.5 with CLIP ViT-L/14 at 336 px: (336 / 14)**2 = 576.
    """

    kind: Literal["fixed"] = Field("fixed", description="Names this rule.", examples=["fixed"])
    tokens: Positive = Field(description="Tokens of every image.", examples=[576])

    def count(self, *, width: int, height: int) -> int:
        """Tokens of an image of ``width`` x ``height`` pixels."""
        _check_size(width, height)
        return self.tokens

    def frames(self, *, width: int, height: int, merge: int) -> tuple[int, int]:
        """Number of frames of the tower, and patches of each; ``merge**2`` patches make a token."""
        return 1, self.count(width=width, height=height) * merge**2


class PixelGridTokens(Spec):
    """One token for each cell of ``patch * merge`` pixels a side, at the image's own resolution.

    ``rounding`` is how a side becomes a whole number of cells. ``nearest`` (Qwen3-VL, GLM-4.5V) rounds to the nearest,
    then rescales the image when the grid leaves ``min_tokens .. max_tokens``; a side shorter than a cell is enlarged to
    one cell; aspect ratios above 200, which some processors refuse, are counted. ``up`` (Kimi-VL) shrinks an image that
    has more than ``max_tokens * merge**2`` whole patches, then pads both sides up, which can end above ``max_tokens``.

    Example:
        1024 x 768 px in cells of 32 px: 32 * 24 = 768 tokens; in cells of 28 px, rounded: 37 * 27 = 999.
    """

    kind: Literal["pixel_grid"] = Field("pixel_grid", description="Names this rule.", examples=["pixel_grid"])
    patch: Positive = Field(description="Side of a patch in pixels.", examples=[14])
    merge: Positive = Field(description="Side of the square of patches that becomes one token.", examples=[2])
    min_tokens: Positive = Field(description="Fewest tokens of an image.", examples=[64])
    max_tokens: Positive = Field(description="Most tokens of an image.", examples=[16384])
    rounding: Literal["nearest", "up"] = Field(
        "nearest", description="How a side becomes a whole number of cells (see the rule).", examples=["up"]
    )

    def count(self, *, width: int, height: int) -> int:
        """Tokens of an image of ``width`` x ``height`` pixels."""
        _check_size(width, height)
        return self._count_up(width, height) if self.rounding == "up" else self._count_nearest(width, height)

    def frames(self, *, width: int, height: int, merge: int) -> tuple[int, int]:
        """Number of frames of the tower, and patches of each: one frame, the whole image."""
        return 1, self.count(width=width, height=height) * merge**2

    def _count_nearest(self, width: int, height: int) -> int:
        cell = self.patch * self.merge
        enlarge = max(1.0, cell / width, cell / height)
        wide, high = width * enlarge / cell, height * enlarge / cell  # the sides in cells, not yet whole
        columns, rows = round(wide), round(high)
        if columns * rows > self.max_tokens:
            shrink = math.sqrt(wide * high / self.max_tokens)
            return max(1, math.floor(wide / shrink)) * max(1, math.floor(high / shrink))
        if columns * rows < self.min_tokens:
            grow = math.sqrt(self.min_tokens / (wide * high))
            return math.ceil(wide * grow) * math.ceil(high * grow)
        return columns * rows

    def _count_up(self, width: int, height: int) -> int:
        patches = (width // self.patch) * (height // self.patch)
        limit = self.max_tokens * self.merge**2
        if patches > limit:
            scale = math.sqrt(limit / patches)
            width, height = int(width * scale), int(height * scale)
        cell = self.patch * self.merge
        return math.ceil(width / cell) * math.ceil(height / cell)


class DeepSeekTileTokens(Spec):
    """DeepSeek-VL2: one thumbnail and a grid of tiles, a line-end token after each row of patches, one separator.

    ``n = ceil(tile // patch / downsample)`` patches a side; tokens = n (n + 1) + 1 + n rows (n columns + 1). The grid,
    of at most ``max_tiles``, is the one that keeps most of the image's pixels, then the one that wastes least canvas.
    The processor stops cutting tiles when a prompt has more than two images; this rule is that of one or two.

    Example:
        tile 384, patch 14, downsample 2: n = 14; 1 tile: 210 + 1 + 14 * 15 = 421; 3 x 3: 211 + 42 * 43 = 2017.
    """

    kind: Literal["deepseek_tiles"] = Field("deepseek_tiles", description="Names this rule.", examples=["deepseek_tiles"])
    tile: Positive = Field(description="Side of a tile in pixels.", examples=[448])
    patch: Positive = Field(description="Side of a patch in pixels.", examples=[14])
    downsample: Positive = Field(description="Factor by which the projector reduces each side.", examples=[2])
    max_tiles: Positive = Field(description="Most tiles of an image, without the thumbnail.", examples=[12])

    def grid(self, *, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles; the first candidate wins a tie, as in the processor."""
        _check_size(width, height)
        best, kept, wasted = (1, 1), 0, math.inf
        for columns, rows in _grids(self.max_tiles):
            wide, high = columns * self.tile, rows * self.tile
            scale = min(wide / width, high / height)
            pixels = min(int(width * scale) * int(height * scale), width * height)
            waste = wide * high - pixels
            if pixels > kept or (pixels == kept and waste < wasted):
                best, kept, wasted = (columns, rows), pixels, waste
        return best

    def count(self, *, width: int, height: int) -> int:
        """Tokens of an image of ``width`` x ``height`` pixels."""
        columns, rows = self.grid(width=width, height=height)
        side = math.ceil(self.tile // self.patch / self.downsample)
        return side * (side + 1) + 1 + side * rows * (side * columns + 1)

    def frames(self, *, width: int, height: int, merge: int) -> tuple[int, int]:
        """Number of frames of the tower (with the thumbnail), and patches of each; ``merge`` has no effect."""
        columns, rows = self.grid(width=width, height=height)
        return columns * rows + 1, (self.tile // self.patch) ** 2


class InternVLTileTokens(Spec):
    """InternVL: the image is stretched to the grid of nearest aspect ratio; several tiles are joined by a thumbnail.

    Equal distances: a larger grid wins if the image has more than half of the grid's pixels. Grids of equal size are
    tried from narrow to wide (the original walks a Python set there).

    Example:
        256 tokens a tile: 448 x 448 px is 1 tile, 256; 896 x 448 px is 2 x 1 and a thumbnail, 3 * 256 = 768.
    """

    kind: Literal["internvl_tiles"] = Field("internvl_tiles", description="Names this rule.", examples=["internvl_tiles"])
    tile: Positive = Field(description="Side of a tile in pixels.", examples=[448])
    tokens_per_tile: Positive = Field(description="Tokens of a tile.", examples=[256])
    max_tiles: Positive = Field(description="Most tiles of an image, without the thumbnail.", examples=[12])
    thumbnail: bool = Field(True, description="Whether several tiles are joined by a thumbnail.", examples=[False])

    def grid(self, *, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles."""
        _check_size(width, height)
        best, distance = (1, 1), math.inf
        for columns, rows in sorted(_grids(self.max_tiles), key=lambda grid: (grid[0] * grid[1], grid[0])):
            difference = abs(width / height - columns / rows)
            enough = width * height > 0.5 * self.tile**2 * columns * rows
            if difference < distance or (difference == distance and enough):
                best, distance = (columns, rows), difference
        return best

    def count(self, *, width: int, height: int) -> int:
        """Tokens of an image of ``width`` x ``height`` pixels."""
        columns, rows = self.grid(width=width, height=height)
        return self.tokens_per_tile * self._tiles(columns * rows)

    def frames(self, *, width: int, height: int, merge: int) -> tuple[int, int]:
        """Number of frames of the tower (with the thumbnail), and patches of each; ``merge**2`` patches make a token."""
        columns, rows = self.grid(width=width, height=height)
        return self._tiles(columns * rows), self.tokens_per_tile * merge**2

    def _tiles(self, tiles: int) -> int:
        return tiles + (1 if self.thumbnail and tiles > 1 else 0)


class Llama4TileTokens(Spec):
    """Llama 4: tiles on the smallest canvas that holds the image without shrinking it, a global tile, separators.

    Tokens = 3 (start, image, end) + P for one tile, else P (tiles + 1) + tiles + 3: each tile is followed by one
    separator (between columns, or at the end of a row). If every canvas is too small, the one that shrinks least.

    Example:
        P = 144: 336 x 336 px is 147; 672 x 672 px is 4 tiles, 144 * 5 + 4 + 3 = 727.
    """

    kind: Literal["llama4_tiles"] = Field("llama4_tiles", description="Names this rule.", examples=["llama4_tiles"])
    tile: Positive = Field(description="Side of a tile in pixels.", examples=[448])
    tokens_per_tile: Positive = Field(description="Tokens of a tile.", examples=[256])
    max_tiles: Positive = Field(description="Most tiles of an image, without the thumbnail.", examples=[12])

    def grid(self, *, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles; of canvases with the same scale, the one of least area."""
        _check_size(width, height)
        scales = {
            (columns, rows): min(columns * self.tile / width, rows * self.tile / height)
            for columns, rows in _grids(self.max_tiles)
        }
        enlarging = [scale for scale in scales.values() if scale >= 1]
        chosen = min(enlarging) if enlarging else max(scales.values())
        return min((grid for grid, scale in scales.items() if scale == chosen), key=lambda grid: grid[0] * grid[1])

    def count(self, *, width: int, height: int) -> int:
        """Tokens of an image of ``width`` x ``height`` pixels."""
        columns, rows = self.grid(width=width, height=height)
        tiles = columns * rows
        if tiles == 1:
            return self.tokens_per_tile + 3
        return self.tokens_per_tile * (tiles + 1) + tiles + 3

    def frames(self, *, width: int, height: int, merge: int) -> tuple[int, int]:
        """Number of frames of the tower (with the global tile), and patches of each; ``merge**2`` patches make a token."""
        columns, rows = self.grid(width=width, height=height)
        tiles = columns * rows
        return tiles + (1 if tiles > 1 else 0), self.tokens_per_tile * merge**2


ImageTokens = Annotated[
    FixedImageTokens | PixelGridTokens | DeepSeekTileTokens | InternVLTileTokens | Llama4TileTokens,
    Field(discriminator="kind"),
]


def _grids(max_tiles: int) -> list[tuple[int, int]]:
    """Every (columns, rows) of at most ``max_tiles`` tiles, small first: (1, 1), (1, 2), (2, 1), (1, 3), ..."""
    grids: list[tuple[int, int]] = []
    for tiles in range(1, max_tiles + 1):
        for short in range(1, math.isqrt(tiles) + 1):
            if tiles % short == 0:
                grids += [(short, tiles // short)] + ([(tiles // short, short)] if short**2 != tiles else [])
    return grids
