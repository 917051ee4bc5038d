"""A model in a folder and a file of prompts, by command: a tiny random OLMoE and a tokenizer made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_what_is_missing_is_said_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
