"""An all-to-all on 16 nodes of 8 H100 whose tokens prefer some ranks: which link is full, and what the skew costs."""

from __future__ import annotations

import smoes_sim as ss

print("Zipf exponent  time (ms)  over equal blocks")
equal = ss.alltoall("h100-rail-16", size="64 MiB").rows[0].time_s
for exponent in (0.3, 0.6, 1.0):
    time = ss.alltoall("h100-rail-16", size="64 MiB", zipf=exponent).rows[0].time_s
    print(f"{exponent:13}  {time * 1e3:9.2f}  {time / equal:16.1f}x")

found = ss.alltoall("h100-rail-16", size="64 MiB", zipf=1.0, links=3)
print(f"\n{found}")
