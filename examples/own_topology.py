"""Describe a cluster in a few lines, look at it, and time an all-to-all on it."""

from __future__ import annotations

import smoes_sim as ss

cluster = ss.Topology.load(
    {
        "kind": "two_level",
        "description": "Two nodes of four devices, one 200 Gb/s NIC per node",
        "nodes": 2,
        "ranks_per_node": 4,
        "scale_up": {"kind": "nvlink4", "bandwidth": "450 GB/s", "latency": "1 us"},
        "nic": {"kind": "infiniband", "per": "node", "bandwidth": "200 Gb/s", "latency": "2 us"},
    }
)
print(f"{cluster.num_ranks} ranks on {cluster.num_nodes} nodes, {cluster.num_links} directed links")

# By hand: each node sends 4 * 4 blocks of 8 MiB through one NIC of 25 GB/s: 16 * 8388608 / 25e9 = 5.37 ms.
found = ss.alltoall(cluster, size="64 MiB", links=2)
row = found.rows[0]
print(f"64 MiB per rank: {row.time_s * 1e3:.2f} ms, lower bound {row.bound_s * 1e3:.2f} ms, busbw {row.busbw_GBps:.1f} GB/s")
