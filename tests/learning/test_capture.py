"""Captured decisions against an independent recomputation by each model's own router, on tiny random models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers missing: pip install 'smoes-sim[learning]'")

import tiny_models
from torch import nn

from smoes_sim.errors import TraceError
from smoes_sim.learning.capture import capture, expert_layers, recording, token_modality
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import DECODE, PREFILL

ALL = list(tiny_models.MODELS)


@pytest.fixture(autouse=True)
def quiet_and_single() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def routers(model: nn.Module) -> dict[int, nn.Module]:
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            found[int(re.findall(r"\.layers\.(\d+)\.", name)[0])] = module
    return found


def recomputed(model: nn.Module, inputs: dict[str, Any]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Ids and weights of each layer, (B, T, K): what goes into each router is kept, then the router runs again alone."""
    kept: dict[int, torch.Tensor] = {}
    handles = []
    for layer, router in routers(model).items():
        keep = lambda module, args, output, layer=layer: kept.update({layer: args[0].detach().clone()})  # noqa: E731
        handles.append(router.register_forward_hook(keep))
    with torch.no_grad():
        model.eval()(**inputs)
    for handle in handles:
        handle.remove()
    size = inputs["input_ids"].shape
    found = {}
    for layer, states in kept.items():
        with torch.no_grad():
            _, weights, ids = routers(model)[layer](states)
        found[layer] = (ids.reshape(*size, -1), weights.reshape(*size, -1))
    return found


def rows_of(trace: RoutingTrace, sequence: int, phase: int) -> np.ndarray:
    return np.flatnonzero((trace.sequence_id == sequence) & (trace.phase == phase))


def assert_rows_equal(trace: RoutingTrace, rows: np.ndarray, wanted: dict[int, Any], row: int, columns: Any) -> None:
    assert trace.expert_weights is not None
    for index, layer in enumerate(trace.moe_layers.tolist()):
        ids, weights = wanted[layer]
        order_found, order_wanted = trace.expert_ids[rows, index].argsort(1), ids[row, columns].numpy().argsort(1)
        assert np.array_equal(
            np.take_along_axis(trace.expert_ids[rows, index], order_found, 1),
            np.take_along_axis(ids[row, columns].numpy(), order_wanted, 1),
        )
        assert np.allclose(
            np.take_along_axis(trace.expert_weights[rows, index].astype(float), order_found, 1),
            np.take_along_axis(weights[row, columns].numpy(), order_wanted, 1),
            atol=1e-3,
        )


@pytest.mark.parametrize("name", ALL)
def test_prefill_is_what_the_models_own_router_decides(name: str) -> None:
    model, inputs = tiny_models.build(name), tiny_models.batch(name)
    trace = capture(model, [inputs])
    wanted = recomputed(model, inputs)
    assert trace.moe_layers.tolist() == sorted(wanted)
    assert (trace.num_experts, trace.top_k) == (8, 2)
    assert (trace.phase == PREFILL).all()
    for row, padding in enumerate((0, 3, 1)):
        rows = rows_of(trace, row, PREFILL)
        assert len(rows) == 10 - padding
        assert_rows_equal(trace, rows, wanted, row, slice(padding, None))
        codes = inputs["input_ids"][row, padding:] == tiny_models.IMAGE_TOKEN
        assert trace.modality[rows].tolist() == codes.int().tolist()


@pytest.mark.parametrize("name", ["glm4v_moe", "deepseek_v3"])
def test_the_decision_is_not_the_top_of_the_logits(name: str) -> None:
    # what would go wrong without the hook on the experts: a selection bias and groups change the choice
    model, inputs = tiny_models.build(name), tiny_models.batch(name)
    logits: list[torch.Tensor] = []
    handles = [router.register_forward_hook(lambda m, a, out: logits.append(out[0])) for router in routers(model).values()]
    with recording(model) as record, torch.no_grad():
        model.eval()(**inputs)
    for handle in handles:
        handle.remove()
    naive = torch.stack([layer.reshape(30, 8).topk(2).indices.sort().values for layer in logits])
    decided = torch.stack([decision.expert_ids.sort().values for decision in record.passes[0].values()])
    assert (naive != decided).any()


