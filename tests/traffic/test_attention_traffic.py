"""Who needs whom in attention over sequences on several ranks, against loops over all pairs."""

import numpy as np
import pytest

from smoes_sim.models import find_model
from smoes_sim.traffic.attention import KeyPlaces, attention_traffic, query_bytes


def brute_force(keys, queries, num_ranks, *, earlier=()):
    """The needs of queries by loops over all pairs; each token is (sequence, position, rank)."""
    pairs = np.zeros((num_ranks, num_ranks), int)
    asked, sent, new, read = set(), set(), set(), set()
    seen = {(key, home) for s, p, home in earlier for key in keys if key[0] == s and key[1] <= p}
    for s, p, home in queries:
        for key in keys:
            if key[0] == s and key[1] <= p:
                pairs[home, key[2]] += 1
                asked.add(((s, p), home, key[2]))
                sent.add((key, home))
                read.add(key)
    new = sent - seen

    def matrix(entries):
        found = np.zeros((num_ranks, num_ranks), int)
        for one, other in entries:
            found[one, other] += 1
        return found

    return {
        "queries": matrix([(home, rank) for _, home, rank in asked if rank != home]),
        "keys": matrix([(key[2], home) for key, home in sent]),
        "new_keys": matrix([(key[2], home) for key, home in new]),
        "pairs": pairs,
        "read": np.bincount([key[2] for key in read], minlength=num_ranks),
    }


def needs_of(keys, queries, num_ranks):
    """The same by the code under test."""
    (s, p, place), (qs, qp, home) = (np.array(tokens, dtype=np.int64).reshape(-1, 3).T for tokens in (keys, queries))
    return KeyPlaces(s, p, place, num_ranks=num_ranks).needs(qs, qp, home)


def tokens_of(rng, num_ranks):
    """All tokens of a few sequences, in order, each on a random rank."""
    lengths = rng.integers(1, 9, 4)
    return [(s, p, int(rng.integers(num_ranks))) for s, length in enumerate(lengths) for p in range(length)]


@pytest.mark.parametrize("seed", range(12))
def test_needs_of_a_whole_prefill_are_those_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    num_ranks = int(rng.integers(2, 5))
    tokens = tokens_of(rng, num_ranks)
    found = needs_of(tokens, tokens, num_ranks)
    for name, wanted in brute_force(tokens, tokens, num_ranks).items():
        assert np.array_equal(getattr(found, name), wanted), name


@pytest.mark.parametrize("seed", range(12))
def test_needs_of_chunks_are_those_of_all_pairs_and_send_every_key_once(seed):
    rng = np.random.default_rng([seed, 1])
    num_ranks = int(rng.integers(2, 5))
    tokens = tokens_of(rng, num_ranks)
    cut = rng.integers(0, 9, 4)
    first = [token for token in tokens if token[1] < cut[token[0]]]
    second = [token for token in tokens if token[1] >= cut[token[0]]]
    found = [needs_of(tokens, chunk, num_ranks) for chunk in (first, second) if chunk]
    for name, wanted in brute_force(tokens, second, num_ranks, earlier=first).items() if second else ():
        assert np.array_equal(getattr(found[-1], name), wanted), name
    assert np.array_equal(sum(one.new_keys for one in found), needs_of(tokens, tokens, num_ranks).keys)


def test_an_image_needs_nothing_from_the_text_after_it():
    # 3 image tokens on rank 0, 2 text tokens on rank 1: only the text asks, and only image tokens are sent
    tokens = [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 1), (0, 4, 1)]
    found = needs_of(tokens, tokens, 2)
    assert found.queries.tolist() == [[0, 0], [2, 0]]
    assert (found.keys - np.diag(np.diag(found.keys))).tolist() == [[0, 3], [0, 0]]
    assert found.pairs.tolist() == [[6, 0], [6, 3]]  # 1 + 2 + 3; 3 + 3; 1 + 2


def test_a_sequence_on_one_rank_owes_nothing():
    tokens = [(s, p, s % 2) for s in range(4) for p in range(5)]
    found = needs_of(tokens, tokens, 2)
    assert found.is_empty
    for scheme in ("queries", "kv", "moved_cache"):
        assert attention_traffic(found, scheme, find_model("olmoe-1b-7b"), cache_bytes=8192).total_bytes == 0


def test_a_decoded_token_asks_every_rank_with_a_part_of_its_sequence():
    prompt = [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    found = needs_of([*prompt, (0, 3, 1)], [(0, 3, 1)], 3)
    assert found.queries.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert found.pairs.tolist() == [[0, 0, 0], [1, 2, 1], [0, 0, 0]]


def test_what_still_has_to_move_is_what_the_decoding_rank_has_not_received():
    # 4 prompt tokens on ranks 0 0 1 0; rank 1 decodes and has received up to position 2: one token is missing
    places = KeyPlaces(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 0]), num_ranks=2)
    up_to = np.array([3])
    assert places.to_move(np.array([1]), np.array([2]), up_to=up_to).tolist() == [[0, 1], [0, 0]]
    assert places.to_move(np.array([1]), np.array([-1]), up_to=up_to).tolist() == [[0, 3], [0, 0]]
    assert places.to_move(np.array([-1]), np.array([-1]), up_to=up_to).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("name", "query", "result"),
    [
        ("olmoe-1b-7b", 16 * 128 * 2, 16 * (128 * 2 + 4)),
        ("qwen3-30b-a3b", 32 * 128 * 2, 32 * (128 * 2 + 4)),  # GQA: all 32 query heads travel, 4 key heads
        ("deepseek-v3", 128 * 192 * 2, 128 * (128 * 2 + 4)),  # MLA: 128 + 64 wide, values 128
    ],
)
def test_bytes_of_a_query_and_of_its_result_by_hand(name, query, result):
    assert query_bytes(find_model(name)) == (query, result)


@pytest.mark.parametrize("seed", range(4))
def test_work_is_the_same_wherever_it_is_done(seed):
    rng = np.random.default_rng([seed, 2])
    tokens = tokens_of(rng, 3)
    found = needs_of(tokens, tokens, 3)
    model = find_model("olmoe-1b-7b")
    ways = [attention_traffic(found, scheme, model, cache_bytes=8192) for scheme in ("queries", "kv")]
    assert ways[0].pairs.sum() == ways[1].pairs.sum() == found.pairs.sum()
    assert ways[0].away.sum() == ways[1].away.sum()
