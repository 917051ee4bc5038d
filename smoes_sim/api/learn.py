"""Train a small model, and capture the routing of a model: what needs torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import ConfigError
from smoes_sim.routing import RoutingTrace
from smoes_sim.yaml_files import Override, assignments

if TYPE_CHECKING:
    from collections.abc import Callable

    from smoes_sim.learning.trained_study import TrainedStudy
    from smoes_sim.learning.unit_result import UnitResult

_TRAINING = ("torch", "easy_vqa", "PIL", "safetensors")


def train(
    study: str | Path = "tiny-vlm",
    *overrides: Override,
    out: str | Path = "study",
    jobs: int = 1,
    on_unit: Callable[[str, int, UnitResult], None] = lambda _name, _seed, _result: None,
    show_progress: Progress = "auto",
    **settings: object,
) -> TrainedStudy:
    """Train every variant and seed of a study on this machine, measure routing and traffic, and judge the claims.

    Args:
        study: A shipped study (``catalogue("studies")``) or the path of a file.
        overrides: Changes of the study.
        out: Folder for weights, traces and results; finished runs in it are reused.
        jobs: Number of runs at a time, one thread each.
        on_unit: Called with variant, seed and result of each finished run.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot.

    Returns:
        A :class:`TrainedStudy`: accuracy, specialisation and traffic of each variant, and the judged claims.

    Raises:
        ConfigError: If the study breaks a rule, or a package is missing.

    Example:
        ``train("tiny-vlm", "training.steps=100", out="results/study", jobs=2)``

        >>> train("tiny-vlm", "training.step=100")
        Traceback (most recent call last):
        smoes_sim.errors.ConfigError: "training.step=100": unknown key "step". Did you mean "steps"?
    """
    from smoes_sim.learning.study_file import load_study

    loaded = load_study(str(study), assignments(overrides, settings))
    if missing := [name for name in _TRAINING if find_spec(name) is None]:
        raise ConfigError(f"train needs {', '.join(missing)}. Install them with: pip install 'smoes-sim[learning]'")
    from smoes_sim.learning.study import run_study, total_steps

    with progress("training steps", total_steps(loaded), show_progress) as advance:
        return run_study(loaded, Path(out), jobs=jobs, on_steps=advance, on_unit=on_unit)


def capture(
    model: str | Path,
    prompts: str | Path,
    *,
    new_tokens: int = 1,
    batch: int = 1,
    device: str = "cpu",
    dtype: str = "auto",
    download: bool = False,
) -> RoutingTrace:
    """The routing of a Hugging Face model on some prompts.

    Args:
        model: Folder of the model, or its name on the Hub.
        prompts: JSON Lines file: ``{"text": "...", "images": ["photo.png"]}``.
        new_tokens: Number of output tokens per prompt; the prefill gives the first.
        batch: Number of prompts per batch.
        device: Device of the model: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: Element type of the weights: ``auto``, ``bfloat16``, ``float32``.
        download: Whether to download the model from the Hub if needed.

    Returns:
        A :class:`Trace`; ``expert_ids`` has the shape (tokens, MoE layers, top-k).

    Raises:
        ConfigError: If a package or a file is missing.
        TraceError: If the model has no routers that can be captured.

    Example:
        ``capture("models/Qwen3-VL-30B-A3B", "prompts.jsonl").save("trace.npz")``; ``examples/capture_a_tiny_model.py`` runs.

        >>> capture("models/Qwen3-VL-30B-A3B", "prompts.jsonl")
        Traceback (most recent call last):
        smoes_sim.errors.ConfigError: prompts.jsonl: cannot be read (No such file or directory). Check the path and ...
    """
    try:
        from smoes_sim.learning.capture import capture as capture_model
        from smoes_sim.learning.hugging_face import batches, load_model, read_prompts
    except ModuleNotFoundError as error:
        raise ConfigError(f"trace capture needs {error.name}. Install it with: pip install 'smoes-sim[capture]'") from None
    asked = read_prompts(Path(prompts))
    loaded = load_model(str(model), may_download=download, device=device, dtype=dtype)
    metadata = {"weights": str(model), "prompts": Path(prompts).name}
    return capture_model(loaded.model, batches(loaded, asked, size=batch), new_tokens=new_tokens, metadata=metadata)


def capture_checkpoint(folder: str | Path, test_set: str = "test") -> RoutingTrace:
    """The routing of a trained run of a study on one of its test sets.

    Args:
        folder: ``STUDY/runs/VARIANT-SEED`` of the folder that :func:`train` wrote.
        test_set: Name of the test set.

    Raises:
        ConfigError: If a package is missing, or the folder holds no such run.

    Example:
        ``capture_checkpoint("study/runs/smoes_attention-0")``
    """
    try:
        from smoes_sim.learning.unit import capture_run
    except ModuleNotFoundError as error:
        raise ConfigError(f"trace capture needs {error.name}. Install it with: pip install 'smoes-sim[learning]'") from None
    return capture_run(Path(folder), test_set)
