"""How large is a model: layers, experts, parameters, bytes, and the number of tokens of an image?

Main type: :class:`~smoes_sim.models.shapes.ModelShape`; :func:`~smoes_sim.models.shapes.find_model` resolves a shipped
name. Neighbours: ``workload`` turns a shape and a batch into tokens, ``compute`` turns work on tokens into seconds.
"""

from smoes_sim.models.attention import LatentAttention, LayerAttention
from smoes_sim.models.image_tokens import ImageTokens
from smoes_sim.models.shapes import ModelShape, dense_equal, find_model, model_names

__all__ = ["ImageTokens", "LatentAttention", "LayerAttention", "ModelShape", "dense_equal", "find_model", "model_names"]
