"""One run: a variant and a seed, trained step by step and resumable after a kill at any moment.

Batch t depends only on the seed and t, the learning rate only on t, and a checkpoint, written atomically, holds the rest
(weights, optimiser, running statistics): a run that was killed and resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.errors import ConfigError
from smoes_sim.learning.batches import BatchMaker, make_layout, text_stream
from smoes_sim.learning.data import COLOURS, SHAPES, Images, Tokenizer, load_images, load_topics, make_tokenizer
from smoes_sim.learning.objective import TrainingObjective
from smoes_sim.learning.selection import Selection
from smoes_sim.learning.study_file import Study
from smoes_sim.learning.tiny_vlm import FEATURES, Shape, TinyVLM, VisionEncoder
from smoes_sim.yaml_files import replacing

_ENCODER_BATCH = 32
_ENCODER_RATE = 5e-3
_CLIP = 1.0
_STREAM_TRAIN, _STREAM_ENCODER = range(2)
"""First element of the random seed of training and of encoder batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Training data that all runs of a study share.

    Attributes:
        tokenizer: Tokenizer of questions and text.
        images: Images of the training split.
        maker: Makes training batches.
        stream: Tokens of the training topics, one-dimensional.
    """

    tokenizer: Tokenizer
    images: Images
    maker: BatchMaker
    stream: NDArray[np.int64]


def load_training_data(*, vocabulary: int, questions: int) -> TrainingData:
    """Training data, decoded; ``questions`` is the number of questions per image sequence."""
    tokenizer, images = make_tokenizer(vocabulary), load_images("train")
    layout = make_layout(tokenizer, images.questions("open"), slots=questions)
    return TrainingData(
        tokenizer=tokenizer,
        images=images,
        maker=BatchMaker(tokenizer, images, layout),
        stream=text_stream(tokenizer, load_topics("train")),
    )


def build_model(study: Study, name: str, *, positions: int) -> TinyVLM:
    """Untrained model of a variant; its weights are drawn from torch's global random generator."""
    variant, sizes = study.variants[name], study.model
    shape = Shape(
        hidden=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads,
        inner=sizes.inner,
        vocabulary=sizes.vocabulary,
        positions=positions,
    )
    if variant.layer != "mixture":
        used = sizes.experts if variant.layer == "dense_total" else sizes.top_k
        return TinyVLM(shape, selection=None, dense_inner=used * sizes.inner)
    has_groups = variant.selection in {"device_limited", "group_balanced"}
    selection = Selection(
        rule=variant.selection,
        num_experts=sizes.experts,
        top_k=sizes.top_k,
        num_groups=variant.groups if has_groups else 1,
        kept_groups=variant.kept_groups,
    )
    return TinyVLM(shape, selection=selection)


def train_encoder(study: Study, path: Path, on_step: Callable[[int], None]) -> None:
    """Train the vision encoder to classify colour and shape, and write it; an existing encoder file is kept.

    Raises:
        ConfigError: If the existing file belongs to other settings.
    """
    fingerprint = str(study.training.encoder_steps)
    if path.exists():
        load_tensors(path, fingerprint)
        return
    images = load_images("train")
    colour, shape = (torch.from_numpy(labels) for labels in images.colour_and_shape())
    known = np.flatnonzero(((colour >= 0) | (shape >= 0)).numpy())
    torch.manual_seed(0)
    encoder, head = VisionEncoder(), nn.Linear(FEATURES, len(COLOURS) + len(SHAPES))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_ENCODER_RATE)
    for step in range(study.training.encoder_steps):
        _set_rate(optimiser, _ENCODER_RATE, step, study.training.encoder_steps, warm_up=40)
        chosen = np.random.default_rng([_STREAM_ENCODER, step]).choice(known, _ENCODER_BATCH)
        logits = head(encoder(torch.from_numpy(images.pixels[chosen])).amax(dim=1))
        parts = logits[:, : len(COLOURS)], logits[:, len(COLOURS) :]
        entropy = [
            functional.cross_entropy(part, labels[chosen], ignore_index=-1, reduction="sum") / _ENCODER_BATCH
            for part, labels in zip(parts, (colour, shape), strict=True)
        ]
        optimiser.zero_grad()
        torch.autograd.backward(entropy[0] + entropy[1])
        optimiser.step()
        on_step(step + 1)
    save_tensors(path, encoder.state_dict(), fingerprint)


def load_encoder(path: Path) -> VisionEncoder:
    """Frozen vision encoder of a study."""
    encoder = VisionEncoder()
    encoder.load_state_dict(load_tensors(path)[0])
    return encoder.requires_grad_(False).eval()


