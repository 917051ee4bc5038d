"""What holds a deployment back: how much shorter its time gets when one resource takes half as long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from smoes_sim.compute import RankLoad
from smoes_sim.network import Network
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.drafting import seconds_per_token
from smoes_sim.prediction.phase import pass_seconds
from smoes_sim.prediction.times import throughput
from smoes_sim.step.build import Step
from smoes_sim.topology import Topology

_HOST_BUS = "host-bus"


def sensitivity(base: Conditions, *, quantity: str) -> dict[str, float]:
    """Relative decrease of a time when each resource by itself takes half as long.

    ``1 - time with the resource twice as fast / time``, between 0 (it does not matter) and 0.5 (all time is spent on it);
    for ``tokens_per_s`` it is the time per token. A link kind is doubled in bandwidth and halved in latency; ``compute`` are
    the peaks, ``memory`` the memory bandwidth, ``software`` kernel launches and the fixed costs of layers, messages and
    exchanges, ``outside`` a given ``per_prefill``. ``imbalance`` is not halved but removed: every rank has the mean work,
    while the traffic stays. Decode is its middle step.

    Args:
        base: The deployment under one set of constants.
        quantity: ``ttft_s``, ``tpot_s`` or ``tokens_per_s``.

    Example:
        1 s of compute, then 3 s on links, no overlap: compute 0.125, links 0.375.
    """
    before = _seconds(base, quantity)
    return {name: 1 - _seconds(changed, quantity) / before for name, changed in _variants(base)}


def resource_label(name: str, topology: Topology) -> str:
    """A resource in words; a link kind is that of a NIC, of a scale-up domain, or just a link."""
    kind = name.removeprefix("link.")
    if kind == name:
        return {"memory": "memory bandwidth", "outside": "work outside the layers"}.get(name, name)
    of_kind = topology.link_kind == topology.link_kinds.index(kind)
    ends = {*topology.link_source[of_kind].tolist(), *topology.link_target[of_kind].tolist()}
    if any(topology.vertex_kinds[vertex] == "nic" for vertex in ends):
        return f"NIC and fabric ({kind})"
    return f"scale-up link ({kind})" if topology.num_nodes < topology.num_ranks else f"link ({kind})"


def _variants(base: Conditions) -> Iterator[tuple[str, Conditions]]:
    """The same conditions with one resource changed, by the name of the resource."""
    deployment, network, rates = base.deployment, base.network, base.rates
    for kind in deployment.topology.count_kinds():
        if kind != _HOST_BUS:
            faster = _with_faster_links(network, kind)
            other = deployment.on(_with_faster_links(deployment.network, kind))
            yield f"link.{kind}", replace(base, deployment=other, network=faster)
    device = rates.device
    peaks = {name: peak and 2 * peak for name, peak in device if name.startswith("peak_")}
    for name, update in (("compute", peaks), ("memory", {"memory_bandwidth": 2 * device.memory_bandwidth})):
        yield name, replace(base, rates=replace(rates, device=device.model_copy(update=update)))
    half = replace(
        network,
        per_message=network.per_message / 2,
        per_exchange=network.per_exchange / 2,
        per_receive=network.per_receive / 2,
    )
    launches = replace(rates, launch=rates.launch / 2, per_layer=rates.per_layer / 2)
    yield "software", replace(base, network=half, rates=launches)
    if base.per_prefill is not None:
        yield "outside", replace(base, per_prefill=base.per_prefill / 2)
    yield "imbalance", replace(base, deployment=_with_even_work(deployment))


def _seconds(case: Conditions, quantity: str) -> float:
    """Seconds of the first token, of a token after it, or per token of the whole batch."""
    deployment = case.deployment

    def total(steps: Sequence[Step]) -> float:
        return sum(pass_seconds(case, step) for step in steps)

    middle = len(deployment.decode) // 2
    decode = deployment.decode[middle : middle + 1]
    tpot = 0.0 if quantity == "ttft_s" else seconds_per_token(case, decode, total(decode))
    if quantity == "tpot_s":
        return tpot
    chunks = deployment.chunks
    ttft = total(chunks) / len(chunks) * deployment.num_chunks + case.outside
    return ttft if quantity == "ttft_s" else 1 / throughput(deployment, ttft, tpot)


def _with_faster_links(network: Network, kind: str) -> Network:
    """Links of a kind with twice the bandwidth and half the latency."""
    topology = network.topology
    factor = np.where(topology.link_kind == topology.link_kinds.index(kind), 2.0, 1.0)
    return network.with_links(bandwidth=topology.link_bandwidth * factor, latency=topology.link_latency / factor)


def _with_even_work(deployment: Deployment) -> Deployment:
    """Every rank with the mean of the work of all."""

    def even(step: Step) -> Step:
        return replace(step, batches=[replace(batch, load=_mean_load(batch.load)) for batch in step.batches])

    return replace(
        deployment,
        chunks=[even(step) for step in deployment.chunks],
        decode=[even(step) for step in deployment.decode],
    )


def _mean_load(load: RankLoad) -> RankLoad:
    """The mean over ranks of every count, which may be a fraction; a count that is not given stays so."""
    counts = {field.name: getattr(load, field.name) for field in fields(load)}
    given = {name: value for name, value in counts.items() if isinstance(value, np.ndarray)}
    means: dict[str, Any] = {
        name: np.broadcast_to(value.mean(axis=-1, keepdims=True), value.shape) for name, value in given.items()
    }
    return replace(load, **means)
