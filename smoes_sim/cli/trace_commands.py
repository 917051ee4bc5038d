"""``smoes-sim trace``: make, convert and describe routing traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smoes_sim.cli import show

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_OF_MODEL = {
    "prompts": "--prompts",
    "new_tokens": "--new-tokens",
    "batch": "--batch",
    "device": "--device",
    "dtype": "--dtype",
    "download": "--download",
}
"""Options of ``trace capture`` that are for ``--hf`` only."""


@app.command("synthesize")
def synthesize(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Shipped scenario or path of a file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Trace file to write (.npz).")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="KEY=VALUE")] = None,
    as_json: Json = False,
) -> None:
    """Write the synthetic routing of a scenario to a trace file."""
    from smoes_sim.api.predict import synthesize as synthesize_trace
    from smoes_sim.routing import save_trace

    trace = synthesize_trace(scenario, *(overrides or []))
    save_trace(trace, out)
    show.talk(f"trace: {out}")
    _print(out, as_json)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Routed experts (.npy, .npz) or an SGLang recorder dump (.pt).")
    ],
    source: Annotated[Literal["vllm", "sglang"], typer.Option("--format", help="Serving engine that wrote the file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Trace file to write (.npz).")],
    tokens: Annotated[
        Optional[Path],
        typer.Option(help='JSON: {"num_experts": E, "sequences": [{"prompt_tokens": N, "modality": [...]}]}.'),
    ] = None,
    num_experts: Annotated[Optional[int], typer.Option(min=1, help="Number of routed experts per layer, E.")] = None,
    prompt_tokens: Annotated[
        Optional[int], typer.Option(min=1, help="Number of prompt tokens, for a single request.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert the routing that a serving engine recorded to a trace; nothing in the file is executed."""
    from smoes_sim.errors import ConfigError
    from smoes_sim.routing import save_trace
    from smoes_sim.routing.formats import SequenceTokens, TokensFile, import_routed_experts, read_tokens_file
    from smoes_sim.routing.sglang_dump import import_expert_distribution

    if file.suffix == ".pt" and source == "sglang":
        if tokens or num_experts or prompt_tokens:
            raise ConfigError(
                f"{file}: a recorder dump describes its own tokens. Leave out --tokens, --num-experts and --prompt-tokens."
            )
        trace = import_expert_distribution(file)
    else:
        described = read_tokens_file(tokens) if tokens else TokensFile()
        if prompt_tokens and described.sequences:
            raise ConfigError(f"--prompt-tokens {prompt_tokens}: {tokens} describes the sequences already. Leave one out.")
        changes: dict[str, object] = {"num_experts": num_experts} if num_experts else {}
        if prompt_tokens:
            changes["sequences"] = [SequenceTokens(prompt_tokens=prompt_tokens)]
        name = str(tokens) if tokens else "the options"
        trace = import_routed_experts(file, source=source, tokens=described.model_copy(update=changes), tokens_name=name)
    save_trace(trace, out)
    show.talk(f"trace: {out}")
    _print(out, as_json)


@app.command("capture")
def capture_(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", help="Trace file to write (.npz).")],
    hf: Annotated[
        Optional[str], typer.Option("--hf", metavar="FOLDER", help="Hugging Face model: a folder, or a name on the Hub.")
    ] = None,
    checkpoint: Annotated[
        Optional[Path], typer.Option(metavar="FOLDER", help="Trained run of `smoes-sim train`: STUDY/runs/VARIANT-SEED.")
    ] = None,
    set_: Annotated[str, typer.Option("--set", help="Test set of the study, for --checkpoint.")] = "test",
    prompts: Annotated[
        Optional[Path], typer.Option(help='For --hf, JSON Lines: {"text": "...", "images": ["photo.png"]}.')
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Output tokens per prompt; the prefill gives the first.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 1,
    device: Annotated[str, typer.Option(help="Device of the model: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Element type of the weights: auto, bfloat16, float32.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Download the model from the Hub if needed.")] = False,
    as_json: Json = False,
) -> None:
    """Run prompts through a Hugging Face model, or a test set through a trained run, and write the routers' decisions."""
    from smoes_sim.api.learn import capture, capture_checkpoint
    from smoes_sim.errors import ConfigError
    from smoes_sim.routing import save_trace

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if checkpoint is not None and hf is None:
        if foreign := [option for name, option in _OF_MODEL.items() if name in given]:
            raise ConfigError(f"--checkpoint runs a --set of its study; {', '.join(foreign)}: only for --hf. Leave it out.")
        trace = capture_checkpoint(checkpoint, set_)
    elif hf is not None and checkpoint is None:
        if "set_" in given:
            raise ConfigError(f"--set {set_}: is for --checkpoint; --hf reads --prompts. Leave it out.")
        if prompts is None:
            raise ConfigError(f"--hf {hf}: needs prompts to run. Give --prompts FILE.")
        trace = capture(hf, prompts, new_tokens=new_tokens, batch=batch, device=device, dtype=dtype, download=download)
    else:
        raise ConfigError("trace capture: needs weights from one place. Give either --hf FOLDER or --checkpoint FOLDER.")
    save_trace(trace, out)
    show.talk(f"trace: {out}")
    _print(out, as_json)


@app.command("export")
def export_(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="Trace (.npz), or for --counts also an SGLang recorder dump (.pt).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON file to write, for --init-expert-location of SGLang.")],
    placement: Annotated[
        Optional[Literal["bins", "contiguous"]],
        typer.Option(help="Write a placement (physical_to_logical_map) by this rule."),
    ] = None,
    ranks: Annotated[Optional[int], typer.Option(min=1, help="Number of ranks of the EP group, for --placement.")] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Write the load counts (logical_count): routed tokens per expert.")
    ] = False,
) -> None:
    """Write a placement of experts, or the load counts from which a server makes its own."""
    import numpy as np

    from smoes_sim.errors import ConfigError
    from smoes_sim.placement import formats, place_experts
    from smoes_sim.routing import expert_counts, load_trace
    from smoes_sim.routing.sglang_dump import read_expert_counts

    if (placement is None) != counts:
        raise ConfigError("trace export: write either --placement RULE or --counts.")
    if placement is not None and ranks is None:
        raise ConfigError(f"--placement {placement}: needs the number of ranks. Give --ranks.")
    if placement is not None and source.suffix == ".pt":
        raise ConfigError(f"{source}: is a recorder dump; {placement} needs a trace. Use `smoes-sim trace import` first.")
    if source.suffix == ".pt":
        formats.write_counts(read_expert_counts(source), out)
    else:
        trace = load_trace(source)
        layers = trace.moe_layers.tolist()
        num_layers = max(int(trace.metadata.get("hidden_layers", 0)), max(layers) + 1)
        if placement is not None and ranks is not None:
            placed = place_experts(placement, trace, num_ranks=ranks, rng=np.random.default_rng(0))
            formats.write_placement(placed, out, moe_layers=layers, num_layers=num_layers)
        else:
            found = formats.all_layers(expert_counts(trace), moe_layers=layers, num_layers=num_layers)
            formats.write_counts(found, out)
    show.talk(f"{'counts' if counts else 'placement'}: {out}")


@app.command("info")
def info(trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace file (.npz).")], as_json: Json = False) -> None:
    """Describe a trace file: tokens, layers, experts, specialisation, load."""
    _print(trace, as_json)


app.command("inspect", hidden=True)(info)  # the name in the documentation of version 0.1


def _print(path: Path, as_json: bool) -> None:
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json
    from smoes_sim.routing import load_trace
    from smoes_sim.routing.summary import describe

    found = describe(load_trace(path))
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)
