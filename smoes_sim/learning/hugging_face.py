"""Load Hugging Face models and prompts in the form that :func:`smoes_sim.learning.capture.capture` takes."""

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
    """One line of a prompts file: a text, and the paths of the images placed before it."""

    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and the processor that makes its inputs: a tokenizer for a text model.

    Attributes:
        model: The model of transformers, on its device.
        processor: Processor of a model that takes images, tokenizer of a text model.
    """

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The tokenizer: the processor's own, or the processor itself for a text model."""
        return getattr(self.processor, "tokenizer", self.processor)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSON Lines file; paths of images are relative to the folder of the file.

    Raises:
        ConfigError: If a line is not ``{"text": ..., "images": [...]}``, an image is missing, or the file holds no prompt.
    """
    prompts = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompt = Prompt.model_validate_json(line)
        except ValidationError:
            raise ConfigError(
                f'{path}:{number}: is not {{"text": "...", "images": ["..."]}}. Write one object per line.'
            ) from None
        images = tuple(str(path.parent / image) for image in prompt.images)
        for image in images:
            if not Path(image).is_file():
                raise ConfigError(f"{path}:{number}: image {image} is not a file. Check the path.")
        prompts.append(prompt.model_copy(update={"images": images}))
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt. Write one object per line.")
    return prompts


def load_model(name: str, *, may_download: bool, device: str, dtype: str) -> LoadedModel:
    """A model and its processor, from a local folder or the Hub; weights are read from safetensors only.

    Args:
        name: A folder, or a name on the Hub.
        may_download: Whether files may be downloaded from the Hub.
        device: Device of the model, such as ``cpu`` or ``cuda:1``.
        dtype: Element type of the weights: ``auto``, ``bfloat16``, ``float32``.

    Raises:
        ConfigError: If the model cannot be loaded, lacks its processor or tokenizer, or is neither a causal language model
            nor a model that takes images and text.
    """
    if not sys.stderr.isatty():
        logging: Any = transformers.utils.logging
        logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": not may_download}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        _check_processor(Path(name), sees=sees)
        kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(name, dtype=dtype, use_safetensors=True, **options).to(device)
        source: Any = transformers.AutoProcessor if sees else transformers.AutoTokenizer
        loaded = LoadedModel(model, source.from_pretrained(name, **options))
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        advice = (
            ""
            if may_download
            else " Give a folder with config.json, safetensors and tokenizer (for images: processor), or allow --download."
        )
        raise ConfigError(f"{name}: cannot be loaded ({reason}).{advice}") from None
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded


def _check_processor(folder: Path, *, sees: bool) -> None:
    """Refuse a local folder without the files that turn prompts into inputs, before the weights are read."""
    if not folder.is_dir():
        return
    has_tokenizer = any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.model", "*.tiktoken"))
    has_processor = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    lacking = ["a tokenizer (tokenizer.json)"] if not has_tokenizer else []
    if sees and not has_processor:
        lacking.append("an image processor (preprocessor_config.json or processor_config.json)")
    if lacking:
        kind = "AutoProcessor" if sees else "AutoTokenizer"
        raise ConfigError(
            f"{folder}: lacks {' and '.join(lacking)}; the model's save_pretrained does not write it. "
            f'Add it: {kind}.from_pretrained(ORIGINAL_MODEL).save_pretrained("{folder}").'
        )


def batches(loaded: LoadedModel, prompts: Sequence[Prompt], *, size: int) -> Iterator[Inputs]:
    """Inputs of the model for ``size`` prompts per batch, in the model's chat format if it has one.

    Raises:
        ConfigError: If a prompt has images, but the model takes none or has no chat template that places them.
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
        moved.pop("token_type_ids", None)  # written by tokenizers for other tasks; no model here takes them
        yield moved


def _messages(prompt: Prompt, *, with_parts: bool) -> list[dict[str, Any]]:
    if not with_parts:
        return [{"role": "user", "content": prompt.text}]
    parts = [{"type": "image", "path": image} for image in prompt.images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}]
