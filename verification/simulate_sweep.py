"""The rows of ``lazaretto simulate --sweep``: one thing changed at a time.

Around a base setting (the command's other options) these are varied: claims in the epoch, share of
true ones, effects, shapes of noise, calibrated verifiers with nulls as noisy as their bound allows
and noisier, nodes from 3 to 10,000, shares of liars from 10 to 40 % of all nodes, every kind of
liar at 20 %, and every kind with no more liars on any bench than it tolerates (``f liars``; as few
nodes as there can be, and so long an epoch that they are not overrun).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, get_args

from verification.simulate_setting import Liar, Noise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.simulate_setting import Setting

CLAIMS: Final = (126, 333, 700)
TRUE_SHARES: Final = (0.01, 0.1)
EFFECTS: Final = (0.5, 1.0, 2.0, 3.0, 5.0)
NULL_SDS: Final = (1.0, 1.5, 2.0)
NODES: Final = (10, 1000, 10_000)
LIAR_SHARES: Final = (0.1, 0.2, 0.3, 0.4)
KIND_SHARE: Final = 0.2


def sweep(base: Setting) -> list[tuple[str, Setting]]:
    """Labels and settings, each setting once."""
    found: dict[Setting, str] = {}
    for label, changes in _changes(base):
        row = replace(base, **changes)
        if not row.problem():
            found.setdefault(row, label)
    return [(label, row) for row, label in found.items()]


def _changes(base: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "as given", {}
    for claims in CLAIMS:
        yield f"{claims} claims", {"claims": claims}
    for share in TRUE_SHARES:
        yield f"{share:.0%} true", {"true_share": share}
    for effect in EFFECTS:
        yield f"effect {effect:g}", {"effect": effect}
    for noise in get_args(Noise):
        changes = {"noise": noise, "calibrated": base.calibrated and noise != "bank"}
        yield f"noise {noise}", changes
    for null_sd in NULL_SDS:
        yield f"calibrated, null SD {null_sd:g}", {"calibrated": True, "null_sd": null_sd}
    yield "3 nodes, bench 2, f 0", {"nodes": 3, "bench": 2, "liars_tolerated": 0}
    for nodes in NODES:
        yield f"{nodes} nodes", {"nodes": nodes}
    for share in LIAR_SHARES:
        yield f"{share:.0%} always-yes", {"liar_share": share, "liar": "always-yes"}
    for liar in get_args(Liar):
        yield f"{KIND_SHARE:.0%} {liar}", {"liar_share": KIND_SHARE, "liar": liar}
    f = base.liars_tolerated
    if not f:
        return
    for calibrated in (False, True):
        for liar in get_args(Liar):
            yield (
                f"f liars: {liar}{', calibrated' if calibrated else ''}",
                {
                    "liar": liar,
                    "nodes": base.bench + 1,
                    "liar_share": f / (base.bench + 1),
                    "epoch_hours": 50 * base.epoch_hours,
                    "calibrated": calibrated,
                },
            )
