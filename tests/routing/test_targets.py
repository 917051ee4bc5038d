from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from smoes_sim.errors import TraceError
from smoes_sim.routing import (
    Rates,
    RouterParameters,
    SyntheticRouter,
    Tokens,
    find_parameters,
    modality_specialisation,
    published,
)


def tokens_of(vision, text, decode, sequences=4):
    total = vision + text + decode
    return Tokens(
        modality=np.repeat(np.array([1, 0], np.uint8), [vision, text + decode]),
        sequence_id=(np.arange(total) % sequences).astype(np.int32),
        phase=np.repeat(np.array([0, 1], np.uint8), [vision + text, decode]),
    )


TOKENS = tokens_of(300, 100, 60)
MANY = tokens_of(9000, 3000, 6000)
POINT = 0.01
"""Tolerance of a rate on MANY: four standard errors of 24 000 pairs of a token and a layer, half of them independent."""


def router_of(policy, *, experts=16, top_k=2, layers=4, seed=0):
    return SyntheticRouter(policy=policy, num_experts=experts, top_k=top_k, num_layers=layers, seed=seed)


def shown(router, parameters, tokens=MANY):
    """Rates of (vision, prefill, decode) between two ranks."""
    trace = router.route(tokens, parameters, with_weights=False)
    is_text, decoded = tokens.modality == 0, tokens.phase == 1
    home = np.where(is_text if router.policy == "smoes" else tokens.sequence_id % 2 == 1, 1, -1)
    leaves = np.empty((trace.num_tokens, trace.num_layers), bool)
    for layer in range(trace.num_layers):
        leaves[:, layer] = (router.side[layer][trace.expert_ids[:, layer]] != home[:, None]).any(axis=1)
    return [float(leaves[rows].mean()) for rows in (~decoded & ~is_text, ~decoded, decoded)]


def test_the_published_figures_are_those_of_the_notes():
    # notes, section 2; MSI: section 3
    known = published()
    assert known["standard"].rates == Rates(prefill_vision=0.977, prefill=0.980, decode=0.865)
    assert known["smoes"].rates == Rates(prefill_vision=0.150, prefill=0.311, decode=0.433)
    assert known["hard"].rates is None
    assert known["hard"].msi == 1.0


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("smoes", (0.15, 0.311, 0.433)),
        ("smoes", (0.5, 0.6, 0.9)),
        ("standard", (0.70, 0.71, 0.65)),
        ("standard", (0.6, 0.62, 0.58)),
    ],
)
def test_wanted_rates_are_met_on_many_tokens(policy, wanted):
    router = router_of(policy)
    rates = Rates(prefill_vision=wanted[0], prefill=wanted[1], decode=wanted[2])
    assert shown(router, find_parameters(router, TOKENS, rates=rates)) == pytest.approx(wanted, abs=POINT)


def test_a_rate_of_zero_and_of_one_can_be_met():
    router = router_of("smoes")
    rates = Rates(prefill_vision=0.0, prefill=0.25, decode=1.0)  # text: 100 of 400 tokens, all remote
    assert shown(router, find_parameters(router, TOKENS, rates=rates)) == pytest.approx((0, 0.25, 1), abs=1e-3)


def test_without_decode_tokens_the_rate_of_decode_does_not_matter():
    router, tokens = router_of("standard"), tokens_of(300, 100, 0)
    parameters = find_parameters(router, tokens, rates=Rates(prefill_vision=0.7, prefill=0.7, decode=0.0))
    assert parameters.slot_correlation[2] == 0.0


@pytest.mark.parametrize(("policy", "msi"), [("standard", 0.3), ("smoes", 0.3), ("smoes", 0.62), ("smoes", 0.8)])
def test_a_wanted_specialisation_index_is_met(policy, msi):
    router = router_of(policy, experts=32, top_k=4)
    tokens = tokens_of(900, 400, 100)
    trace = router.route(tokens, find_parameters(router, tokens, msi=msi))
    assert modality_specialisation(trace).mean() == pytest.approx(msi, abs=0.002)  # fewer tokens than are sampled


