"""The answer of ``simulate``: what a deployment sends, holds and takes, with an interval for every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from smoes_sim.display.result import Result, flat
from smoes_sim.display.tables import Interval, Table, pairs, percent, ranged, seconds, size
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.charts import comparison_chart
from smoes_sim.prediction.describe import TransmissionRates
from smoes_sim.prediction.memory_fit import MemoryFit
from smoes_sim.validation_errors import nearest
from smoes_sim.workload import Phase

if TYPE_CHECKING:
    import altair as alt

_NESTED = ("transmission_rate", "memory", "intervals", "draws")
"""Fields that are not written as they are."""
_OPTIONAL = ("mixed_step_s", "decode_imbalance", "cache_move_s", "cache_move_bytes")
"""Keys that a JSON document holds only where they have a value, besides those that begin with ``decode_``."""
NOMINAL = (
    "nominal: links at their full rated bandwidth, no software cost; communication times are lower bounds (no calibration)"
)
"""What the first lines of an uncalibrated answer say."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Result):
    """What a deployment does.

    Times are in seconds, sizes in bytes; each time is the median over the sets of constants (``draws``). See the page on
    metrics for every formula.

    Attributes:
        name: Name of the scenario.
        model: Name of the model.
        topology: Name of the topology.
        ranks: Number of ranks.
        policy: Routing policy.
        token_placement: Rule that gives tokens their home ranks.
        expert_placement: Rule that gives experts their slots.
        expert_layout: EP groups, and slots of each rank, in words; None for a dense model, or where an earlier version did
            not say.
        deduplicate: Whether a token is sent once per rank or per node.
        phase: What was asked for: ``both``, ``prefill`` or ``decode``. Where this list says prefill, the same key describes
            a decode step if only decode was asked for.
        sequences: Number of sequences of all ranks; None where an earlier version did not say.
        context: Mean number of tokens of a sequence before its first decode step; None as above.
        bytes_total: Bytes of dispatch and combine in prefill, with those that stay on their rank.
        bytes_remote: Bytes of dispatch and combine in prefill from rank to rank.
        decode_bytes_remote: The same in a decode step.
        attention_exchange: What travels in the attention of prefill where sequences are on several ranks: ``queries``,
            ``kv`` or ``moved_cache``; ``none`` where nothing is owed.
        decode_attention_exchange: The same in decode; None without decode.
        attention_exchange_bytes: Bytes from rank to rank around the attention of prefill, over all layers.
        decode_attention_exchange_bytes: The same in a decode step; None without decode.
        attention_exchange_s: Those exchanges in prefill, each timed alone.
        exchanges_bytes: ``bytes_remote + attention_exchange_bytes``.
        exchanges_s: ``ep_comm_s + attention_exchange_s``: what the placement of experts and tokens makes ranks exchange.
        cache_move_bytes: Bytes of the cache that moves once to the ranks that decode; None where it is there.
        cache_move_s: Seconds of that, between prefill and the first decode step.
        imbalance: Routed tokens of the busiest rank / mean, in prefill.
        decode_imbalance: The same in decode; None without decode.
        transmission_rate: Shares of (token, layer) pairs that need another rank; None for a dense model.
        msi: Mean modality specialisation index; None for a dense model.
        memory: Whether it fits.
        not_counted: What the times leave out.
        calibration: Name of the calibration; None for nominal rates.
        warnings: What the user should check.
        step_s: Prefill without what is outside the layers.
        ep_comm_s: Dispatch and combine of the prefill, each exchange timed alone.
        ep_exposed_s: Time that prefill would save if dispatch and combine took no time.
        tp_comm_s: Gathers and scatters of attention groups in prefill.
        bound_s: Lower bound of ``ep_comm_s``.
        network_error: Largest relative error of an exchange; 0 is exact.
        lateness_s: Longest wait of a message for the next window of the network; 0 is exact.
        ttft_s: Time to the first token; None without prefill, as the next and ``tokens_per_s_prefill...``.
        outside_s: Part of the prefill outside the layers (vision encoder).
        ep_overhead: ``ep_exposed_s / step_s``.
        tokens_per_s_prefill: Prompt tokens per second.
        tokens_per_s_prefill_per_rank: The same per rank.
        tokens_per_s: Output tokens per second of the batch; decode alone: sequences / TPOT.
        tpot_s: Time per output token; None without decode.
        mixed_step_s: A step with a chunk of prefill and a decode step; None where prefill is not in chunks.
        decode_step_s: These and the following: as above, of a decode step; None without decode.
        fidelity: Network model.
        engine: What timed the passes: ``exact``, every event in turn, or ``fast``, one fluid solution an exchange.
        engine_error: Relative difference of the fast to the exact engine on a few layers, which the times correct; 0 for the
            exact one, None where it was too large to be measured.
        layers: Number of MoE layers of the model.
        layers_simulated: Number of those whose exchanges are simulated; totals are estimated from them.
        decode_steps: Number of decode steps.
        decode_steps_simulated: Number of those that are simulated.
        intervals: 80% interval of each time (without a calibration the range of stated efficiencies).
        draws: Values of each time under every set of constants.

    Example:
        >>> from smoes_sim import simulate
        >>> small = {"workload": {"text_tokens": 8, "output_tokens": 2, "batch": 2}, "calibration": None}
        >>> found = simulate("olmoe-two-orin", small)
        >>> found.ranks, found.memory.fits, found.calibration
        (2, True, None)
        >>> low, high = found.interval("ttft_s")
        >>> low <= found.ttft_s <= high
        True

    """

    model: str
    topology: str
    ranks: int
    policy: str
    token_placement: str
    expert_placement: str
    deduplicate: str
    expert_layout: str | None = None
    phase: Phase = "both"
    sequences: int | None = None
    context: float | None = None
    bytes_total: float
    bytes_remote: float
    decode_bytes_remote: float
    attention_exchange: str = "none"
    decode_attention_exchange: str | None = None
    attention_exchange_bytes: float = 0.0
    decode_attention_exchange_bytes: float | None = None
    cache_move_bytes: float | None = None
    cache_move_s: float | None = None
    attention_exchange_s: float = 0.0
    exchanges_bytes: float | None = None
    exchanges_s: float | None = None
    imbalance: float
    transmission_rate: TransmissionRates | None
    msi: float | None
    memory: MemoryFit
    not_counted: list[str]
    step_s: float
    ep_comm_s: float
    ep_exposed_s: float
    tp_comm_s: float
    bound_s: float
    network_error: float
    lateness_s: float
    ttft_s: float | None = None
    outside_s: float | None = None
    ep_overhead: float
    tokens_per_s_prefill: float | None = None
    tokens_per_s_prefill_per_rank: float | None = None
    tokens_per_s: float
    tpot_s: float | None = None
    mixed_step_s: float | None = None
    decode_imbalance: float | None = None
    decode_step_s: float | None = None
    decode_ep_comm_s: float | None = None
    decode_ep_exposed_s: float | None = None
    decode_tp_comm_s: float | None = None
    decode_attention_exchange_s: float | None = None
    decode_exchanges_s: float | None = None
    decode_bound_s: float | None = None
    decode_network_error: float | None = None
    decode_lateness_s: float | None = None
    decode_ep_overhead: float | None = None
    decode_engine: str | None = None
    decode_engine_error: float | None = None
    fidelity: str = "fluid"
    engine: str = "exact"
    engine_error: float | None = None
    layers: int | None = None
    layers_simulated: int | None = None
    decode_steps: int | None = None
    decode_steps_simulated: int | None = None
    calibration: str | None = None
    warnings: list[str] = field(default_factory=list)
    name: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    draws: dict[str, list[float]] = field(default_factory=dict)

    def interval(self, key: str) -> Interval | None:
        """The interval of a time, such as ``ttft_s``; None where one set of constants is all that is known.

        Raises:
            ConfigError: If there is no quantity of that name.
        """
        known = {part.name for part in fields(self)}
        if key not in known:
            raise ConfigError(f'"{key}" is no quantity of a prediction. {nearest(key, known)}')
        return self.intervals.get(key)

    def values(self) -> dict[str, Any]:
        """The JSON document without the name."""
        rates = self.transmission_rate
        plain = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in _NESTED}
        del plain["name"]
        kept = {key: value for key, value in plain.items() if value is not None or not _is_optional(key)}
        return kept | {
            "transmission_rate": None if rates is None else asdict(rates),
            "memory": self.memory.to_dict(),
            "intervals": {key: list(ends) for key, ends in self.intervals.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``simulate --json``."""
        return {"name": self.name} | self.values()

    @classmethod
    def of_dict(cls, document: Mapping[str, Any], draws: Mapping[str, list[float]] | None = None) -> Self:
        """The prediction of a JSON document; keys that are not of a prediction are left out.

        Args:
            document: What :meth:`to_dict` or :meth:`values` gave.
            draws: Values under every set of constants, where they were kept.
        """
        known = {part.name for part in fields(cls)} - {*_NESTED}
        plain = {key: value for key, value in document.items() if key in known}
        rates = document["transmission_rate"]
        return cls(
            **plain,
            transmission_rate=None if rates is None else TransmissionRates(**rates),
            memory=MemoryFit.of_dict(document["memory"]),
            intervals={key: (ends[0], ends[1]) for key, ends in document["intervals"].items()},
            draws={} if draws is None else dict(draws),
        )

    def records(self) -> list[dict[str, Any]]:
        """One flat row."""
        return [flat(self.to_dict())]

    def tables(self) -> list[Table]:
        """One line per quantity."""
        head = [f"warning: {warning}" for warning in self.warnings]
        head += [] if self.calibration else [NOMINAL]
        return [*([Table(notes=head)] if head else []), pairs(self._lines())]

    def plot(self) -> alt.HConcatChart:
        """Bars of traffic, imbalance, TTFT and TPOT; whiskers are intervals.

        Raises:
            ConfigError: If the plotting libraries are not installed.
        """
        return comparison_chart([self.to_dict()], [self.name or self.policy])

    def _lines(self) -> dict[str, str]:
        rates = {} if self.transmission_rate is None else asdict(self.transmission_rate)
        if self.phase != "both":
            rates = {name: value for name, value in rates.items() if name.startswith(self.phase)}
        shares = ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in rates.items())
        has_prefill, has_decode = self.phase != "decode", self.decode_step_s is not None
        remote, balance = [], []
        if has_prefill:
            remote, balance = [f"{size(self.bytes_remote)} in prefill"], [f"{self.imbalance:.3f} in prefill"]
        if self.phase != "prefill":
            remote.append(f"{size(self.decode_bytes_remote)} per decode step")
            balance.append(f"{self.decode_imbalance or 1.0:.3f} in decode")
        lines = {
            "deployment": f"{self.model} on {self.topology} ({self.ranks} ranks), routing {self.policy}",
            "workload": self._asked(),
            "constants": f"calibration {self.calibration}" if self.calibration else "nominal",
            "expert placement": "; ".join(filter(None, (self.expert_placement, self.expert_layout))),
            "token placement": f"{self.token_placement}, deduplication {self.deduplicate}",
            "transmission rate (%)": shares or "-",
            "bytes between ranks": ", ".join(remote),
            "imbalance (max/mean)": ", ".join(balance),
            "TTFT": self._ranged("ttft_s"),
            "TPOT": self._ranged("tpot_s"),
            "output tokens/s": ranged(self.tokens_per_s, self.interval("tokens_per_s"), "{:.4g}".format),
            "EP communication, prefill": f"{self._ranged('ep_comm_s')}, lower bound {seconds(self.bound_s)}",
            "EP exposed, prefill": self._exposed(""),
            "EP communication, decode": f"{self._ranged('decode_ep_comm_s')}, lower bound {seconds(self.decode_bound_s)}",
            "EP exposed, decode": self._exposed("decode_"),
            f"TP communication, {'prefill' if has_prefill else 'decode'}": self._ranged("tp_comm_s"),
            "attention exchange, prefill": self._attention(""),
            "attention exchange, decode": self._attention("decode_"),
            "cache moved once": f"{size(self.cache_move_bytes or 0.0)} in {self._ranged('cache_move_s')}",
            "mixed step": self._ranged("mixed_step_s"),
            "memory": str(self.memory),
            "engine": self._engine(),
            "network error": self._network_error(),
            "not counted": ", ".join(self.not_counted),
        }
        gone = {f"TP communication, {phase}" for phase in ("prefill", "decode") if not self.tp_comm_s}
        gone |= set() if self.mixed_step_s is not None else {"mixed step"}
        gone |= set() if self.phase != "both" else {"workload"}
        gone |= set() if has_prefill else {"TTFT", "EP communication, prefill", "EP exposed, prefill"}
        gone |= set() if has_decode else {"EP communication, decode", "EP exposed, decode"}
        gone |= set() if self.phase != "prefill" else {"TPOT"}
        gone |= set() if self.attention_exchange_bytes and has_prefill else {"attention exchange, prefill"}
        gone |= set() if self.decode_attention_exchange_bytes else {"attention exchange, decode"}
        gone |= set() if self.cache_move_bytes else {"cache moved once"}
        gone |= set() if self.not_counted else {"not counted"}
        return {key: line for key, line in lines.items() if key not in gone}

    def _asked(self) -> str:
        """What was asked for, where it is one phase."""
        if self.sequences is None or self.context is None:
            return f"{self.phase} only"
        each = f"{'context' if self.phase == 'decode' else 'prompt'} {self.context:g}"
        return f"{self.phase} only: {self.sequences} sequences, {self.sequences / self.ranks:g} per rank, {each}"

    def _ranged(self, key: str) -> str:
        return ranged(getattr(self, key), self.interval(key), seconds)

    def _attention(self, phase: str) -> str:
        scheme, sent = getattr(self, f"{phase}attention_exchange"), getattr(self, f"{phase}attention_exchange_bytes") or 0.0
        return f"{scheme}, {size(sent)}, {self._ranged(f'{phase}attention_exchange_s')}"

    def _exposed(self, phase: str) -> str:
        share = ranged(getattr(self, f"{phase}ep_overhead"), self.interval(f"{phase}ep_overhead"), percent)
        whole = seconds(getattr(self, f"{phase}step_s"))
        return f"{self._ranged(f'{phase}ep_exposed_s')} = {share} % of the {whole} in the layers"

    def _engine(self) -> str:
        """How the passes were timed, and what of them."""
        used = {"prefill": (self.engine, self.engine_error)}
        if self.decode_engine is not None:
            used["decode"] = (self.decode_engine, self.decode_engine_error)
        errors = {phase: error for phase, (engine, error) in used.items() if engine == "fast"}
        text = _fast(list(errors.values())) if errors else "exact"
        if errors and len(errors) < len(used):
            text = f"exact, but in {next(iter(errors))} {text}"
        parts = []
        if self.layers and self.layers_simulated != self.layers:
            parts.append(f"{self.layers_simulated} of {self.layers} MoE layers")
        if self.decode_steps and self.decode_steps_simulated != self.decode_steps:
            parts.append(f"{self.decode_steps_simulated} of {self.decode_steps} decode steps")
        return f"{text}; {' and '.join(parts)} simulated" if parts else text

    def _network_error(self) -> str:
        error = max(self.network_error, self.decode_network_error or 0.0)
        late = max(self.lateness_s, self.decode_lateness_s or 0.0)
        if error == 0.0 and late == 0.0:
            return "0 (every rate change simulated)"
        return f"exchanges within {error:.1g}, messages late by at most {seconds(late)}"


def _fast(errors: Sequence[float | None]) -> str:
    """What the fast engine leaves out, from its differences to the exact one."""
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return "fast, not compared with the exact one, which is too slow here"
    return f"fast, corrected for its {percent(max(known))} % from the exact one" if any(known) else "fast, and exact here"


def _is_optional(key: str) -> bool:
    return key in _OPTIONAL or (key.startswith("decode_") and key != "decode_bytes_remote")
