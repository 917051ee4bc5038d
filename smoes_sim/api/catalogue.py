"""What is shipped: models, devices, workloads, topologies, scenarios, libraries, policies, studies, plans, sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from smoes_sim.compute import device_names, find_device
from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, size
from smoes_sim.errors import ConfigError
from smoes_sim.learning.study_file import load_study, study_names
from smoes_sim.libraries.published import load_libraries
from smoes_sim.models import find_model, model_names
from smoes_sim.planning import load_plan, plan_names
from smoes_sim.prediction.constants import calibration_names, load_calibration
from smoes_sim.routing import published
from smoes_sim.scenario import load_scenario, scenario_names
from smoes_sim.sweeps import load_sweep, sweep_names
from smoes_sim.topology.shipped import topology_headings
from smoes_sim.workload.spec import find_preset, preset_names
from smoes_sim.yaml_files import nearest

Kind = Literal[
    "models",
    "devices",
    "workloads",
    "topologies",
    "scenarios",
    "calibrations",
    "libraries",
    "routing",
    "plans",
    "sweeps",
    "studies",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that is shipped: its name, and what it is."""

    name: str
    description: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Catalogue(Result):
    """Shipped things of one kind.

    Attributes:
        kind: What they are.
        entries: One each, sorted by name.

    Example:
        >>> catalogue("scenarios").entries[0].name
        'olmoe-two-orin'

    """

    kind: Kind
    entries: Sequence[Entry]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return (entry.name for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``list --json``."""
        return {self.kind: self.records()}

    def records(self) -> list[dict[str, Any]]:
        """One row per entry."""
        return [asdict(entry) for entry in self.entries]

    def tables(self) -> list[Table]:
        """Names and descriptions."""
        rows = [[entry.name, entry.description] for entry in self.entries]
        return [Table(header=["name", "description"], rows=rows, words=1)]


def catalogue(kind: str) -> Catalogue:
    """What is shipped of a kind, by name.

    Args:
        kind: ``models``, ``devices``, ``workloads``, ``topologies``, ``scenarios``, ``calibrations``, ``libraries``,
            ``routing``, ``plans``, ``sweeps`` or ``studies``.

    Raises:
        ConfigError: If there is no such kind.

    Example:
        >>> from smoes_sim import catalogue
        >>> [name for name in catalogue("devices") if name.startswith("h100")]
        ['h100-nvl', 'h100-pcie', 'h100-sxm']
    """
    if kind not in KINDS:
        raise ConfigError(f'"{kind}" is no kind of shipped things. {nearest(str(kind), KINDS)}')
    entries = [Entry(name=name, description=text) for name, text in _described(kind)]
    return Catalogue(kind=kind, entries=entries)


def _described(kind: Kind) -> Iterator[tuple[str, str]]:
    """Names and descriptions."""
    if kind == "models":
        yield from ((name, _model(name)) for name in model_names())
    elif kind == "devices":
        yield from ((name, _device(name)) for name in device_names())
    elif kind == "workloads":
        yield from ((name, _workload(name)) for name in preset_names())
    elif kind == "topologies":
        yield from ((name, description) for name, (_, description) in topology_headings().items())
    elif kind == "scenarios":
        yield from ((name, load_scenario(name).description) for name in scenario_names())
    elif kind == "calibrations":
        yield from ((name, f"fitted on {load_calibration(name).scenario}") for name in calibration_names())
    elif kind == "libraries":
        yield from (
            (name, f"for validate: constants fitted on {pool.rows} rows of {_counted(len(pool.systems), 'system')}")
            for name, pool in sorted(load_libraries().pools.items())
        )
    elif kind == "routing":
        yield from _policies()
    elif kind == "plans":
        yield from ((name, load_plan(name).file.description) for name in plan_names())
    elif kind == "sweeps":
        yield from ((name, load_sweep(name).file.description) for name in sweep_names())
    else:
        yield from ((name, load_study(name).description) for name in study_names())


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _model(name: str) -> str:
    shape = find_model(name)
    words = f"{shape.layers} layers, hidden {shape.hidden}, {shape.experts} experts, top-{shape.top_k}"
    return f"{words}, {shape.total_parameters / 1e9:.3g}B parameters, {shape.active_parameters / 1e9:.3g}B active"


def _device(name: str) -> str:
    device = find_device(name)
    peaks = {"bf16": device.peak_bf16, "fp8": device.peak_fp8, "int8": device.peak_int8, "fp4": device.peak_fp4}
    rates = ", ".join(f"{name} {peak / 1e12:.6g}" if peak else f"{name} -" for name, peak in peaks.items())
    return f"{rates} TFLOPS; {size(device.memory_bandwidth)}/s, {size(device.memory)}"


def _workload(name: str) -> str:
    preset = find_preset(name)
    images = (
        f"{_counted(int(preset.images), 'image')} of {preset.image_width} x {preset.image_height}, " if preset.images else ""
    )
    return f"{images}{preset.text_tokens:g} text tokens, {preset.output_tokens:g} output tokens per sequence"


_POLICIES = {
    "standard": "load-balanced top-k without regard to modality",
    "smoes": "experts specialised by modality, trained with SMoES; bins of experts on ranks",
    "hard": "experts split by modality (text | vision)",
    "hybrid": "text, vision and shared experts (MoIIE)",
    "device_limited": "the experts of a token come from few groups (DeepSeek-V2)",
    "group_balanced": "equally many experts from every group (Pangu Pro MoE)",
    "dense": "no router: the dense model with equal total parameters",
}


def _policies() -> Iterator[tuple[str, str]]:
    """Policies of ``routing.policy``, with what is published of each."""
    for name, words in _POLICIES.items():
        known = published().get(name)
        yield name, words if known is None else f"{words}; published modality specialisation {known.msi:g}"
