"""What is next: a pure rule, which no word of others can bend out of shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agenda import ENOUGH, STAGGER_SECONDS, Need, Picture, next_job

CALM = Picture(due=0, waiting=0, verifiers=5, researches=True, needs=())
A, B = b"a" * 32, b"b" * 32
SHORT = Need("recheck", A, A, hands=0, drawn=False, adopted=True)
DRAWN = replace(SHORT, drawn=True, hands=50)


def kind(picture: Picture) -> str | None:
    job = next_job(picture)
    return job.kind if job else None


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        (CALM, "research"),
        (replace(CALM, researches=False), None),
        (replace(CALM, due=1, needs=(DRAWN,)), "reproduce"),
        (replace(CALM, needs=(DRAWN,)), "recheck"),
        (replace(CALM, needs=(SHORT,)), "research"),
        (replace(CALM, needs=(SHORT,), researches=False), "recheck"),
        (replace(CALM, needs=(SHORT,), waiting=6), "recheck"),
        (replace(CALM, needs=(SHORT,), waiting=5), "research"),
        (replace(CALM, researches=False, needs=(replace(SHORT, hands=ENOUGH),)), None),
        (replace(CALM, researches=False, needs=(replace(SHORT, adopted=False),)), None),
        (replace(CALM, researches=False, needs=(replace(SHORT, kind="store"),)), "store"),
    ],
)
def test_first_what_is_due_then_what_is_short(picture: Picture, wanted: str | None) -> None:
    assert kind(picture) == wanted
    job = next_job(picture)
    assert job is None or job.why


def test_what_has_the_fewest_hands_goes_first_and_says_so() -> None:
    needs = (replace(SHORT, hands=1), replace(SHORT, kind="audit", claim=B, target=B))
    job = next_job(replace(CALM, researches=False, needs=needs))
    assert job is not None
    assert job.need == needs[1]
    assert B.hex()[:8] in job.why
    assert f"0 of {ENOUGH} others" in job.why


def test_idle_members_do_not_all_begin_with_the_same_piece() -> None:
    late = replace(SHORT, rank=2 * ENOUGH + 1, age=0.0)
    picture = replace(CALM, researches=False, needs=(late,))
    assert kind(picture) is None
    assert kind(replace(picture, needs=(replace(late, age=2 * STAGGER_SECONDS),))) == "recheck"


NEEDS = st.lists(
    st.builds(
        Need,
        kind=st.sampled_from(["recheck", "audit", "store"]),
        claim=st.sampled_from([A, B]),
        target=st.sampled_from([A, B]),
        hands=st.integers(0, 9),
        drawn=st.booleans(),
        adopted=st.booleans(),
        rank=st.integers(0, 9),
        age=st.floats(0, 600),
    ),
    max_size=6,
).map(tuple)
PICTURES = st.builds(
    Picture, due=st.integers(0, 1), waiting=st.integers(0, 9), verifiers=st.integers(0, 9),
    researches=st.booleans(), needs=NEEDS,
)  # fmt: skip


@given(PICTURES, st.integers(0, 1000))
def test_who_says_that_all_is_done_keeps_nobody_from_their_share(picture: Picture, lies) -> None:
    """However many hands others claim: a share that falls to us is done, and a pair goes first."""
    told = replace(
        picture, needs=tuple(replace(need, hands=need.hands + lies) for need in picture.needs)
    )
    job = next_job(told)
    if picture.due:
        assert job is not None
        assert job.kind == "reproduce"
    elif any(need.drawn for need in picture.needs):
        assert job is not None
        assert job.need is not None
        assert job.need.drawn
    elif picture.researches:
        assert job is not None
        assert job.kind == "research" or picture.waiting > picture.verifiers
