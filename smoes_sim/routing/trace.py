"""Routing traces: which experts each token used, as arrays and as an ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from smoes_sim.errors import TraceError
from smoes_sim.yaml_files import replacing

TEXT, IMAGE, VIDEO, AUDIO = range(4)
PREFILL, DECODE = range(2)
_REQUIRED = ("expert_ids", "modality", "sequence_id", "phase", "moe_layers", "num_experts")
_OPTIONAL = ("expert_weights", "modality_score", "metadata")
_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
)
"""Exceptions of numpy and zipfile for a file that is truncated, damaged, encrypted or of another kind."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RoutingTrace:
    """Routing decisions of T tokens in L MoE layers, K slots each.

    Attributes:
        expert_ids: Logical expert per slot, -1 where there is none, int16 (T, L, K).
        modality: 0 text, 1 image, 2 video, 3 audio, uint8 (T,).
        sequence_id: Sequence of each token, int32 (T,).
        phase: 0 prefill, 1 decode, uint8 (T,).
        moe_layers: Index of each MoE layer in the model, int32 (L,).
        num_experts: Routed experts of a layer, E.
        expert_weights: Routing weight of each slot, float16 (T, L, K), or None.
        modality_score: Soft text score of each token, float16 (T, L), or None.
        metadata: Model, source, seed and parameters, JSON values.

    Example:
        >>> from smoes_sim import synthesize
        >>> trace = synthesize("olmoe-two-orin", "workload.batch=1", "workload.decode_batch=1")
        >>> trace
        <routing trace of ... tokens in 16 MoE layers, top-8 of 64 experts>

    """

    expert_ids: NDArray[np.int16]
    modality: NDArray[np.uint8]
    sequence_id: NDArray[np.int32]
    phase: NDArray[np.uint8]
    moe_layers: NDArray[np.int32]
    num_experts: int
    expert_weights: NDArray[np.float16] | None = None
    modality_score: NDArray[np.float16] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and ranges.

        Raises:
            TraceError: With the array and the first offending value.
        """
        _check_shapes(self)
        _check_values(self)

    @classmethod
    def load(cls, path: str | Path) -> RoutingTrace:
        """The trace in a file (``.npz``); nothing in the file is executed.

        Raises:
            TraceError: If the file cannot be read or breaks a rule.
        """
        return load_trace(Path(path))

    def save(self, path: str | Path) -> None:
        """Write the trace as compressed ``.npz``; the same trace gives the same bytes.

        Raises:
            ConfigError: If the file cannot be written.
        """
        save_trace(self, Path(path))

    def __repr__(self) -> str:
        chosen = f"top-{self.top_k} of {self.num_experts} experts"
        return f"<routing trace of {self.num_tokens} tokens in {self.num_layers} MoE layers, {chosen}>"

    @property
    def num_tokens(self) -> int:
        """Number of tokens, T."""
        return len(self.expert_ids)

    @property
    def num_layers(self) -> int:
        """Number of MoE layers, L."""
        return self.expert_ids.shape[1]

    @property
    def top_k(self) -> int:
        """Slots of a token in each layer, K."""
        return self.expert_ids.shape[2]

    @property
    def is_vision(self) -> NDArray[np.bool_]:
        """Mask of the tokens of images and video, shape (T,)."""
        return (self.modality == IMAGE) | (self.modality == VIDEO)

    def select(self, tokens: NDArray[Any]) -> RoutingTrace:
        """The trace of some tokens only; ``tokens`` is a mask (T,) or indices."""
        return RoutingTrace(
            expert_ids=self.expert_ids[tokens],
            modality=self.modality[tokens],
            sequence_id=self.sequence_id[tokens],
            phase=self.phase[tokens],
            moe_layers=self.moe_layers,
            num_experts=self.num_experts,
            expert_weights=None if self.expert_weights is None else self.expert_weights[tokens],
            modality_score=None if self.modality_score is None else self.modality_score[tokens],
            metadata=self.metadata,
        )

    def at_layers(self, layers: Sequence[int]) -> RoutingTrace:
        """The trace of some of its MoE layers only, by their position, 0..L-1."""
        wanted = list(layers)
        return RoutingTrace(
            expert_ids=self.expert_ids[:, wanted],
            modality=self.modality,
            sequence_id=self.sequence_id,
            phase=self.phase,
            moe_layers=self.moe_layers[wanted],
            num_experts=self.num_experts,
            expert_weights=None if self.expert_weights is None else self.expert_weights[:, wanted],
            modality_score=None if self.modality_score is None else self.modality_score[:, wanted],
            metadata=self.metadata,
        )


def _check_shapes(trace: RoutingTrace) -> None:
    if trace.expert_ids.ndim != 3:
        raise TraceError(f"expert_ids has the shape {trace.expert_ids.shape}; it must be (tokens, layers, top_k).")
    T, L, K = trace.expert_ids.shape
    if T == 0 or L == 0 or K == 0:
        raise TraceError(f"expert_ids has the shape {(T, L, K)}: the trace is empty. Capture at least one token.")
    wanted: dict[str, tuple[int, ...]] = {
        "modality": (T,),
        "sequence_id": (T,),
        "phase": (T,),
        "moe_layers": (L,),
        "expert_weights": (T, L, K),
        "modality_score": (T, L),
    }
    for name, shape in wanted.items():
        value = getattr(trace, name)
        if value is not None and value.shape != shape:
            raise TraceError(f"{name} has the shape {value.shape}; expert_ids {(T, L, K)} needs {shape}.")


def _check_values(trace: RoutingTrace) -> None:
    low, high = int(trace.expert_ids.min()), int(trace.expert_ids.max())
    if low < -1 or high >= trace.num_experts:
        wrong = low if low < -1 else high
        raise TraceError(
            f"expert_ids holds {wrong}; with num_experts = {trace.num_experts} ids go from 0 to "
            f"{trace.num_experts - 1}, or -1 for none."
        )
    if trace.top_k > trace.num_experts:
        raise TraceError(f"top_k = {trace.top_k} is more than num_experts = {trace.num_experts}.")
    for name in ("expert_weights", "modality_score"):
        value = getattr(trace, name)
        if value is not None and not np.isfinite(value).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise TraceError(f"{name}{list(place)} is {value[place]}; every value must be finite.")
    for name, largest in (("modality", AUDIO), ("phase", DECODE)):
        if (top := int(getattr(trace, name).max())) > largest:
            raise TraceError(f"{name} holds {top}; known codes go from 0 to {largest}.")


def save_trace(trace: RoutingTrace, path: Path) -> None:
    """Write a trace as compressed ``.npz``; equal traces give equal bytes."""
    arrays: dict[str, Any] = {
        name: getattr(trace, name) for name in _REQUIRED + _OPTIONAL[:2] if getattr(trace, name) is not None
    }
    arrays["num_experts"] = np.int32(trace.num_experts)
    arrays["metadata"] = np.array(orjson.dumps(trace.metadata, option=orjson.OPT_SORT_KEYS).decode())
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_trace(path: Path) -> RoutingTrace:
    """The trace of an ``.npz`` file; nothing in the file is executed.

    Raises:
        TraceError: If the file cannot be read, is truncated, lacks an array, or an array breaks a rule.
    """
    try:
        with path.open("rb") as stream:
            return _from_arrays(_read_arrays(stream))
    except TraceError as error:
        raise error.at(str(path)) from None
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise TraceError(f"{path}: cannot be read as a trace ({reason}). Is it a whole .npz file?") from None


def _read_arrays(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    if stream.read(2) not in {b"", b"PK", b"\x93N"}:  # numpy would read it as a pickle and advise to trust it
        raise ValueError("neither a zip archive nor an array")
    stream.seek(0)
    archive = np.load(stream, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise TraceError("is not an .npz archive. Write traces with `smoes-sim trace synthesize`.")
    with archive:
        members = {name: archive[name] for name in archive.files}
    return {name: value for name, value in members.items() if isinstance(value, np.ndarray)}


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> RoutingTrace:
    for name in _REQUIRED:
        if name not in arrays:
            raise TraceError(f"has no array {name}. It needs {', '.join(_REQUIRED)}.")
    try:
        metadata = orjson.loads(str(arrays["metadata"])) if "metadata" in arrays else {}
    except orjson.JSONDecodeError as error:
        raise TraceError(f"metadata is not JSON ({error}).") from None
    if not isinstance(metadata, dict):
        raise TraceError(f"metadata is the JSON value {metadata!r}; it must be an object of names and values.")
    num_experts = _integers(arrays, "num_experts", np.int32)
    if num_experts.shape != ():
        raise TraceError(f"num_experts has the shape {num_experts.shape}; it must be one number.")
    return RoutingTrace(
        expert_ids=_integers(arrays, "expert_ids", np.int16),
        modality=_integers(arrays, "modality", np.uint8),
        sequence_id=_integers(arrays, "sequence_id", np.int32),
        phase=_integers(arrays, "phase", np.uint8),
        moe_layers=_integers(arrays, "moe_layers", np.int32),
        num_experts=int(num_experts),
        expert_weights=_halves(arrays, "expert_weights"),
        modality_score=_halves(arrays, "modality_score"),
        metadata=metadata,
    )


def _integers(arrays: dict[str, NDArray[Any]], name: str, dtype: Any) -> NDArray[Any]:
    """An array of integers as ``dtype``; values that do not fit are an error, not wrapped around."""
    value, limits = arrays[name], np.iinfo(dtype)
    if value.dtype.kind not in "iu":
        raise TraceError(f"{name} is {value.dtype}; it must hold integers.")
    extremes = (int(value.min()), int(value.max())) if value.size else ()
    for extreme in extremes:
        if not limits.min <= extreme <= limits.max:
            raise TraceError(f"{name} holds {extreme}; it must fit {limits.dtype}, {limits.min} to {limits.max}.")
    return value.astype(dtype)


def _halves(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float16] | None:
    """An array of numbers as float16, or None if missing; overflow becomes infinity, which is refused later."""
    if name not in arrays:
        return None
    if arrays[name].dtype.kind not in "fiu":
        raise TraceError(f"{name} is {arrays[name].dtype}; it must hold real numbers.")
    with np.errstate(over="ignore"):
        return arrays[name].astype(np.float16)
