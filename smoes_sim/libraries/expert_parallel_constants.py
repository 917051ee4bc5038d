"""Constants of expert-parallel kernels, which do not follow from the topology: meaning, prior and its source.

Priors are rounded from data sheets and the sources named here; spreads are the differences between systems and libraries.
The fit to the rows of ``published.csv`` moves them.
"""

from __future__ import annotations

from smoes_sim.libraries.family import Constant

_SHARED = (
    Constant(
        what="link",
        prior=0.8,
        spread=0.3,
        between=0.3,
        is_share=True,
        meaning="Share of a scale-up link's nominal rate that copies reach (all-to-all: 0.75 of NVLink, 0.60-0.67 of xGMI)",
        priors={"xgmi": 0.65},
    ),
    Constant(
        what="sm",
        prior=30e9,
        spread=0.5,
        between=0.3,
        meaning="B/s that one SM or CU puts on scale-up links, where a row says how many were given",
    ),
    Constant(
        what="network",
        prior=0.93,
        spread=0.3,
        between=0.4,
        is_share=True,
        meaning="Share of the NIC's nominal rate; clean two-node fabrics reach 0.93 to 0.97",
    ),
    Constant(
        what="overlap",
        prior=0.75,
        spread=0.3,
        between=0.3,
        is_share=True,
        meaning="How far NIC and scale-up links work at the same time: 0 one after another, 1 the longer hides the other",
    ),
    Constant(
        what="reduce",
        prior=3e12,
        spread=0.2,
        between=0.15,
        meaning="B/s at which combine reads K copies of each token (H100 HBM3: 3.35e12, data sheet)",
    ),
    Constant(
        what="combine",
        prior=1.0,
        spread=0.1,
        between=0.15,
        meaning="Time on scale-up links in combine over that of as many bytes in dispatch",
    ),
)
NORMAL_CONSTANTS = (
    *_SHARED,
    Constant(
        what="device",
        prior=0.9,
        spread=0.4,
        between=0.3,
        is_share=True,
        meaning="Rate at which a device's cores copy, as a share of the full link of its generation",
    ),
    Constant(
        what="launch",
        prior=40e-6,
        spread=0.4,
        between=0.2,
        meaning="Seconds until copies flow and after the last one: kernel, channels, flags inside a node",
    ),
    Constant(
        what="handshake",
        prior=5e-6,
        spread=0.7,
        between=0.4,
        meaning="Seconds that a network adds to the start: round trips",
    ),
    Constant(
        what="peer",
        prior=0.2e-6,
        spread=0.5,
        between=0.7,
        meaning="Seconds for each rank beyond the NIC: its flags and, with a process on the host, its messages",
        priors={"host": 3e-6},
    ),
    Constant(
        what="header",
        prior=1000.0,
        spread=0.5,
        between=0.3,
        meaning="Bytes that would take the time of a copy's indices, weights and flags on scale-up links",
    ),
)
LOW_LATENCY_CONSTANTS = (
    *_SHARED,
    Constant(
        what="device",
        prior=0.7,
        spread=0.5,
        between=0.3,
        is_share=True,
        meaning="Rate at which a device's cores copy, as a share of the full link of its generation",
    ),
    Constant(
        what="launch",
        prior=13e-6,
        spread=0.4,
        between=0.25,
        meaning="Seconds until copies flow and after the last one: kernel and flags inside a node",
    ),
    Constant(
        what="handshake",
        prior=5e-6,
        spread=0.5,
        between=0.5,
        meaning="Seconds that a network adds to the start: round trips of the barrier",
    ),
    Constant(
        what="peer",
        prior=0.2e-6,
        spread=0.5,
        between=1.2,
        meaning="Seconds for each rank beyond the NIC: its flags and, with a process on the host, its messages",
        priors={"host": 3e-6},
    ),
    Constant(
        what="header",
        prior=300.0,
        spread=0.7,
        between=0.3,
        meaning="Bytes that would take the time of a copy's flags on scale-up links",
    ),
    Constant(
        what="first",
        prior=3e-6,
        spread=0.3,
        between=0.2,
        meaning="Seconds that even one copy takes: cast, write, flag, read",
    ),
)