@pytest.mark.parametrize("name", ALL)
def test_generated_tokens_are_decode_tokens(name: str) -> None:
    model, inputs = tiny_models.build(name), tiny_models.batch(name)
    trace = capture(model, [inputs], new_tokens=4)
    with torch.no_grad():
        produced = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    # the same tokens in one pass without a cache must be routed the same way
    whole = dict(inputs) | {"input_ids": produced}
    grown = torch.ones(3, 4, dtype=torch.long)
    whole["attention_mask"] = torch.cat([inputs["attention_mask"], grown], dim=1)
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], 0 * grown], dim=1)
    wanted = recomputed(model, whole)
    for row in range(3):
        ended = (produced[row, 10:] == tiny_models.END).nonzero()
        outputs = int(ended[0]) + 1 if len(ended) else 4
        rows = rows_of(trace, row, DECODE)
        assert len(rows) == outputs - 1
        assert_rows_equal(trace, rows, wanted, row, slice(10, 10 + outputs - 1))
        assert not trace.modality[rows].any()


def test_a_sequence_stops_decoding_at_its_end_token() -> None:
    model, inputs = tiny_models.build("olmoe"), tiny_models.batch("olmoe")
    with torch.no_grad():
        free = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    end = int(free[0, 11])  # the second output token of the first row
    model.generation_config.eos_token_id = [end, 94]
    model.generation_config.suppress_tokens += [94]
    trace = capture(model, [inputs], new_tokens=4)
    with torch.no_grad():
        ended = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    outputs = [1 + row.tolist().index(end) if end in row else len(row) for row in ended[:, 10:]]
    assert [len(rows_of(trace, row, DECODE)) for row in range(3)] == [count - 1 for count in outputs]
    assert outputs[0] <= 2 < max(outputs)


def test_batches_become_one_trace_in_the_order_of_a_workload() -> None:
    model = tiny_models.build("olmoe")
    batches = [tiny_models.batch("olmoe", seed=seed) for seed in (0, 1)]
    trace = capture(model, batches, new_tokens=2, metadata={"weights": "random"})
    assert (np.diff(trace.phase.astype(int)) >= 0).all()
    for phase in (PREFILL, DECODE):
        assert (np.diff(trace.sequence_id[trace.phase == phase]) >= 0).all()
    assert np.unique(trace.sequence_id).tolist() == list(range(6))
    assert trace.metadata == {"source": "capture", "model": "OlmoeForCausalLM", "hidden_layers": 3, "weights": "random"}


def test_modality_falls_back_to_placeholder_ids_and_can_be_given() -> None:
    model, inputs = tiny_models.build("qwen3_vl_moe"), tiny_models.batch("qwen3_vl_moe")
    codes = token_modality(model, {"input_ids": inputs["input_ids"]})
    assert torch.equal(codes, inputs["mm_token_type_ids"])
    assert torch.equal(token_modality(nn.Sequential(model), {"input_ids": inputs["input_ids"]}), codes)
    model, inputs = tiny_models.build("olmoe"), tiny_models.batch("olmoe")
    given = torch.zeros(3, 10, dtype=torch.long)
    given[:, 5:] = 2
    trace = capture(model, [inputs], modality_of=lambda _: given)
    assert trace.modality[rows_of(trace, 1, PREFILL)].tolist() == [0, 0, 2, 2, 2, 2, 2]
    with pytest.raises(TraceError, match=r"modality has the shape \(3, 9\); the batch has \(3, 10\)"):
        capture(model, [inputs], modality_of=lambda _: given[:, 1:])


def test_hooks_are_removed_and_the_mode_is_restored() -> None:
    model, inputs = tiny_models.build("olmoe").train(), tiny_models.batch("olmoe")
    capture(model, [inputs])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(RuntimeError), recording(model):
        raise RuntimeError
    assert not any(module._forward_pre_hooks for module in model.modules())


class DenseExperts(nn.Module):
    """Runs all experts on all tokens, like Llama 4's."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states


class Block(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(DenseExperts() for _ in range(count)) for _ in range(1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.layers[0][0](input_ids.float())


def test_models_whose_decisions_are_not_visible_are_refused() -> None:
    with pytest.raises(TraceError, match=r"Linear has no module of a class named \.\.\.Experts"):
        expert_layers(nn.Linear(2, 2))
    with pytest.raises(TraceError, match=r"layer 0: DenseExperts is called without chosen experts"):
        capture(Block(1), [{"input_ids": torch.ones(1, 3)}])
    with pytest.raises(TraceError, match=r"Block: layer 0 has several experts modules \(layers\.0\.1 is one\)"):
        expert_layers(Block(2))
    with pytest.raises(TraceError, match=r"there is no batch to capture"):
        capture(tiny_models.build("olmoe"), [])
    with pytest.raises(TraceError, match=r"neither input_ids nor inputs_embeds"):
        capture(tiny_models.build("olmoe"), [{}])
