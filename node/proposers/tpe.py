"""Optuna's tree-structured Parzen estimator over the literals at the top of a train.py.

The space is conditional: first which knob, then its value, so that a proposal changes one literal
and reads like a hypothesis. Now and then the best change known of another knob goes along.

The study is not stored: it is built anew from ``Memory`` for every frontier, and that is what makes
it survive ``kill -9``. Trials against earlier frontiers count too, moved to the new present value:
what a value was worth, less what the adopted value was worth.
"""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

from node.proposers.knobs import Knob, knobs, random_change
from node.proposers.protocol import Change, Outcome
from node.proposers.sampling import PUT_OFF, TRIES, hand_out, readable
from training.source import ast_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from node.proposers.memory import Memory
    from node.proposers.protocol import Proposal, ProposalContext

STARTUP_TRIALS = 8
PAIR_SHARE = 0.25
FAILED = -1.0
"""What a failed run counts as, in bits per byte."""
NANO = 1e9


class TpeProposer:
    """Proposes by Optuna's TPE; ``seed`` makes a sequence of draws repeatable."""

    name = "tpe"

    def __init__(self, memory: Memory, *, seed: int) -> None:
        self._memory = memory
        self._seed = seed
        self._random = random.Random(seed + memory.size)
        self._optuna = _optuna()

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The most promising edit that has not been tried; None when nothing new is found."""
        space = knobs(context.code)
        if not space or not readable(context.code):
            return None
        base = ast_hash(context.code)
        known = self._known(base, space)
        study = self._study(space, known)
        best = _best(known)
        for attempt in range(TRIES):
            if attempt < PUT_OFF:
                change = self._ask(study, space)
            else:  # the model insists on what was tried: fall back to chance
                change = random_change(space, self._random)
            changes = [change]
            if best and best.name != change.name and self._random.random() < PAIR_SHARE:
                changes.append(best)
            again = attempt >= PUT_OFF
            if proposal := hand_out(self._memory, context, changes, self.name, again=again):
                return proposal
        return None

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Remembers the outcome; the next proposal uses it."""
        self._memory.settle(proposal_id, outcome)

    def close(self) -> None:
        """Closes the memory."""
        self._memory.close()

    def _known(self, base: bytes, space: Sequence[Knob]) -> list[tuple[Change, float]]:
        """Single-knob findings, as (change from the present value, gain in bits per byte)."""
        present = {knob.name: knob.value for knob in space}
        gains: dict[tuple[str, Any], float] = {}
        singles: list[tuple[bytes, Change, float]] = []
        for trial in self._memory.trials():
            gain = trial.outcome.d_nano / NANO if trial.outcome.status == "measured" else FAILED
            # A pair was a new change and the best one known: the rest of the gain is the new one's.
            for companion in trial.changes[1:]:
                gain -= gains.get((companion.name, companion.new), 0.0)
            if trial.changes:
                change = trial.changes[0]
                gains[change.name, change.new] = gain
                singles.append((trial.base, change, gain))
        found = []
        for origin, change, gain in singles:
            if change.name not in present or type(change.new) is not type(present[change.name]):
                continue
            here = present[change.name]
            if origin != base and change.old != here:
                gain -= gains.get((change.name, here), 0.0)
            found.append((Change(change.name, here, change.new), gain))
        return found

    def _study(self, space: Sequence[Knob], known: Sequence[tuple[Change, float]]) -> Any:
        optuna = self._optuna
        sampler = optuna.samplers.TPESampler(
            seed=(self._seed * 1_000_003 + self._memory.size) % 2**31,
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=24,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        by_name = {knob.name: knob for knob in space}
        for change, gain in known:
            place = by_name[change.name].where(change.new)
            params: dict[str, Any] = {"knob": change.name}
            if place is not None:
                params[change.name] = place
            study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=self._distributions(space, params),
                    value=max(FAILED, gain),
                )
            )
        return study

    def _distributions(self, space: Sequence[Knob], params: Mapping[str, Any]) -> dict[str, Any]:
        kinds = self._optuna.distributions
        names = [knob.name for knob in space]
        return {
            name: kinds.CategoricalDistribution(names)
            if name == "knob"
            else kinds.FloatDistribution(-1.0, 1.0)
            for name in params
        }

    def _ask(self, study: Any, space: Sequence[Knob]) -> Change:
        trial = study.ask()
        name = trial.suggest_categorical("knob", [knob.name for knob in space])
        knob = next(item for item in space if item.name == name)
        value = knob.at(trial.suggest_float(name, -1.0, 1.0))
        study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return Change(name, knob.value, value)


def _best(known: Sequence[tuple[Change, float]]) -> Change | None:
    change, gain = max(known, key=lambda item: item[1], default=(None, 0.0))
    return change if gain > 0 and change is not None and change.new != change.old else None


def _optuna() -> Any:
    """Optuna, imported on first use (half a second) and quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
