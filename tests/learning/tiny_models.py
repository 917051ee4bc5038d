"""Tiny random mixture-of-experts models of Hugging Face families, built from configurations: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

IMAGE_TOKEN, END = 90, 95
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END,
    "max_position_embeddings": 128,
}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


def olmoe(**changes: Any) -> PreTrainedModel:
    return OlmoeForCausalLM(OlmoeConfig(**TEXT | {"num_hidden_layers": 3, "num_experts": 8} | changes))


def qwen3_moe(**changes: Any) -> PreTrainedModel:
    sizes = {"num_hidden_layers": 3, "num_experts": 8, "moe_intermediate_size": 16, "head_dim": 8, "mlp_only_layers": [1]}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**TEXT | sizes | {"norm_topk_prob": True} | changes))


def qwen3_vl_moe(**changes: Any) -> PreTrainedModel:
    sizes = {"num_hidden_layers": 2, "num_experts": 8, "moe_intermediate_size": 16, "head_dim": 8, "rope_parameters": MROPE}
    vision = VISION | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = Qwen3VLMoeConfig(
        text_config=TEXT | sizes | changes, vision_config=vision, image_token_id=IMAGE_TOKEN, video_token_id=91
    )
    return Qwen3VLMoeForConditionalGeneration(config)


def glm4v_moe(**changes: Any) -> PreTrainedModel:
    sizes = {"num_hidden_layers": 3, "n_routed_experts": 8, "moe_intermediate_size": 16, "head_dim": 8, "n_group": 4}
    groups = {"topk_group": 2, "first_k_dense_replace": 1, "rope_parameters": MROPE | {"partial_rotary_factor": 1.0}}
    config = Glm4vMoeConfig(
        text_config=TEXT | sizes | groups | changes,
        vision_config=VISION | {"image_size": 16},
        image_token_id=IMAGE_TOKEN,
        video_token_id=91,
    )
    return Glm4vMoeForConditionalGeneration(config)


def deepseek_v3(**changes: Any) -> PreTrainedModel:
    sizes = {"num_hidden_layers": 3, "n_routed_experts": 8, "moe_intermediate_size": 16, "n_group": 4, "topk_group": 2}
    heads = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(**TEXT | sizes | heads | {"v_head_dim": 8, "first_k_dense_replace": 1} | changes)
    )


MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "olmoe": olmoe,
    "qwen3_moe": qwen3_moe,
    "qwen3_vl_moe": qwen3_vl_moe,
    "glm4v_moe": glm4v_moe,
    "deepseek_v3": deepseek_v3,
}
WITH_IMAGES = ("qwen3_vl_moe", "glm4v_moe")


def build(name: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model with spread-out router weights and, where there is one, a selection bias that changes decisions."""
    torch.manual_seed(seed)
    model = MODELS[name](**changes)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN, IMAGE_TOKEN + 1]
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            module.weight.data.normal_(std=0.5, generator=generator)
            if hasattr(module, "e_score_correction_bias"):
                module.e_score_correction_bias.normal_(std=0.3, generator=generator)
    return model


def batch(name: str, *, seed: int = 0) -> dict[str, Any]:
    """Three rows of 10, 7 and 9 tokens, padded on the left; with an image of 4 tokens each for models that see."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 80, (3, 10), generator=generator)
    mask = torch.ones(3, 10, dtype=torch.long)
    for row, padding in enumerate((0, 3, 1)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if name in WITH_IMAGES:
        ids[:, 4:8] = IMAGE_TOKEN  # 16 patches of 4 x 4 pixels, merged 2 x 2
        inputs["mm_token_type_ids"] = (ids == IMAGE_TOKEN).long()
        inputs["pixel_values"] = torch.randn(3 * 16, 3 * 2 * 4 * 4, generator=generator)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * 3)
    return inputs
