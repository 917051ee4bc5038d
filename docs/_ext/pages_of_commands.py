"""The page of the command line, from the typer application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main
from markdown import cell, code, table

from smoes_sim.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ("smoes-sim",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its path, in the order of the help text."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def panel_of(thing: Any) -> str:
    """The help panel of a command or parameter, or nothing."""
    found = getattr(thing, "rich_help_panel", None)
    return found if isinstance(found, str) else ""


def parameter_row(parameter: Any) -> list[str]:
    """A row of the table of a command's arguments and options."""
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    default = parameter.default
    shown = "" if default in (None, False, True, (), []) or callable(default) else code(default)
    if parameter.required:
        shown = "required"
    return [" ".join(f"`{cell(name)}`" for name in names), cell(getattr(parameter, "help", "") or ""), shown]


def usage(path: tuple[str, ...], command: Any) -> str:
    """The usage line."""
    arguments = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = parameter.metavar or parameter.name.upper()
            shown = name if parameter.required or name.startswith("[") else f"[{name}]"
            arguments.append(shown + ("..." if parameter.nargs == -1 and not shown.endswith("...") else ""))
    return " ".join([*path, *arguments, "[OPTIONS]"])


def command_text(path: tuple[str, ...], command: Any) -> str:
    """The section of one command."""
    text = (command.help or "").replace("``", "`").replace("\f", "").replace("\b\n", "")
    text = re.sub(r"For example: (smoes-sim [^;\n]*)", r"For example: `\1`", text)
    parameters = [item for item in command.params if not getattr(item, "hidden", False) and item.name != "help"]
    rows = [parameter_row(item) for item in parameters]
    parts = [f"### {' '.join(path[1:])}", f"```\n{usage(path, command)}\n```", text]
    if rows:
        parts.append(table(["argument or option", "meaning", "default"], rows))
    return "\n\n".join(parts)


def command_pages() -> dict[str, str]:
    """The page of all commands, grouped by help panel where there are panels."""
    sections: dict[str, list[str]] = {}
    root = typer.main.get_command(app)
    groups = getattr(root, "commands", {})
    for path, command in commands(root):
        panel = panel_of(groups[path[1]]) or panel_of(command) or "Commands"
        sections.setdefault(panel, []).append(command_text(path, command))
    parts = [
        "# Command line",
        "`smoes-sim COMMAND --help` prints the same. `--json` prints one JSON document on stdout. Exit codes: 0 success, "
        "1 a check failed, 2 bad input, with one line on stderr that says where the problem is and what to do.",
    ]
    for panel, texts in sections.items():
        parts += [f"## {panel}", *texts]
    return {"commands.md": "\n\n".join(parts) + "\n"}
