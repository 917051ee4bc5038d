"""The vision tower: a transformer over the patches of an image, and the projector to the language model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from smoes_sim.yaml_files import Spec

Positive = Annotated[int, Field(ge=1)]


class VisionTower(Spec):
    """Sizes of a vision transformer and of the two-layer projector behind it.

    Every patch attends to all patches of its frame (a tile, or the whole image at native resolution). ``gated`` towers
    have three matrices in the feed-forward part, others two. ``class_tokens`` join each frame. The projector reads
    ``merge**2`` neighbouring patches at once: hidden * merge**2 -> ``projector`` -> the language model's width.

    Example:
        CLIP ViT-L/14 (24 layers, 1024, 4096): 24 * (4 * 1024**2 + 2 * 1024 * 4096) = 301 989 888 parameters in its layers.
    """

    layers: Positive = Field(description="Number of transformer layers.", examples=[24])
    hidden: Positive = Field(description="Width of the tower.", examples=[1024])
    ffn: Positive = Field(description="Width of the feed-forward part.", examples=[4096])
    gated: bool = Field(
        False, description="Whether the feed-forward part is gated (three matrices, not two).", examples=[True]
    )
    patch: Positive = Field(description="Side of a patch in pixels.", examples=[14])
    class_tokens: int = Field(0, ge=0, description="Class tokens added to each frame.", examples=[1])
    merge: Positive = Field(
        1, description="Side of the square of patches that the projector joins into a token.", examples=[2]
    )
    projector: Positive = Field(description="Inner width of the projector.", examples=[2048])
    source: str = Field(description="Where the numbers are from.", examples=["config.json of the tower"])

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four attention matrices and the feed-forward ones."""
        return 4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.ffn

    def projector_parameters(self, width: int) -> int:
        """Parameters of the projector to a language model of ``width``."""
        return self.projector * (self.hidden * self.merge**2 + width)

    def parameters(self, width: int) -> int:
        """All parameters: patch embedding (3 colours), layers, projector."""
        embedding = 3 * self.patch**2 * self.hidden
        return embedding + self.layers * self.layer_parameters + self.projector_parameters(width)

    def image_flops(self, *, frames: int, patches: int, width: int) -> float:
        """Floating-point operations of one image.

        Per frame of P tokens: 2 P (embedding + layers) + 4 hidden P**2 per layer for scores and weighted values; the
        projector once per ``merge**2`` patches.

        Args:
            frames: Tiles, or 1.
            patches: Patches of a frame.
            width: Hidden width of the language model.

        Example:
            CLIP ViT-L/14 at 336 px, 576 patches and a class token, projector 2048 to 2048: 0.001 + 0.381 + 0.007 =
            0.389 TFLOP.
        """
        tokens = patches + self.class_tokens
        embedding = 2 * 3 * self.patch**2 * self.hidden * patches
        layers = self.layers * (2 * self.layer_parameters * tokens + 4 * self.hidden * tokens**2)
        projector = 2 * self.projector_parameters(width) * patches / self.merge**2
        return float(frames * (embedding + layers + projector))
