"""Pages that list what ships with the package: topologies, models, devices, workloads, scenarios, studies, plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markdown import cell, code, table
from ruamel.yaml import YAML

import smoes_sim
from smoes_sim.models import find_model, model_names
from smoes_sim.topology.shipped import find_spec, find_topology, topology_names

DATA = Path(smoes_sim.__file__).parent / "data"


def read(path: Path) -> Any:
    """A YAML file."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def sources_text(sources: dict[str, str]) -> str:
    """Sources of a topology or workload, one line per number."""
    return "\n".join(f"- `{key}`: {cell(text)}" for key, text in sources.items()) or "- none"


def topologies_page() -> str:
    """The shipped topologies, with the source of every number."""
    rows, details = [], []
    for name in topology_names():
        spec, built = find_spec(name), find_topology(name)
        rows.append([f"[`{name}`](#{name})", cell(spec.description), code(spec.kind), str(built.num_ranks)])
        details.append(f"### {name}\n\n{cell(spec.description)}.\n\n{sources_text(spec.sources)}")
    text = (
        "Use one by its name, `topology: 2x8-h100-ndr400`, or copy its file and change it. Bandwidths are nominal, in one "
        "direction (data sheets of NVLink, xGMI, PCIe and ICI add up both). Latency is per link: a route through one switch "
        "counts it twice. A source that begins with `assumed` or `chosen` was not measured."
    )
    return "\n\n".join(["# Topologies", text, table(["name", "system", "kind", "ranks"], rows), "## Sources", *details])


def models_page() -> str:
    """The shipped models, with the source of every shape."""
    rows, details = [], []
    for name in model_names():
        shape = find_model(name)
        size = [str(shape.layers), str(shape.hidden), str(shape.experts), str(shape.top_k)]
        rows.append(
            [f"[`{name}`](#{name})", *size, f"{shape.total_parameters / 1e9:.1f}", f"{shape.active_parameters / 1e9:.1f}"]
        )
        images = shape.image_source or ("source not given" if shape.image_tokens else "none, a model for text")
        details.append(f"### {name}\n\n- shape: {cell(shape.source)}\n- images: {cell(images)}")
    header = ["name", "layers", "hidden", "experts", "top-k", "total (10^9)", "active (10^9)"]
    text = "Use one by its name, `model: olmoe-1b-7b`. Parameters are those of the language model, computed from its shape."
    return "\n\n".join(["# Models", text, table(header, rows), "## Sources", *details])


def devices_page() -> str:
    """The shipped devices, with sources."""
    rows, details = [], []
    for entry in read(DATA / "devices.yaml")["devices"]:
        name = entry["name"]
        rates = [
            str(entry.get(key, "-"))
            for key in ("peak_bf16", "peak_fp8", "peak_int8", "peak_fp4", "memory_bandwidth", "memory")
        ]
        rows.append([f"[`{name}`](#{name})", *rates])
        also = f"Also called {', '.join(entry['also'])}.\n\n" if "also" in entry else ""
        details.append(f"### {name}\n\n{also}{cell(entry['source'])}")
    header = ["name", "BF16 peak", "FP8 peak", "INT8 peak", "FP4 peak", "memory bandwidth", "memory"]
    text = (
        "Use one by its name, `compute: {device: h100-sxm}`. Peaks are dense (without structured sparsity); `-`: the device "
        "has no units for the format. Case, punctuation and the vendor do not matter; other names in use are understood: "
        "H200, NVIDIA H100 SXM."
    )
    return "\n\n".join(["# Devices", text, table(header, rows), "## Sources", *details])


def workloads_page() -> str:
    """The shipped workloads, with sources."""
    rows, details = [], []
    for name, entry in read(DATA / "workloads.yaml")["presets"].items():
        size = f"{entry['image_width']} x {entry['image_height']}" if "image_width" in entry else "-"
        numbers = [str(entry.get(key, "-")) for key in ("text_tokens", "output_tokens", "spread")]
        rows.append([f"[`{name}`](#{name})", str(entry.get("images", 0)), size, *numbers])
        details.append(f"### {name}\n\n{sources_text(entry.get('sources', {}))}")
    header = ["name", "images", "pixels", "text tokens", "output tokens", "spread of text"]
    text = "Use one by its name, `workload: {preset: mmmu, batch: 8}`; other keys replace its numbers."
    return "\n\n".join(["# Workloads", text, table(header, rows), "## Sources", *details])


def files_page() -> str:
    """The shipped scenarios, studies and plans as they are."""
    parts = ["# Scenarios, studies and plans", "Each is a file that you can copy and change."]
    for folder, title in (
        ("scenarios", "Scenarios"),
        ("sweeps", "Sweep studies"),
        ("plans", "Plans"),
        ("studies", "Training studies"),
    ):
        parts.append(f"## {title}")
        for path in sorted((DATA / folder).glob("*.yaml")):
            description = read(path).get("description", "")
            parts += [f"### {path.stem}", cell(description), f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(part for part in parts if part)


def catalogue_pages() -> dict[str, str]:
    """All pages by file name."""
    pages = {
        "topologies": topologies_page(),
        "models": models_page(),
        "devices": devices_page(),
        "workloads": workloads_page(),
        "shipped-files": files_page(),
    }
    return {f"{name}.md": text.strip() + "\n" for name, text in pages.items()}
