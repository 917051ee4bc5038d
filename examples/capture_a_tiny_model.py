"""Capture the routing of a Hugging Face model without downloading one: a tiny random OLMoE and a tokenizer of 14 words.

The same by command, once the folder is written:

    smoes-sim trace capture --hf tiny-olmoe --prompts prompts.jsonl --new-tokens 4 --batch 2 -o trace.npz

Needs the extra: pip install 'smoes-sim[capture]'
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from smoes_sim.learning.capture import capture
from smoes_sim.learning.hugging_face import batches, load_model, read_prompts
from smoes_sim.routing import expert_counts, load_trace, save_trace

WORDS = ["a", "red", "green", "circle", "square", "is", "seen", "in", "the", "image", "what", "colour", "has", "it"]
PROMPTS = ["what colour has the circle", "a red square is seen in the image"]


def write_model(folder: Path) -> None:
    """Write a folder as ``save_pretrained`` leaves it: configuration, weights (safetensors) and tokenizer."""
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = OlmoeForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(weight, std=0.5)  # spread-out router weights, so that no decision is a close call
    model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<end>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<end>")
    tokenizer.save_pretrained(folder)


torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_model(folder / "tiny-olmoe")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))

    loaded = load_model(str(folder / "tiny-olmoe"), may_download=False, device="cpu", dtype="float32")
    prompts = read_prompts(folder / "prompts.jsonl")
    trace = capture(loaded.model, batches(loaded, prompts, size=2), new_tokens=4, metadata={"weights": "random"})
    save_trace(trace, folder / "trace.npz")
    trace = load_trace(folder / "trace.npz")

prefill = int((trace.phase == 0).sum())
print(f"{trace.num_tokens} tokens: {prefill} of prompts, {trace.num_tokens - prefill} decoded")
print(f"{trace.num_layers} MoE layers, {trace.num_experts} experts, top-{trace.top_k}")
for layer, counts in zip(trace.moe_layers.tolist(), expert_counts(trace), strict=True):
    print(f"layer {layer}: routed tokens per expert {counts.tolist()}, busiest / mean {counts.max() / counts.mean():.2f}")
