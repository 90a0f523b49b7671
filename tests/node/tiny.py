"""A founded swarm whose experiments take a second: real keys, real charter, real data, homes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from node.governing import found, load_plan, make_charter, new_member
from node.settings import Home, Limits, Settings
from swarm.blobs import BlobStore
from swarm.database import read_raw
from swarm.keys import KeyPair
from swarm.store import Store
from tests.training.candidates import TIER, load, text
from training.challenge import Challenge
from training.documents import Manifest, SplitRef

if TYPE_CHECKING:
    from pathlib import Path

QUICK = replace(TIER, name="quick")
BETTER = load("honest")
BASE = BETTER.replace(b"lr=0.1", b"lr=0.001")
FOLDS = 10


def tiny_swarm(
    path: Path, parts: dict[str, tuple[str, ...]], limits: Limits | None = None, **policy: object
) -> dict[str, Home]:
    """Homes of a swarm with these members; the first is its founder and governor.

    Each is an operator of its own and holds the data and the founder's records. ``policy``: what
    the tier has in place of the demo's.
    """
    splits = [text(seed, documents=12, words=90).to_bytes() for seed in range(3, 4 + FOLDS)]
    train = text(1).to_bytes()
    refs = [SplitRef.of(data) for data in splits]
    manifest = Manifest((SplitRef.of(train),), refs[0], tuple(refs[1:]))
    challenge = Challenge("tiny", "bytes", 256, BASE, (QUICK,), manifest)
    plan = load_plan(None)
    tier = replace(plan.tiers[0], min_effect_nano=10**8, **policy)
    homes = {name: Home(path / name) for name in parts}
    keys = {name: KeyPair.generate() for name in parts}
    founder, *_ = keys.values()
    charter = make_charter(replace(plan, name="tiny", tiers=(tier,)), founder.public, challenge)
    members = [
        new_member(keys[name].public, name, roles, founder.public, ["quick"])
        for name, roles in parts.items()
    ]
    records: list[bytes] = []
    for name, home in homes.items():
        home.create()
        keys[name].save(home.key)
        for data in (train, *splits):
            BlobStore(home.blobs).put(data)
        if not records:
            with found(home.log, keys[name], charter, members) as store:
                swarm = store.swarm
            records = [row.data for row in read_raw(home.log)]
        else:
            with Store(home.log, swarm) as store:
                store.ingest(records)
        home.save(
            Settings(
                name, swarm.hex(), name, roles=parts[name], calibrate=False,
                limits=limits or Limits(),
            )
        )  # fmt: skip
    return homes
