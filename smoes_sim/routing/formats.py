"""Routed experts that serving engines return (vLLM, SGLang), as a trace.

Integers of shape (tokens, layers, top_k), one array per request. Its tokens are the prompt and all generated tokens except
the last, which is never fed in. vLLM: ``examples/rl/routed_experts_e2e.py`` checks that length,
``docs/training/routed_experts_replay.md`` (v0.21) that -1 marks tokens found in the prefix cache. SGLang:
``python/sglang/srt/layers/moe/routed_experts_capturer.py``; its array has all hidden layers, dense ones filled with zeros.
Save one request as ``.npy`` or several as the members of an ``.npz``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from smoes_sim.errors import ConfigError, TraceError
from smoes_sim.routing.trace import AUDIO, DECODE, PREFILL, TEXT, RoutingTrace
from smoes_sim.yaml_files import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRouting:
    """Routing of one sequence, prompt tokens first.

    Attributes:
        expert_ids: Logical expert per slot, -1 for none or unknown, shape (T, L, K).
        modality: Modality codes as in a trace, shape (T,).
        prompt_tokens: Number of prompt tokens; the other tokens were decoded.
        expert_weights: Routing weight of each slot, shape (T, L, K), or None.
    """

    expert_ids: NDArray[np.int16]
    modality: NDArray[np.uint8]
    prompt_tokens: int
    expert_weights: NDArray[np.float16] | None = None


class SequenceTokens(Spec):
    """One request in a tokens file: number of prompt tokens, and a modality code for each (None: all text)."""

    prompt_tokens: int | None = None
    modality: list[int] | None = None


class TokensFile(Spec):
    """A tokens file (JSON): the requests in the order of the arrays, and the layers that have experts."""

    num_experts: int | None = None
    moe_layers: list[int] | None = None
    sequences: list[SequenceTokens] | None = None


def trace_of(
    sequences: Sequence[SequenceRouting], *, num_experts: int, moe_layers: NDArray[np.int32], metadata: dict[str, Any]
) -> RoutingTrace:
    """One trace of several sequences, with tokens in the order of a workload: all prompts, then all decoded tokens."""
    parts = [(sequence, slice(None, sequence.prompt_tokens), PREFILL) for sequence in sequences]
    parts += [(sequence, slice(sequence.prompt_tokens, None), DECODE) for sequence in sequences]
    numbers = np.tile(np.arange(len(sequences), dtype=np.int32), 2)
    lengths = [len(sequence.expert_ids[tokens]) for sequence, tokens, _ in parts]
    weights = [None if sequence.expert_weights is None else sequence.expert_weights[tokens] for sequence, tokens, _ in parts]
    known = [weight for weight in weights if weight is not None]
    return RoutingTrace(
        expert_ids=np.concatenate([sequence.expert_ids[tokens] for sequence, tokens, _ in parts]),
        modality=np.concatenate([sequence.modality[tokens] for sequence, tokens, _ in parts]),
        sequence_id=np.repeat(numbers, lengths),
        phase=np.repeat(np.array([phase for *_, phase in parts], dtype=np.uint8), lengths),
        moe_layers=moe_layers,
        num_experts=num_experts,
        expert_weights=np.concatenate(known) if len(known) == len(parts) else None,
        metadata=metadata,
    )


def read_tokens_file(path: Path) -> TokensFile:
    """Read a tokens file.

    Raises:
        ConfigError: If it cannot be read, is not JSON, or breaks a rule.
    """
    try:
        return TokensFile.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its rights.") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}: is not JSON ({error}). Fix the file.") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {place} = {problem['input']!r}: {problem['msg'].lower()}. Fix the file.") from None


def import_routed_experts(path: Path, *, source: str, tokens: TokensFile, tokens_name: str) -> RoutingTrace:
    """Trace of arrays of routed experts (.npy: one request; .npz: one per member, in the order of their names).

    Args:
        path: The arrays; nothing in the file is executed.
        source: Origin of the arrays, for the metadata of the trace.
        tokens: Prompt lengths and modalities; without ``sequences`` all tokens are prompt text.
        tokens_name: Name of the source of ``tokens``, for errors.

    Raises:
        TraceError: If arrays do not have three axes of integers, differ in layers or top_k, name an expert twice for one
            token and layer, or do not fit ``tokens``.
    """
    if tokens.num_experts is None:
        raise TraceError(
            f"{path}: the number of experts is not in the arrays. Give --num-experts, or num_experts in {tokens_name}."
        )
    arrays = _read_arrays(path)
    asked = tokens.sequences or [SequenceTokens()] * len(arrays)
    if len(asked) != len(arrays):
        raise TraceError(f"{tokens_name}: describes {len(asked)} sequences, but {path} holds {len(arrays)}. Describe each.")
    try:
        _check_arrays(arrays)
        layers = _moe_layers(np.concatenate(list(arrays.values())), tokens.moe_layers)
        sequences = [
            _sequence(name, array, layers, description, num_experts=tokens.num_experts)
            for (name, array), description in zip(arrays.items(), asked, strict=True)
        ]
        return trace_of(
            sequences,
            num_experts=tokens.num_experts,
            moe_layers=np.array(tokens.moe_layers or layers, dtype=np.int32),
            metadata={"source": source, "file": path.name},
        )
    except TraceError as error:
        raise error.at(str(path)) from None


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            if stream.read(2) not in {b"PK", b"\x93N"}:  # numpy would take anything else for a pickle
                raise ValueError("neither a zip archive nor an array")
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {path.stem: loaded}
            with loaded:
                return {name: loaded[name] for name in sorted(loaded.files)}
    except (OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise TraceError(f"{path}: cannot be read as arrays ({reason}). Save them with numpy.save or numpy.savez.") from None


def _check_arrays(arrays: dict[str, NDArray[Any]]) -> None:
    if not arrays:
        raise TraceError("holds no array. Save one array per request.")
    first = next(iter(arrays.values()))
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "iu":
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "no array"
            raise TraceError(f"{name} is {found}; it must hold integers of shape (tokens, layers, top_k).")
        if array.shape[1:] != first.shape[1:]:
            raise TraceError(
                f"{name} has {array.shape[1:]} layers and slots, others {first.shape[1:]}. Save arrays of one model."
            )


def _moe_layers(ids: NDArray[Any], given: Sequence[int] | None) -> list[int]:
    """Indices of the array's layers that have experts: as given, or those where the slots of some token differ.

    No router picks an expert twice for a token, so a layer of equal ids (0 or -1) has no experts.
    """
    count = ids.shape[1]
    if given is not None:
        if len(given) == count:
            return list(range(count))
        if not given or min(given) < 0 or max(given) >= count:
            raise TraceError(
                f"moe_layers = {list(given)} does not fit {count} layers. Give one index for each layer that has experts."
            )
        return list(given)
    if ids.shape[2] == 1:
        return list(range(count))
    routes = (ids != ids[:, :, :1]).any(axis=(0, 2))
    if not routes.any():
        raise TraceError("no layer has routed tokens. Is the axis order (tokens, layers, top_k)?")
    return [int(layer) for layer in np.flatnonzero(routes)]


def _sequence(
    name: str, array: NDArray[Any], layers: Sequence[int], tokens: SequenceTokens, *, num_experts: int
) -> SequenceRouting:
    ids = array[:, list(layers)].astype(np.int64)
    if ids.size and (int(ids.min()) < -1 or int(ids.max()) >= num_experts):
        wrong = int(ids.min()) if int(ids.min()) < -1 else int(ids.max())
        raise TraceError(
            f"{name} holds expert {wrong}; with {num_experts} experts ids go from 0 to {num_experts - 1}, or -1."
        )
    _refuse_twice(name, ids)
    prompt = len(ids) if tokens.prompt_tokens is None else tokens.prompt_tokens
    if not 0 < prompt <= len(ids):
        raise TraceError(f"{name} holds {len(ids)} tokens; prompt_tokens = {prompt} must be 1..{len(ids)}.")
    modality = np.full(len(ids), TEXT, dtype=np.uint8)
    if tokens.modality is not None:
        if len(tokens.modality) != prompt or not set(tokens.modality) <= set(range(AUDIO + 1)):
            raise TraceError(f"{name}: modality must hold a code of 0..{AUDIO} for each of {prompt} prompt tokens.")
        modality[:prompt] = tokens.modality
    return SequenceRouting(expert_ids=ids.astype(np.int16), modality=modality, prompt_tokens=prompt)


def _refuse_twice(name: str, ids: NDArray[np.int64]) -> None:
    ordered = np.sort(ids, axis=2)
    twice = ((ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)).any(axis=2)
    if twice.any():
        token, layer = (int(index) for index in np.argwhere(twice)[0])
        raise TraceError(
            f"{name}: token {token} names an expert twice in layer {layer} of the kept ones ({ids[token, layer].tolist()}); "
            "a router picks distinct ones. Is the axis order (tokens, layers, top_k)?"
        )
