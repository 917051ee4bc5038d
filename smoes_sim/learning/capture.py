"""Record the routing of a PyTorch model as a trace, by forward hooks on its experts.

Supported are models whose experts are modules of a class named ``...Experts`` that is called with the tokens, their chosen
experts (tokens, K) and, optionally, the routing weights: nearly all mixture-of-experts models of Hugging Face
transformers 5. The router logits alone do not give the decision: some models (DeepSeek-V3, GLM-4.5V) add a bias or choose
groups of experts first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smoes_sim.errors import TraceError
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.formats import SequenceRouting, trace_of
from smoes_sim.routing.trace import AUDIO, IMAGE, TEXT, VIDEO

Inputs = Mapping[str, Any]
"""Keyword arguments of the model for one batch: ``input_ids`` (B, T) or ``inputs_embeds`` (B, T, D), and the others."""
ModalityOf = Callable[[Inputs], Tensor]
"""Function that gives the modality codes of a batch, (B, T): 0 text, 1 image, 2 video, 3 audio."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Routing decision of one layer in one forward pass.

    Attributes:
        expert_ids: Chosen experts, shape (tokens, K).
        expert_weights: Routing weights, shape (tokens, K), or None.
    """

    expert_ids: Tensor
    expert_weights: Tensor | None


@dataclass(slots=True)
class Recording:
    """Decisions of every layer in every forward pass, in order.

    Attributes:
        passes: Decisions by layer index, one dictionary per pass.
    """

    passes: list[dict[int, Decision]] = field(default_factory=list)

    def add(self, layer: int, decision: Decision) -> None:
        """Add a decision; a second decision of the same layer starts the next pass."""
        if not self.passes or layer in self.passes[-1]:
            self.passes.append({})
        self.passes[-1][layer] = decision


def expert_layers(model: nn.Module) -> dict[int, nn.Module]:
    """Experts module of each MoE layer, by the layer's index in the model, in ascending order.

    Raises:
        TraceError: If there is none, or a layer has several (separate experts per modality).
    """
    found: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Experts"):
            numbers = re.findall(r"\.(\d+)\.", f".{name}.")
            layer = int(numbers[0]) if numbers else len(found)
            if layer in found:
                raise TraceError(
                    f"{type(model).__name__}: layer {layer} has several experts modules ({name} is one); separate experts "
                    "per modality are not supported. Capture a model with one set of experts per layer."
                )
            found[layer] = module
    if not found:
        raise TraceError(f"{type(model).__name__} has no module of a class named ...Experts. Is it a mixture of experts?")
    return dict(sorted(found.items()))


@contextmanager
def recording(model: nn.Module) -> Iterator[Recording]:
    """Record the routing decisions of a model inside the block; the hooks are removed at its end.

    Raises:
        TraceError: If the model has no experts, or its experts are called without chosen experts.
    """
    record = Recording()
    with ExitStack() as hooks:
        for layer, module in expert_layers(model).items():
            handle = module.register_forward_pre_hook(_hook(record, layer), with_kwargs=True)
            hooks.callback(handle.remove)
        yield record


def _hook(record: Recording, layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        ids = [value for value in tensors if value.dim() == 2 and not value.is_floating_point()]
        if not ids:
            raise TraceError(
                f"layer {layer}: {type(module).__name__} is called without chosen experts (it runs them all?), so the "
                "router's decision is not visible. Capture another model."
            )
        weights = [value for value in tensors if value.is_floating_point() and value.shape == ids[0].shape]
        record.add(layer, Decision(ids[0].detach().cpu(), weights[0].detach().cpu() if weights else None))

    return observe


def token_modality(model: nn.Module, inputs: Inputs) -> Tensor:
    """Modality codes of a batch, shape (B, T): the processor's token types, or by the config's placeholder ids."""
    if inputs.get("mm_token_type_ids") is not None:
        return _tensor(inputs["mm_token_type_ids"]).cpu()
    size = batch_shape(inputs)
    codes = torch.full(size, TEXT)
    ids = inputs.get("input_ids")
    config = _config(model)
    for code, name in ((IMAGE, "image_token_id"), (VIDEO, "video_token_id"), (AUDIO, "audio_token_id")):
        placeholder = getattr(config, name, None)
        if ids is not None and placeholder is not None:
            codes[ids.cpu() == placeholder] = code
    return codes


def capture(
    model: nn.Module,
    batches: Iterable[Inputs],
    *,
    new_tokens: int = 1,
    modality_of: ModalityOf | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> RoutingTrace:
    """Routing trace of a model that runs some batches.

    Args:
        model: The model; set to evaluation mode for the run. Inputs must be on its device.
        batches: Inputs of the model. Padding (``attention_mask`` 0) is left out of the trace. Pad on the left to generate.
        new_tokens: Output tokens per sequence, generated greedily by the model's ``generate``. The prefill gives the first,
            each further one is a decode step. A sequence that reaches its end token has fewer.
        modality_of: Modality codes of a batch, (B, T); default: :func:`token_modality`.
        metadata: JSON values to store in the trace.

    Raises:
        TraceError: If the experts of the model cannot be observed, or received other tokens than those of the batch.
    """
    modality_of = modality_of or (lambda inputs: token_modality(model, inputs))
    was_training = model.training
    model.eval()
    sequences: list[SequenceRouting] = []
    try:
        with torch.no_grad():
            for inputs in batches:
                sequences += _capture_batch(model, inputs, modality_of(inputs), new_tokens=new_tokens)
    finally:
        model.train(was_training)
    if not sequences:
        raise TraceError("there is no batch to capture. Give at least one.")
    layers = expert_layers(model)
    return trace_of(
        sequences,
        num_experts=num_experts(next(iter(layers.values()))),
        moe_layers=np.array(list(layers), dtype=np.int32),
        metadata={"source": "capture", "model": type(model).__name__, **_hidden_layers(model), **(metadata or {})},
    )


def _hidden_layers(model: nn.Module) -> dict[str, int]:
    """Number of layers of a Hugging Face model, dense ones included; placement files have a row for each."""
    config = _config(model)
    return {} if config is None else {"hidden_layers": int(config.get_text_config().num_hidden_layers)}


def _config(model: nn.Module) -> Any:
    """Configuration of a Hugging Face model, also inside a wrapper such as data parallel; None for other models."""
    return next((part.config for part in model.modules() if hasattr(part, "config")), None)


def num_experts(module: nn.Module) -> int:
    """Number of experts of an experts module: its ``num_experts``, or the length of its first stacked weight."""
    declared = getattr(module, "num_experts", None)
    return int(declared) if declared is not None else len(next(module.parameters()))


def _capture_batch(model: nn.Module, inputs: Inputs, modality: Tensor, *, new_tokens: int) -> list[SequenceRouting]:
    size = batch_shape(inputs)
    if tuple(modality.shape) != size:
        raise TraceError(f"modality has the shape {tuple(modality.shape)}; the batch has {size}. Give one code per token.")
    mask = inputs.get("attention_mask")
    is_token = torch.ones(size, dtype=torch.bool) if mask is None else _tensor(mask).cpu() != 0
    with recording(model) as record:
        outputs = _generate(model, inputs, new_tokens=new_tokens)
    layers = list(expert_layers(model))
    prompt = _pass_arrays(record.passes[0], layers, size)
    steps = [_pass_arrays(one, layers, (size[0], 1)) for one in record.passes[1:]]
    sequences = []
    for row in range(size[0]):
        kept = is_token[row].numpy()
        parts = [tuple(array[row][kept] for array in prompt)]
        parts += [tuple(array[row] for array in step) for step in steps[: outputs[row] - 1]]
        arrays = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        codes = np.full(len(arrays[0]), TEXT, dtype=np.uint8)
        codes[: kept.sum()] = modality[row].numpy()[kept]
        sequences.append(
            SequenceRouting(
                expert_ids=arrays[0],
                modality=codes,
                prompt_tokens=int(kept.sum()),
                expert_weights=arrays[1] if len(arrays) > 1 else None,
            )
        )
    return sequences


def _generate(model: nn.Module, inputs: Inputs, *, new_tokens: int) -> list[int]:
    """Run the batch and return the number of output tokens of each row, its end token included."""
    rows, length = batch_shape(inputs)
    if new_tokens == 1:
        model(**inputs)
        return [1] * rows
    generate: Any = model.generate
    produced = generate(**inputs, max_new_tokens=new_tokens, do_sample=False, num_beams=1, use_cache=True)
    prompt = length if inputs.get("input_ids") is not None else 0  # with inputs_embeds, generate returns the new tokens only
    config: Any = model.generation_config
    ends = torch.tensor(config.eos_token_id if config.eos_token_id is not None else []).reshape(-1)
    counts = []
    for row in produced[:, prompt:].cpu():
        stops = torch.isin(row, ends).nonzero()
        counts.append(int(stops[0]) + 1 if len(stops) else len(row))
    return counts


def _pass_arrays(decisions: Mapping[int, Decision], layers: Sequence[int], size: tuple[int, int]) -> list[NDArray[Any]]:
    """Expert ids of one pass, and routing weights if every layer has them; shape (B, T, L, K) each."""
    if list(decisions) != list(layers):
        raise TraceError(
            f"layers {sorted(set(layers) - set(decisions))} did not run in a pass. Capture a complete forward pass."
        )
    for layer, decision in decisions.items():
        if len(decision.expert_ids) != size[0] * size[1]:
            raise TraceError(
                f"layer {layer}: the experts received {len(decision.expert_ids)} tokens; the batch has "
                f"{size[0]} x {size[1]}. Models that route parts of a batch separately are not supported."
            )
    ids = torch.stack([decisions[layer].expert_ids for layer in layers], dim=1)
    arrays = [ids.reshape(*size, *ids.shape[1:]).numpy().astype(np.int16)]
    weights = [decisions[layer].expert_weights for layer in layers]
    known = [weight.float() for weight in weights if weight is not None]
    if len(known) == len(weights):
        stacked = torch.stack(known, dim=1)
        arrays.append(stacked.reshape(*size, *stacked.shape[1:]).numpy().astype(np.float16))
    return arrays


def batch_shape(inputs: Inputs) -> tuple[int, int]:
    """Number of sequences and of tokens per sequence of a batch, (B, T)."""
    for name in ("input_ids", "inputs_embeds"):
        if inputs.get(name) is not None:
            rows, columns = inputs[name].shape[:2]
            return int(rows), int(columns)
    raise TraceError("a batch has neither input_ids nor inputs_embeds. Give one of them.")


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(values)
