"""What the sender's kernel takes in counts as sent, what is sent next shares the link with it; receives take time too."""

from __future__ import annotations

import numpy as np
import pytest
from build_from import star, topology

from smoes_sim.network import Network, exchange_time, phases_of


def on_star(ranks: int, **constants: float) -> Network:
    """Ports of 10 B/s."""
    return Network.on(topology(star(ranks, bandwidth="10 B/s", latency="0 us")), **constants)


def matrix(ranks: int, sizes: dict[tuple[int, int], float]) -> np.ndarray:
    found = np.zeros((ranks, ranks))
    for pair, size in sizes.items():
        found[pair] = size
    return found


def finish(network: Network, sizes: np.ndarray, schedule: str = "pairwise") -> list[float]:
    phases = phases_of(network, [sizes], schedule=schedule, rendezvous=True)
    return exchange_time(network, phases).finish.tolist()


def test_the_next_round_starts_early_and_shares_the_port_with_the_rest() -> None:
    # rank 0 sends 20 B to 1, then 10 B to 2. Unbuffered: 2 s, then 1 s. With 10 B buffered the second begins at 1 s, when
    # 10 B of the first are left: both have 5 B/s and are there at 3 s. For rank 0 the second is sent with its first 0.01 B.
    sizes = matrix(3, {(0, 1): 20, (0, 2): 10})
    assert finish(on_star(3), sizes) == pytest.approx([3, 2, 3])
    assert finish(on_star(3, send_buffer=10), sizes) == pytest.approx([1 + 0.01 / 5, 3, 3])


def test_a_message_that_fits_counts_as_sent_at_once() -> None:
    sizes = matrix(3, {(0, 1): 20, (0, 2): 10})
    first, second, third = finish(on_star(3, send_buffer=100), sizes)
    # 0.02 B of the first leave in 2 ms; then 19.98 B and 10 B share the port: 10 B are there 2 s later, the rest at 3 s
    assert (first, third, second) == pytest.approx((0.002 + 0.01 / 5, 2.002, 3))


def test_an_exchange_that_posts_all_at_once_ends_when_it_did_but_its_senders_go_on_earlier() -> None:
    sizes = matrix(3, {(0, 1): 20, (0, 2): 20, (1, 0): 10})
    assert finish(on_star(3), sizes, "direct") == pytest.approx([4, 4, 4])
    # 40 B leave rank 0 in 4 s; at 2 s the kernel has the last 10 B of each, and rank 0 its message from 1
    assert finish(on_star(3, send_buffer=10), sizes, "direct") == pytest.approx([2, 4, 4])


@pytest.mark.parametrize("schedule", ["direct", "pairwise", "two_hop", "all_to_all_single"])
def test_no_byte_is_lost(schedule: str) -> None:
    sizes = np.random.default_rng(0).uniform(1, 50, (4, 4))
    network = on_star(4, send_buffer=20)
    phases = phases_of(network, [sizes], schedule=schedule)
    cut = network.buffered(phases)
    assert len(cut) == 2 * len(phases)
    for flows, first, rest in zip(phases, cut[::2], cut[1::2], strict=True):
        assert (first.size + rest.size).tolist() == pytest.approx(flows.size.tolist())
        assert first.messages.tolist() == flows.messages.tolist()
        assert not rest.messages.any()
        assert (rest.size <= 20).all()


def test_receives_are_made_ready_one_by_one_before_anything_is_sent() -> None:
    # rank 0 makes two receives ready in 2 s and then sends; ranks 1 and 2 have one each, 1 s
    sizes = matrix(3, {(0, 1): 10, (0, 2): 10, (1, 0): 10, (2, 0): 10})
    assert finish(on_star(3), sizes, "direct") == pytest.approx([2, 2, 2])
    # to rank 0 from 2 s on, to be there at 4 s; from rank 0 from 2 s on as well
    assert finish(on_star(3, per_receive=1), sizes, "direct") == pytest.approx([4, 4, 4])


def test_in_rounds_each_receive_is_made_ready_when_its_round_comes() -> None:
    sizes = np.full((3, 3), 10.0)  # two rounds of 1 s
    assert finish(on_star(3), sizes) == pytest.approx([2, 2, 2])
    assert finish(on_star(3, per_receive=0.25), sizes) == pytest.approx([2.5, 2.5, 2.5])


def test_without_a_rendezvous_nothing_is_made_ready() -> None:
    phases = phases_of(on_star(3), [np.full((3, 3), 10.0)])
    assert exchange_time(on_star(3, per_receive=1), phases).duration == pytest.approx(2)
