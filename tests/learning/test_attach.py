"""SMoES on tiny random Hugging Face models: observed values are right, training works, every hook is removed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers missing: pip install 'smoes-sim[capture]'")

import tiny_models
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from smoes_sim.errors import ConfigError
from smoes_sim.learning.attach import attach
from smoes_sim.learning.capture import capture
from smoes_sim.learning.scores import accumulate_scores, attended_scores, hard_scores
from smoes_sim.routing import modality_specialisation

ALL = list(tiny_models.MODELS)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def halves(inputs: Any) -> torch.Tensor:
    """For models without images: tokens above 40 are called vision."""
    return (inputs["input_ids"] > 40).long()


def labelled(name: str) -> dict[str, Any]:
    """Keyword arguments of attach that tell it the modality where the model's inputs do not."""
    return {} if name in tiny_models.WITH_IMAGES else {"modality_of": halves}


@pytest.mark.parametrize("name", ALL)
def test_the_carried_score_is_that_of_explicit_attention_maps(name: str) -> None:
    inputs = tiny_models.batch(name)
    model = tiny_models.build(name).eval()
    plain = model(**inputs).logits
    with attach(model, num_bins=4, **labelled(name)) as smoes:
        logits = model(**inputs).logits
        assert smoes.current is not None
        found = {layer: seen.scores for layer, seen in smoes.current.layers.items()}
    assert torch.allclose(logits, plain, atol=1e-5)

    model.set_attn_implementation("eager")
    residuals, added = [], []
    handles = []
    for layer in [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")]:
        enter = lambda m, args, kwargs: residuals.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
        handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(layer.self_attn.register_forward_hook(lambda m, args, out: added.append(out)))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    codes = inputs.get("mm_token_type_ids", halves(inputs))
    scores, wanted = hard_scores(codes), {}
    for index, (residual, (output, maps)) in enumerate(zip(residuals, added, strict=True)):
        scores = accumulate_scores(scores, attended_scores(maps, scores), residual=residual, attention_output=output)
        wanted[index] = scores
    real = inputs["attention_mask"] != 0
    assert found.keys() <= wanted.keys()
    for layer, score in found.items():
        assert torch.allclose(score[real], wanted[layer][real], atol=1e-5)
        assert (score[real] - hard_scores(codes)[real]).abs().max() > 1e-3


def losses_of(name: str, score: Any, **changes: Any) -> tuple[torch.nn.Module, list[float], list[float]]:
    """Train on the task and the losses of SMoES; mutual information and total loss by step."""
    model = tiny_models.build(name, seed=1).train()
    inputs = tiny_models.batch(name)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    settings: dict[str, Any] = {"num_bins": 4, "inter_bin_weight": 3.0, "balance_weight": 0.01, "decay": 0.5}
    information, totals = [], []
    with attach(model, score=score, **settings | labelled(name) | changes) as smoes:
        for _ in range(40):
            optimizer.zero_grad()
            task = model(**inputs, labels=labels).loss
            losses = smoes.losses()
            (task + losses.total).backward()
            optimizer.step()
            information.append(-losses.inter_bin.item() / len(smoes.bins))
            totals.append((task + losses.total).item())
    return model, information, totals


@pytest.mark.parametrize(("name", "score"), [("olmoe", "attention"), ("qwen3_vl_moe", "attention"), ("olmoe", "gaussian"),
                                             ("deepseek_v3", "hard"), ("glm4v_moe", "gaussian")])  # fmt: skip
def test_training_lowers_the_losses_and_specialises_experts(name: str, score: str) -> None:
    inputs = tiny_models.batch(name)
    how = {} if name in tiny_models.WITH_IMAGES else {"modality_of": halves}
    before = modality_specialisation(capture(tiny_models.build(name, seed=1), [inputs], **how)).mean()
    model, information, totals = losses_of(name, score)
    after = modality_specialisation(capture(model, [inputs], **how)).mean()
    assert totals[-1] < totals[0] - 0.5
    assert 1.3 * information[0] < information[-1] <= math.log(2)
    assert after > before + 0.1


def test_specialisation_comes_from_the_losses_not_from_the_task() -> None:
    # the rise in specialisation above comes from the losses: the task alone brings less
    inputs = tiny_models.batch("olmoe")
    specialised = []
    for weight in (0.0, 3.0):
        model, *_ = losses_of("olmoe", "attention", inter_bin_weight=weight)
        specialised.append(modality_specialisation(capture(model, [inputs], modality_of=halves)).mean())
    assert specialised[1] > specialised[0] + 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_router(name: str, dtype: torch.dtype) -> None:
    model = tiny_models.build(name).to(dtype).train()
    inputs = tiny_models.batch(name)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with attach(model, num_bins=2, inter_bin_weight=1.0, **labelled(name)) as smoes:
        model(**inputs)
        losses = smoes.losses()
    losses.total.backward()
    assert torch.isfinite(losses.total)
    routers = [m for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]
    assert all(torch.isfinite(router.weight.grad).all() and router.weight.grad.abs().sum() > 0 for router in routers)


def test_padding_does_not_count() -> None:
    model = tiny_models.build("olmoe").eval()
    inputs = tiny_models.batch("olmoe")
    row = {name: value[1:2] for name, value in inputs.items()}
    short = {name: value[:, 3:] for name, value in row.items()}
    found = []
    for one in (row, short):
        with attach(model, num_bins=4, modality_of=halves, inter_bin_weight=1.0) as smoes:
            model(**one)
            found.append((smoes.losses().total, [bins.counts.clone() for bins in smoes.bins.values()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for padded, plain in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(padded, plain)


def test_statistics_go_into_a_checkpoint() -> None:
    model, inputs = tiny_models.build("olmoe"), tiny_models.batch("olmoe")
    with attach(model, num_bins=4, score="gaussian", modality_of=halves) as smoes:
        model(**inputs)
        smoes.losses()
        state = smoes.statistics.state_dict()
        bins = [part.assignment().tolist() for part in smoes.bins.values()]
    with attach(model, num_bins=4, score="gaussian", modality_of=halves) as fresh:
        assert [part.assignment().tolist() for part in fresh.bins.values()] != bins
        fresh.statistics.load_state_dict(state)
        assert [part.assignment().tolist() for part in fresh.bins.values()] == bins
        assert all(gaussian.is_seen.all() for gaussian in fresh.gaussians.values())


def test_hooks_and_attention_are_restored() -> None:
    model, inputs = tiny_models.build("qwen3_vl_moe"), tiny_models.batch("qwen3_vl_moe")
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with attach(model, num_bins=4):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not attention
    with pytest.raises(RuntimeError), attach(model, num_bins=4):
        raise RuntimeError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    other = tiny_models.build("olmoe").eval()
    ids = {"input_ids": tiny_models.batch("olmoe")["input_ids"]}
    alone = other(**ids).logits
    with attach(model, num_bins=4) as smoes:
        model(**inputs)
        assert torch.equal(other(**ids).logits, alone)  # another model's attention is not touched
        assert np.isfinite(smoes.losses().total.item())


def test_models_that_cannot_be_observed_are_refused() -> None:
    model, inputs = tiny_models.build("olmoe").train(), tiny_models.batch("olmoe")
    with attach(model, num_bins=4) as smoes:
        with pytest.raises(ConfigError, match=r"losses\(\) needs a complete forward pass with gradients"):
            smoes.losses()
        with torch.no_grad():
            model(**inputs)
        with pytest.raises(ConfigError, match=r"losses\(\) needs a complete forward pass with gradients"):
            smoes.losses()
        with pytest.raises(ConfigError, match=r"positional arguments"):
            model(inputs["input_ids"])
        layer = next(part for part in model.modules() if hasattr(part, "gradient_checkpointing"))
        layer.gradient_checkpointing = True
        with pytest.raises(ConfigError, match=r"gradient checkpointing .* Turn it off"):
            model(**inputs)
        layer.gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"8 experts do not divide into 3 bins"), attach(model, num_bins=3):
        pass
    model.set_attn_implementation("eager")
    eager = r'attention is "eager"; the attention score is carried by "sdpa"'
    with pytest.raises(ConfigError, match=eager), attach(model, num_bins=4):
        pass
    with attach(model, num_bins=4, score="hard", modality_of=halves) as smoes:
        model(**inputs)
        assert torch.isfinite(smoes.losses().total)
