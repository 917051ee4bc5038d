"""Hugging Face models and prompts as what :func:`smoes_sim.learning.capture.capture` takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError

from smoes_sim.errors import ConfigError
from smoes_sim.learning.capture import Inputs
from smoes_sim.yaml_files import Spec, read_text


class Prompt(Spec):
    """One line of a prompts file: a text, and paths of images that come before it."""

    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and what turns prompts into its inputs: a processor if it sees images, a tokenizer otherwise."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, also of a processor."""
        return getattr(self.processor, "tokenizer", self.processor)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSON Lines file; paths of images are relative to it.

    Raises:
        ConfigError: If a line is not ``{"text": ..., "images": [...]}``, an image is missing, or there is no line.
    """
    prompts = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompt = Prompt.model_validate_json(line)
        except ValidationError:
            raise ConfigError(
                f'{path}:{number}: is not {{"text": "...", "images": ["..."]}}. Write one object a line.'
            ) from None
        images = tuple(str(path.parent / image) for image in prompt.images)
        for image in images:
            if not Path(image).is_file():
                raise ConfigError(f"{path}:{number}: image {image} is not a file. Check the path.")
        prompts.append(prompt.model_copy(update={"images": images}))
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt. Write one object a line.")
    return prompts


def load_model(name: str, *, may_download: bool, device: str, dtype: str) -> Loaded:
    """A model of a local folder, or of the hub if it may be downloaded; weights are read from safetensors only.

    Raises:
        ConfigError: If it cannot be loaded, or is neither a causal language model nor one that takes images and text.
    """
    if not sys.stderr.isatty():
        logging: Any = transformers.utils.logging
        logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": not may_download}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(name, dtype=dtype, use_safetensors=True, **options).to(device)
        source: Any = transformers.AutoProcessor if sees else transformers.AutoTokenizer
        loaded = Loaded(model, source.from_pretrained(name, **options))
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        advice = "" if may_download else " Give a folder with config, tokenizer and safetensors, or allow --download."
        raise ConfigError(f"{name}: cannot be loaded ({reason}).{advice}") from None
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded


def batches(loaded: Loaded, prompts: Sequence[Prompt], *, size: int) -> Iterator[Inputs]:
    """Inputs of the model for ``size`` prompts at a time, in its chat format if it has one.

    Raises:
        ConfigError: If there are images but the model takes none, or has no chat format to place them by.
    """
    has_chat = getattr(loaded.processor, "chat_template", None) is not None
    takes_images = loaded.processor is not loaded.tokenizer and has_chat
    if not takes_images and any(prompt.images for prompt in prompts):
        raise ConfigError("a prompt has images, but the model takes none (or has no chat template). Leave them out.")
    for first in range(0, len(prompts), size):
        group = prompts[first : first + size]
        if has_chat:
            padding: dict[str, Any] = {"processor_kwargs": {"padding": True}} if takes_images else {"padding": True}
            inputs = loaded.processor.apply_chat_template(
                [_messages(prompt, with_parts=takes_images) for prompt in group],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **padding,
            )
        else:
            inputs = loaded.tokenizer([prompt.text for prompt in group], return_tensors="pt", padding=True)
        moved = {name: value.to(loaded.model.device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        moved.pop("token_type_ids", None)  # of tokenizers for other tasks; no model here takes them
        yield moved


def _messages(prompt: Prompt, *, with_parts: bool) -> list[dict[str, Any]]:
    if not with_parts:
        return [{"role": "user", "content": prompt.text}]
    parts = [{"type": "image", "path": image} for image in prompt.images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}]