def test_few_text_tokens_among_many_do_not_pass_for_specialisation():
    # of 20 000 tokens an even sample of 1500 has 71 of text, 4 slots an expert: chance alone looks like an index of 0.3
    router = router_of("standard", experts=64, top_k=4, layers=2)
    tokens = tokens_of(20000, 1000, 0)
    trace = router.route(tokens, find_parameters(router, tokens, msi=0.25))
    assert modality_specialisation(trace).mean() == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize(("policy", "msi"), [("standard", 0.35), ("smoes", 0.6)])
def test_rates_and_index_are_met_together(policy, msi):
    router = router_of(policy, experts=32, top_k=4)
    tokens = tokens_of(900, 400, 100)
    wanted = (0.9, 0.91, 0.8) if policy == "standard" else (0.15, 0.3, 0.4)
    rates = Rates(prefill_vision=wanted[0], prefill=wanted[1], decode=wanted[2])
    parameters = find_parameters(router, tokens, rates=rates, msi=msi)
    assert shown(router, parameters, tokens_of(9000, 4000, 6000)) == pytest.approx(wanted, abs=POINT)
    assert modality_specialisation(router.route(tokens, parameters)).mean() == pytest.approx(msi, abs=0.01)


def test_hard_routing_has_nothing_to_find():
    rates = Rates(prefill_vision=0.5, prefill=0.5, decode=0.5)
    found = find_parameters(router_of("hard"), TOKENS, rates=rates, popularity=0.4)
    assert found == RouterParameters(popularity=0.4)


def test_prefill_rates_that_contradict_each_other_are_refused_with_the_text_rate_they_ask_for():
    # (0.1 * 400 - 0.9 * 300) / 100 = -2.3
    rates = Rates(prefill_vision=0.9, prefill=0.1, decode=0.5)
    message = (
        r"rates\.prefill = 0\.1 and rates\.prefill_vision = 0\.9 imply a text rate of -2\.3 with 300 vision and 100 text"
    )
    for policy in ("standard", "smoes"):
        with pytest.raises(TraceError, match=message):
            find_parameters(router_of(policy), TOKENS, rates=rates)


@pytest.mark.parametrize(
    ("wanted", "population", "value"),
    [
        # a token of a random home finds its experts there at most every other time, so about 0.5 is the least
        ((0.70, 0.71, 0.10), "decode", "0.1"),
        ((0.30, 0.30, 0.65), "prefill_vision", "0.3"),
        ((0.70, 0.78, 0.65), "prefill_text", "1"),  # (0.78 * 400 - 0.7 * 300) / 100 = 1.02: refused before
    ],
)
def test_a_rate_out_of_reach_is_refused_with_what_can_be_reached(wanted, population, value):
    rates = Rates(prefill_vision=wanted[0], prefill=wanted[1], decode=wanted[2])
    message = rf"{value} for {population} cannot be reached by a standard router .* 0\.\d+ to 0\.\d+\. Choose"
    if population == "prefill_text":
        message = r"imply a text rate of 1\.02 "
    with pytest.raises(TraceError, match=message):
        find_parameters(router_of("standard"), TOKENS, rates=rates)


def test_what_an_error_says_can_be_reached_can_be_reached():
    router = router_of("standard")
    with pytest.raises(TraceError, match="cannot be reached") as caught:
        find_parameters(router, TOKENS, rates=Rates(prefill_vision=0.7, prefill=0.7, decode=0.99))
    least, most = (float(word) for word in str(caught.value).split("which has ")[1].split(". Choose")[0].split(" to "))
    assert 0.4 < least < most < 0.9
    middle = (least + most) / 2
    parameters = find_parameters(router, TOKENS, rates=Rates(prefill_vision=0.7, prefill=0.7, decode=middle))
    assert shown(router, parameters)[2] == pytest.approx(middle, abs=POINT)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_rate_must_be_a_share(value):
    with pytest.raises(ValidationError, match="prefill_vision"):
        Rates(prefill_vision=value, prefill=0.5, decode=0.5)
