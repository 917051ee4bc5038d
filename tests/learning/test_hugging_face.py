"""A model in a folder and a file of prompts, by command: a tiny random OLMoE and a tokenizer made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers missing: pip install 'smoes-sim[capture]'")

import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from smoes_sim.cli import main
from smoes_sim.learning.capture import capture
from smoes_sim.routing import load_trace

WORDS = ["a", "red", "circle", "is", "seen", "what", "colour"]
CHAT = "{% for message in messages %}what {{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_models.build("olmoe").save_pretrained(path)
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<unk>")
    tokenizer.save_pretrained(path)
    return path


IMAGE_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Aria, whose processor needs no torchvision: an image of 2 x 2 patches becomes 4 tokens."""
    pytest.importorskip("PIL", reason="pillow missing: pip install 'smoes-sim[capture]'")
    from transformers import AriaConfig, AriaForConditionalGeneration, AriaProcessor
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    path = tmp_path_factory.mktemp("seeing")
    experts = {"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 1, "intermediate_size": 16}
    text = {name: tiny_models.TEXT[name] for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    vision = {"model_type": "idefics3_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = AriaConfig(
        vision_config=vision | {"num_attention_heads": 2, "image_size": 980, "patch_size": 490},
        text_config=text | experts | {"num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
        image_token_index=tiny_models.IMAGE_TOKEN,
        projector_patch_to_query_dict={4: 4},
    )
    model = AriaForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # some are left without values by construction alone
    model.save_pretrained(path)
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary | {"<image>": tiny_models.IMAGE_TOKEN}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<unk>", extra_special_tokens={"image_token": "<image>"}
    )
    processor = AriaProcessor(AriaImageProcessorPil(), tokenizer, chat_template=IMAGE_CHAT, size_conversion={980: 4})
    processor.save_pretrained(path)
    return path


def test_images_of_prompts_become_vision_tokens(
    seeing_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    prompts = [{"text": "what colour", "images": ["photo.png"]}, {"text": "a red circle is seen"}]
    file = prompts_file(tmp_path / "p.jsonl", *prompts)
    out = tmp_path / "t.npz"
    found = run(capsys, "--hf", str(seeing_folder), "--prompts", file, "-o", str(out), "--batch", "2")
    assert (found["tokens"], found["vision_tokens"], found["experts"]) == (11, 4, 8)
    trace = load_trace(out)
    assert trace.modality.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert trace.sequence_id.tolist() == [0] * 6 + [1] * 5
    # one at a time, without padding, the same decisions
    run(capsys, "--hf", str(seeing_folder), "--prompts", file, "-o", str(out))
    assert load_trace(out).expert_ids.tolist() == trace.expert_ids.tolist()


def prompts_file(path: Path, *prompts: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(prompt) for prompt in prompts))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["trace", "capture", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["trace", "capture", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_folder_and_prompts_become_a_trace(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = prompts_file(tmp_path / "p.jsonl", {"text": "a red circle is seen"}, {"text": "what colour"})
    out = tmp_path / "t.npz"
    found = run(capsys, "--hf", str(folder), "--prompts", prompts, "-o", str(out), "--batch", "2", "--dtype", "float32")
    assert (found["tokens"], found["sequences"], found["layers"], found["experts"]) == (7, 2, 3, 8)
    model = tiny_models.build("olmoe")
    wanted = capture(model, [{"input_ids": torch.tensor([[2, 3, 4, 5, 6]])}, {"input_ids": torch.tensor([[7, 8]])}])
    trace = load_trace(out)
    assert trace.expert_ids.tolist() == wanted.expert_ids.tolist()
    assert trace.metadata["weights"] == str(folder)


def test_generation_and_the_chat_format_are_used(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "chat_template.jinja").write_text(CHAT)
    prompts = prompts_file(tmp_path / "p.jsonl", {"text": "colour"})
    out = str(tmp_path / "t.npz")
    found = run(capsys, "--hf", str(folder), "--prompts", prompts, "-o", out, "--new-tokens", "3")
    (folder / "chat_template.jinja").unlink()
    assert (found["prefill_tokens"], found["tokens"]) == (2, 4)


def test_missing_or_broken_input_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = prompts_file(tmp_path / "p.jsonl", {"text": "a"})
    out = ["-o", str(tmp_path / "t.npz")]
    line = refusal(capsys, "--hf", str(tmp_path / "none"), "--prompts", good, *out)
    assert "none: cannot be loaded" in line
    assert "or allow --download" in line
    wrong = prompts_file(tmp_path / "w.jsonl", {"text": "a"}, {"words": "b"})
    assert "w.jsonl:2: is not" in refusal(capsys, "--hf", str(folder), "--prompts", wrong, *out)
    picture = prompts_file(tmp_path / "i.jsonl", {"text": "a", "images": ["no.png"]})
    assert "no.png is not a file" in refusal(capsys, "--hf", str(folder), "--prompts", picture, *out)
    (tmp_path / "no.png").touch()
    assert "the model takes none" in refusal(capsys, "--hf", str(folder), "--prompts", picture, *out)
    empty = prompts_file(tmp_path / "e.jsonl")
    assert "e.jsonl: holds no prompt" in refusal(capsys, "--hf", str(folder), "--prompts", empty, *out)
    assert not (tmp_path / "t.npz").exists()


def test_a_model_saved_without_its_processor_names_the_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = prompts_file(tmp_path / "p.jsonl", {"text": "a"})
    rest = ["--prompts", prompts, "-o", str(tmp_path / "t.npz")]
    tiny_models.build("qwen3_vl_moe").save_pretrained(tmp_path / "seeing")
    line = refusal(capsys, "--hf", str(tmp_path / "seeing"), *rest)
    assert "seeing: lacks a tokenizer (tokenizer.json) and an image processor (preprocessor_config.json" in line
    assert "AutoProcessor.from_pretrained" in line
    (tmp_path / "seeing" / "tokenizer.json").touch()
    assert "seeing: lacks an image processor" in refusal(capsys, "--hf", str(tmp_path / "seeing"), *rest)
    tiny_models.build("olmoe").save_pretrained(tmp_path / "text")
    line = refusal(capsys, "--hf", str(tmp_path / "text"), *rest)
    assert "text: lacks a tokenizer (tokenizer.json); the model's save_pretrained does not write it" in line
