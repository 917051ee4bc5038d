"""SMoES for a Hugging Face model that is being trained, without changing the model's code.

::

    with attach(model, num_bins=8) as smoes:
        for inputs in batches:
            loss = model(**inputs).loss + smoes.losses().total
            loss.backward()
            ...

While the block runs, hooks watch every router and, for the attention score, every decoder layer; transformers' ``sdpa``
attention carries the scores as extra channels of the value (``sum_j A_ij M_j`` is attention's output for the value M), so
no attention map is ever stored and the model's own output does not change. Afterwards everything is as before.

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
"""Weights of the two losses in SMoES (arXiv 2604.23996): a_MI and a_bal."""


@dataclass(frozen=True, slots=True)
class SmoesLosses:
    """Losses of one forward pass, summed over layers.

    Attributes:
        inter_bin: Minus the mutual information of modality and bin, at least - ln 2 a layer.
        balance: Bin balance as printed or within bins.
        total: Their weighted sum, to be added to the task's loss.
    """

    inter_bin: Tensor
    balance: Tensor
    total: Tensor


@dataclass(slots=True)
class _Seen:
    """What one layer did in the last forward pass: probabilities (N, E), chosen experts (N, K), scores (B, T, M)."""

    probabilities: Tensor
    expert_ids: Tensor
    scores: Tensor


@dataclass(slots=True)
class _Pass:
    """The forward pass that runs: labels (B, T), real tokens (B, T), scores (B, T, M) and what the layers did."""

    modality: Tensor
    is_token: Tensor
    scores: Tensor
    layers: dict[int, _Seen]
    residual: Tensor | None = None
    attended: Tensor | None = None


class Attached:
    """Statistics and losses of a model that :func:`attach` watches.

    Attributes:
        bins: Expert bins of each layer that has experts, by its index.
        gaussians: Gaussian statistics of each such layer; none for other scores.
        statistics: Both as one module, whose ``state_dict`` belongs into a checkpoint.
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
        self.current: _Pass | None = None

    def losses(self) -> SmoesLosses:
        """Losses of the last forward pass; brings its chosen experts into the bins first. Call once a pass.

        Raises:
            ConfigError: If there was no pass with gradients since the last call.
        """
        seen, self.current = self.current, None
        if seen is None or list(seen.layers) != list(self.bins):
            raise ConfigError("losses() needs a whole forward pass with gradients before it. Call it once after each.")
        kept = seen.is_token.flatten()
        labels = hard_scores(seen.modality) * seen.is_token[..., None]
        has_all = (labels.sum(dim=1) > 0).all(dim=-1)
        inter_bin, balance = [], []
        for layer, step in seen.layers.items():
            ids = step.expert_ids[kept]
            self.bins[layer].update(ids, seen.modality.flatten()[kept])
            bins = self.bins[layer].assignment()
            shaped = step.probabilities.view(*seen.is_token.shape, -1)
            scores = step.scores.masked_fill(~seen.is_token[..., None], 0.0)
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
    """Watch a model while the block runs and give the losses of SMoES for each forward pass.

    Probabilities are the softmax of the router's logits; for routers with a selection bias (DeepSeek-V3, GLM-4.5V) the
    sigmoid scores divided by their sum. Attention dropout, if any, acts on carried scores too.

    Args:
        model: A causal language model of transformers, with or without vision, in any floating type.
        num_bins: Must divide the number of experts.
        score: ``attention`` (needs the ``sdpa`` attention), ``gaussian`` (of what the router sees) or ``hard``.
        inter_bin_weight: a_MI.
        balance_weight: a_bal.
        reading: See :func:`smoes_sim.learning.losses.bin_balance_loss`.
        decay: Momentum of bins and Gaussian statistics.
        is_adaptive: False keeps the model's expert order.
        modality_of: Codes of a batch's tokens; by default :func:`smoes_sim.learning.capture.token_modality`.

    Raises:
        ConfigError: If the model cannot be watched this way; says what it lacks.
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
    """Gaussian statistics of what each router sees."""
    return {
        layer: GaussianScores(router.weight.shape[1], decay=decay).to(_device(router)) for layer, router in routers.items()
    }


def _start_hook(attached: Attached, modality_of: ModalityOf) -> Callable[..., None]:
    def begin(module: nn.Module, args: tuple[Any, ...], inputs: Inputs) -> None:
        attached.current = None
        if not torch.is_grad_enabled():
            return
        if module.training and any(getattr(part, "gradient_checkpointing", False) for part in module.modules()):
            raise ConfigError("gradient checkpointing runs layers twice, and losses would count both. Turn it off.")
        if args:
            raise ConfigError(
                "the model was called with positional arguments; modality is read by name. Use model(**inputs)."
            )
        size = batch_shape(inputs)
        modality = modality_of(inputs)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape != torch.Size(size):
            raise ConfigError(
                f"attention_mask has the shape {tuple(mask.shape)}; the batch has {size}. Pass a mask of padding."
            )
        device = _device(module)
        is_token = torch.ones(size, dtype=torch.bool) if mask is None else mask != 0
        modality, is_token = modality.to(device), is_token.to(device)
        attached.current = _Pass(modality, is_token, hard_scores(modality), {})

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
        current.layers[layer] = _Seen(_probabilities(router, logits), ids.view(len(logits), -1), scores)

    return observe


def _probabilities(router: nn.Module, logits: Tensor) -> Tensor:
    precise = logits.float()
    if not hasattr(router, "e_score_correction_bias"):
        return precise.softmax(dim=-1)
    scores = precise.sigmoid()
    return scores / scores.sum(dim=-1, keepdim=True)


def _watch_attention(hooks: ExitStack, model: nn.Module, attached: Attached) -> None:
    """Keep what enters each decoder layer, and mix the scores when its attention is done."""

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (current := attached.current) is not None:
            current.residual = (args[0] if args else kwargs["hidden_states"]).detach()

    def mix(attention: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if (current := attached.current) is None:
            return
        if current.attended is None or current.residual is None:
            raise ConfigError(f"{type(attention).__name__} does not use transformers' sdpa attention. Use score gaussian.")
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
    """Replace transformers' ``sdpa`` by one that carries scores through this model's attention, and nobody else's."""
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    own = {id(layer.self_attn) for layer in _decoder_layers(model)}

    def carry(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        current = attached.current
        if current is None or id(module) not in own:
            return original(module, query, key, value, *args, **kwargs)
        if key.shape[2] != current.scores.shape[1]:
            raise ConfigError(
                f"attention sees {key.shape[2]} tokens, the batch has {current.scores.shape[1]}. Train without a cache."
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
        raise ConfigError(f"{type(model).__name__} has decoder layers without self_attn (or none). Use score gaussian.")
    return found


def _routers(model: nn.Module, experts: dict[int, nn.Module]) -> dict[int, Any]:
    """The router beside each experts module: a module of a class named ``...Router`` in the same parent."""
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}
    found = {}
    for layer, module in experts.items():
        siblings = parents[id(module)].children()
        beside = [child for child in siblings if type(child).__name__.lower().endswith("router")]
        if len(beside) != 1:
            raise ConfigError(f"layer {layer}: {len(beside)} routers beside {type(module).__name__}; one is needed.")
        found[layer] = beside[0]
    return found


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
