"""Any bytes to anything that reads bytes of a peer: refused by contract, or taken. Few inputs here;
``make soak`` runs a million."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.swarm.fuzzing import SEEDS, mutate, run, targets
from tests.swarm.fuzzing_words import Messages

if TYPE_CHECKING:
    import random

TARGETS = targets()
EXAMPLES = {"arrivals": 25, "protocols": 25, "door": 25}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused(name):
    @settings(
        max_examples=EXAMPLES.get(name, 60),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(
        seed=st.sampled_from(SEEDS[name]),
        random=st.randoms(use_true_random=False),
        noise=st.none() | st.binary(max_size=200),
    )
    def check(seed: bytes, random: random.Random, noise: bytes | None) -> None:
        run(TARGETS[name], mutate(seed, random, SEEDS[name]) if noise is None else noise)

    check()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "proof"])
def test_the_seeds_reach_the_inside(name):
    """A fuzzer that starts from inputs that are refused at the door finds nothing."""
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_messages_of_gossip_reach_the_node():
    """Their target lets pass what the reader of gossip blames on the sender."""
    fresh = Messages()
    for seed in SEEDS["gossip_message"]:
        fresh(seed)
    assert fresh.taken == 3
