"""Train a Hugging Face model with the losses of SMoES, without changes to the model's code.

::

    with attach(model, num_bins=8) as smoes:
        for inputs in batches:
            loss = model(**inputs).loss + smoes.losses().total
            loss.backward()
            ...

Inside the block, hooks observe every router and, for the attention score, every decoder layer. The ``sdpa`` attention of
transformers carries the scores as extra channels of the value (``sum_j A_ij M_j`` is the output of attention for the value
M), so no attention map is stored and the model's own output does not change. At the end of the block all hooks are removed.

Shape letters: B sequences, T tokens of a padded sequence, N = B T, E experts, K chosen experts, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from smoes_sim.errors import ConfigError
from smoes_sim.learning.bins import ExpertBins
from smoes_sim.learning.capture import Inputs, ModalityOf, batch_shape, expert_layers, num_experts, token_modality
from smoes_sim.learning.losses import Reading, bin_balance_loss, inter_bin_loss
from smoes_sim.learning.scores import GaussianScores, accumulate_scores, hard_scores

Score = Literal["attention", "gaussian", "hard"]
_PAPER = {"inter_bin": 1e-4, "balance": 1e-3}
"""Weights of the two losses in the SMoES paper (arXiv 2604.23996): a_MI and a_bal."""


@dataclass(frozen=True, slots=True)
class SmoesLosses:
    """Losses of one forward pass, summed over layers; scalars.

    Attributes:
        inter_bin: Minus the mutual information of modality and bin, nats; at least -ln 2 per layer.
        balance: Bin balance loss.
        total: Weighted sum of the two; add it to the task loss.
    """

    inter_bin: Tensor
    balance: Tensor
    total: Tensor


@dataclass(slots=True)
class _LayerPass:
    """One layer in the last forward pass: probabilities (N, E), chosen experts (N, K), scores (B, T, M)."""

    probabilities: Tensor
    expert_ids: Tensor
    scores: Tensor


@dataclass(slots=True)
class _ForwardPass:
    """The current forward pass: labels (B, T), mask of real tokens (B, T), scores (B, T, M), finished layers."""

    modality: Tensor
    is_token: Tensor
    scores: Tensor
    layers: dict[int, _LayerPass]
    residual: Tensor | None = None
    attended: Tensor | None = None


class Attached:
    """Statistics and losses of a model inside an :func:`attach` block.

    Attributes:
        bins: Expert bins of each MoE layer, by its index.
        gaussians: Gaussian statistics of each MoE layer; empty for other scores.
        statistics: Both as one module; save its ``state_dict`` in checkpoints.
    """

    def __init__(
        self,
        bins: dict[int, ExpertBins],
        gaussians: dict[int, GaussianScores],
        *,
        inter_bin_weight: float,
        balance_weight: float,
        reading: Reading,
    ) -> None:
        self.bins, self.gaussians = bins, gaussians
        parts: dict[str, Mapping[int, nn.Module]] = {"bins": bins, "gaussians": gaussians}
        self.statistics = nn.ModuleDict(
            {name: nn.ModuleDict({str(layer): module for layer, module in part.items()}) for name, part in parts.items()}
        )
        self._inter_bin_weight, self._balance_weight, self._reading = inter_bin_weight, balance_weight, reading
        self.current: _ForwardPass | None = None

    def losses(self) -> SmoesLosses:
        """Losses of the last forward pass, after its chosen experts have updated the bins. Call once per pass.

        Raises:
            ConfigError: If there was no forward pass with gradients since the last call.
        """
        last, self.current = self.current, None
        if last is None or list(last.layers) != list(self.bins):
            raise ConfigError("losses() needs a complete forward pass with gradients before it. Call it once per pass.")
        kept = last.is_token.flatten()
        labels = hard_scores(last.modality) * last.is_token[..., None]
        has_all = (labels.sum(dim=1) > 0).all(dim=-1)
        inter_bin, balance = [], []
        for layer, step in last.layers.items():
            ids = step.expert_ids[kept]
            self.bins[layer].update(ids, last.modality.flatten()[kept])
            bins = self.bins[layer].assignment()
            shaped = step.probabilities.view(*last.is_token.shape, -1)
            scores = step.scores.masked_fill(~last.is_token[..., None], 0.0)
            inter_bin.append(inter_bin_loss(shaped, scores, bins, is_used=has_all))
            balance.append(bin_balance_loss(step.probabilities[kept], ids, bins, reading=self._reading))
        information, evenness = torch.stack(inter_bin).sum(), torch.stack(balance).sum()
        total = self._inter_bin_weight * information + self._balance_weight * evenness
        return SmoesLosses(inter_bin=information, balance=evenness, total=total)


@contextmanager
def attach(
    model: nn.Module,
    *,
    num_bins: int,
    score: Score = "attention",
    inter_bin_weight: float = _PAPER["inter_bin"],
    balance_weight: float = _PAPER["balance"],
    reading: Reading = "printed",
    decay: float = 0.99,
    is_adaptive: bool = True,
    modality_of: ModalityOf | None = None,
) -> Iterator[Attached]:
    """Observe a model inside the block and compute the losses of SMoES for each forward pass.

    Probabilities are the softmax of the router logits; for routers with a selection bias (DeepSeek-V3, GLM-4.5V) the
    sigmoid scores divided by their sum. Attention dropout, if any, also applies to the carried scores.

    Args:
        model: A causal language model of transformers, with or without vision, of any floating-point type.
        num_bins: Number of bins; divides the number of experts.
        score: ``attention`` (needs the ``sdpa`` attention), ``gaussian`` (from the router's input) or ``hard``.
        inter_bin_weight: Weight of the inter-bin loss, a_MI.
        balance_weight: Weight of the bin balance loss, a_bal.
        reading: Form of the bin balance loss, see :func:`smoes_sim.learning.losses.bin_balance_loss`.
        decay: Decay of the running statistics per forward pass.
        is_adaptive: False for bins in the model's expert order.
        modality_of: Modality codes of a batch, (B, T); default: :func:`smoes_sim.learning.capture.token_modality`.

    Raises:
        ConfigError: If the model cannot be observed this way; the message says what it lacks.
    """
    experts = expert_layers(model)
    bins = {
        layer: ExpertBins(num_experts(module), num_bins, decay=decay, is_adaptive=is_adaptive).to(_device(module))
        for layer, module in experts.items()
    }
    routers = _routers(model, experts)
    gaussians = _gaussians(routers, decay) if score == "gaussian" else {}
    attached = Attached(bins, gaussians, inter_bin_weight=inter_bin_weight, balance_weight=balance_weight, reading=reading)
    with ExitStack() as hooks:
        start = _start_hook(attached, modality_of or (lambda inputs: token_modality(model, inputs)))
        _watch(hooks, model.register_forward_pre_hook(start, with_kwargs=True))
        for layer, router in routers.items():
            _watch(hooks, router.register_forward_hook(_router_hook(attached, layer)))
        if score == "attention":
            _watch_attention(hooks, model, attached)
            hooks.enter_context(_carrying_attention(model, attached))
        yield attached
    attached.current = None


def _watch(hooks: ExitStack, handle: Any) -> None:
    hooks.callback(handle.remove)


def _gaussians(routers: Mapping[int, Any], decay: float) -> dict[int, GaussianScores]:
    """Gaussian statistics of each router's input."""
    return {
        layer: GaussianScores(router.weight.shape[1], decay=decay).to(_device(router)) for layer, router in routers.items()
    }


def _start_hook(attached: Attached, modality_of: ModalityOf) -> Callable[..., None]:
    def begin(module: nn.Module, args: tuple[Any, ...], inputs: Inputs) -> None:
        attached.current = None
        if not torch.is_grad_enabled():
            return
        if module.training and any(getattr(part, "gradient_checkpointing", False) for part in module.modules()):
            raise ConfigError("gradient checkpointing runs layers twice, and the losses would count both runs. Turn it off.")
        if args:
            raise ConfigError(
                "the model was called with positional arguments; the modality is read from named ones. Use model(**inputs)."
            )
        size = batch_shape(inputs)
        modality = modality_of(inputs)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape != torch.Size(size):
            raise ConfigError(
                f"attention_mask has the shape {tuple(mask.shape)}; the batch has {size}. Pass a mask of the padding."
            )
        device = _device(module)
        is_token = torch.ones(size, dtype=torch.bool) if mask is None else mask != 0
        modality, is_token = modality.to(device), is_token.to(device)
        attached.current = _ForwardPass(modality, is_token, hard_scores(modality), {})

    return begin


def _router_hook(attached: Attached, layer: int) -> Callable[..., None]:
    def observe(router: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if (current := attached.current) is None:
            return
        logits, _, ids = output
        scores = current.scores
        if layer in attached.gaussians:
            gaussian = attached.gaussians[layer]
            states = args[0].detach().view(*current.is_token.shape, -1)
            gaussian.update(states[current.is_token], current.modality[current.is_token])
            scores = gaussian(states)
        current.layers[layer] = _LayerPass(_probabilities(router, logits), ids.view(len(logits), -1), scores)

    return observe


def _probabilities(router: nn.Module, logits: Tensor) -> Tensor:
    precise = logits.float()
    if not hasattr(router, "e_score_correction_bias"):
        return precise.softmax(dim=-1)
    scores = precise.sigmoid()
    return scores / scores.sum(dim=-1, keepdim=True)


def _watch_attention(hooks: ExitStack, model: nn.Module, attached: Attached) -> None:
    """Keep the input of each decoder layer, and accumulate the scores after its attention."""

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (current := attached.current) is not None:
            current.residual = (args[0] if args else kwargs["hidden_states"]).detach()

    def mix(attention: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if (current := attached.current) is None:
            return
        if current.attended is None or current.residual is None:
            raise ConfigError(
                f"{type(attention).__name__} does not use the sdpa attention of transformers. Use score gaussian."
            )
        added = (output[0] if isinstance(output, tuple) else output).detach()
        current.scores = accumulate_scores(
            current.scores, current.attended, residual=current.residual, attention_output=added
        )
        current.attended = None

    for layer in _decoder_layers(model):
        attention: Any = layer.self_attn
        kind = attention.config._attn_implementation
        if kind != "sdpa":
            raise ConfigError(
                f'attention is "{kind}"; the attention score is carried by "sdpa". Load the model with '
                "attn_implementation sdpa, or use score gaussian."
            )
        _watch(hooks, layer.register_forward_pre_hook(enter, with_kwargs=True))
        _watch(hooks, attention.register_forward_hook(mix))


@contextmanager
def _carrying_attention(model: nn.Module, attached: Attached) -> Iterator[None]:
    """Replace the ``sdpa`` of transformers by one that carries scores, through the attention of this model only.

    Why not the public way: a function registered under a new name (``AttentionInterface.register``) would need a change of
    the model's configuration, which selects attention and masks by name. Assignment to ``"sdpa"`` is public, but restoring
    is not: an assigned default would hide functions registered later, and ``del`` would lose an override that was there
    before. Hence ``_local_mapping``; it exists in all versions that pyproject.toml allows (transformers 5.24 up to 6).
    """
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    own = {id(layer.self_attn) for layer in _decoder_layers(model)}

    def carry(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        current = attached.current
        if current is None or id(module) not in own:
            return original(module, query, key, value, *args, **kwargs)
        if key.shape[2] != current.scores.shape[1]:
            raise ConfigError(
                f"attention has {key.shape[2]} keys, the batch has {current.scores.shape[1]}. Train without a cache."
            )
        extra = current.scores.to(value.dtype)[:, None].expand(-1, value.shape[1], -1, -1)
        wide, rest = original(module, query, key, torch.cat([value, extra], dim=-1), *args, **kwargs)
        output, carried = wide.split([value.shape[-1], extra.shape[-1]], dim=-1)
        current.attended = carried.detach().mean(dim=2).to(current.scores.dtype)
        return output.contiguous(), rest

    local: dict[str, Any] = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = dict(local)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = carry
    try:
        yield
    finally:
        local.clear()
        local.update(before)


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    found = [module for module in model.modules() if type(module).__name__.endswith("DecoderLayer")]
    lacking = [layer for layer in found if not hasattr(layer, "self_attn")]
    if not found or lacking:
        raise ConfigError(f"{type(model).__name__} has no decoder layers with self_attn. Use score gaussian.")
    return found


def _routers(model: nn.Module, experts: dict[int, nn.Module]) -> dict[int, Any]:
    """Router of each MoE layer: the module of a class named ``...Router`` in the parent of the experts module."""
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}
    found = {}
    for layer, module in experts.items():
        siblings = parents[id(module)].children()
        beside = [child for child in siblings if type(child).__name__.lower().endswith("router")]
        if len(beside) != 1:
            raise ConfigError(f"layer {layer}: {len(beside)} routers beside {type(module).__name__}; exactly one is needed.")
        found[layer] = beside[0]
    return found


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