@dataclass(slots=True, kw_only=True)
class Run:
    """State of the training of a variant and seed.

    Attributes:
        study: Settings of the study.
        name: Name of a trained variant.
        seed: Seed of weights and batches.
        model: The model.
        objective: Its loss and running statistics.
        optimiser: The optimiser, AdamW.
        step: Number of finished steps.
    """

    study: Study
    name: str
    seed: int
    model: TinyVLM
    objective: TrainingObjective
    optimiser: torch.optim.AdamW
    step: int = 0

    @classmethod
    def start(cls, study: Study, name: str, seed: int, *, positions: int) -> Run:
        """A run at step 0.

        Raises:
            ConfigError: If the device of the study is not available.
        """
        if study.training.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "training.device = cuda, but torch finds no GPU here. Use a machine with a GPU, or training.device=cpu."
            )
        torch.manual_seed(seed)
        device = torch.device(study.training.device)
        model = build_model(study, name, positions=positions).to(device)
        objective = TrainingObjective(study, study.variants[name]).to(device)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=study.training.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        return cls(study=study, name=name, seed=seed, model=model, objective=objective, optimiser=optimiser)

    def advance(self, data: TrainingData, encoder: VisionEncoder) -> float:
        """Train one step; the loss of its batch."""
        training = self.study.training
        rng = np.random.default_rng([_STREAM_TRAIN, self.seed, self.step])
        device = torch.device(training.device)
        batch = data.maker.draw(data.stream, images=training.images, texts=training.texts, rng=rng).to(device)
        _set_rate(self.optimiser, training.learning_rate, self.step, training.steps, warm_up=training.warm_up)
        logits, records = self.model(batch, encoder(batch.pixels), with_scores=self.objective.needs_attention)
        allowed = self.model.mixtures[0].allowed if self.model.mixtures else None
        loss = self.objective(logits, records, batch, allowed)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path, *, with_optimiser: bool) -> None:
        """Write the run as one safetensors file."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        if with_optimiser:
            for name, parameter in self.model.named_parameters():
                state = self.optimiser.state[parameter]
                tensors |= {f"optimiser.{name}.{key}": value for key, value in state.items()}
        save_tensors(path, tensors, self.study.fingerprint(self.name, self.seed), step=self.step)

    def restore(self, path: Path) -> None:
        """Load the state of a run from a file.

        Raises:
            ConfigError: If the file was written under other settings.
        """
        tensors, self.step = load_tensors(path, self.study.fingerprint(self.name, self.seed))
        self.model.load_state_dict(_under("model.", tensors))
        self.objective.load_state_dict(_under("objective.", tensors))
        for name, parameter in self.model.named_parameters():
            state = _under(f"optimiser.{name}.", tensors)
            self.optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }


def train(
    run: Run, data: TrainingData, encoder: VisionEncoder, folder: Path, on_step: Callable[[int], None]
) -> float | None:
    """Train a run to its end, from its checkpoint if there is one, and write ``model.safetensors``.

    Returns:
        CPU seconds of the whole training, extrapolated from the steps of this call; None if it was finished before.
    """
    final, checkpoint = folder / "model.safetensors", folder / "checkpoint.safetensors"
    if final.exists():
        run.restore(final)
    elif checkpoint.exists():
        run.restore(checkpoint)
    on_step(run.step)
    first, started = run.step, time.process_time()
    encoder = encoder.to(torch.device(run.study.training.device))
    while run.step < run.study.training.steps:
        run.advance(data, encoder)
        on_step(run.step)
        if run.step % run.study.training.checkpoint_every == 0:
            run.save(checkpoint, with_optimiser=True)
    if not final.exists():
        run.save(final, with_optimiser=False)
    checkpoint.unlink(missing_ok=True)
    made = run.step - first
    return (time.process_time() - started) / made * run.step if made else None


def save_tensors(path: Path, tensors: dict[str, Tensor], fingerprint: str, *, step: int = 0) -> None:
    """Write tensors atomically, with the fingerprint of their settings and their step."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        # a single entry: safetensors writes several in no fixed order, and equal runs must have equal bytes
        save_file(whole, temporary, metadata={"run": f"{fingerprint} {step}"})


def load_tensors(path: Path, fingerprint: str | None = None) -> tuple[dict[str, Tensor], int]:
    """Tensors of a file and the step at which they were written.

    Raises:
        ConfigError: If the file cannot be read, or its fingerprint differs.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            written, step = (stream.metadata() or {})["run"].split()
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  not a dict
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read as safetensors ({error}). Delete it to start again.") from None
    if fingerprint is not None and written != fingerprint:
        raise ConfigError(
            f"{path}: was trained under other settings. Choose another --out, or delete the file to start again."
        )
    return tensors, int(step)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int, *, warm_up: int) -> None:
    """Set the learning rate of a step: linear warm-up times half a cosine to zero."""
    for group in optimiser.param_groups:
        group["lr"] = rate * min((step + 1) / warm_up, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
