"""Commands that need no swarm: one experiment, policies compared, cheats, simulated verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from node.cli_common import CorpusFlag, JsonFlag, progress
from verification.simulate_setting import Setting


def experiment(
    *,
    base: Annotated[str, Parameter(help="A train.py, or a built-in one: quick, cpu, gpu.")],
    candidate: Annotated[str, Parameter(help="The train.py that may be better; same names.")],
    tier: Annotated[str, Parameter(help="quick, cpu or gpu: model scale and budget.")] = "quick",
    pairs: Annotated[int, Parameter(help="Pairs, each with a seed and a fold of its own.")] = 1,
    seed: Annotated[int, Parameter(help="What seeds and folds are drawn from.")] = 0,
    corpus: CorpusFlag = None,
    folds: Annotated[
        int | None, Parameter(help="Holdout folds to cut.", show_default=False)
    ] = None,
    budget_seconds: Annotated[
        float | None, Parameter(help="Another budget: CPU seconds, or seconds of GPU.")
    ] = None,
    budget_tokens: Annotated[int | None, Parameter(help="Another budget: tokens.")] = None,
    trace: Annotated[
        bool,
        Parameter(
            negative="",
            help="Show where the candidate fails; without its words, where it has seen text "
            "that it is scored on.",
        ),
    ] = False,
    screen: Annotated[
        bool, Parameter(help="Read the change as the screen of a swarm does.")
    ] = True,
    keep: Annotated[
        Path | None, Parameter(help="Directory to store the result in, digests included.")
    ] = None,
    resume: Annotated[
        bool, Parameter(help="Take up runs and scores that an earlier invocation finished.")
    ] = True,
    as_json: JsonFlag = False,
) -> int:
    """Is one train.py better than another? Measures pairs here, without a swarm.

    Exit 1: the candidate failed, cheats, or has a change that no claim may have. Exit 2: nothing
    could be measured.
    """
    from node.experiment import Options, run_experiment

    return run_experiment(
        Options(
            base=base, candidate=candidate, tier=tier, pairs=pairs, seed=seed, corpus=corpus,
            folds=folds, budget_seconds=budget_seconds, budget_tokens=budget_tokens, trace=trace,
            screen=screen, keep=keep, resume=resume, as_json=as_json,
        )
    )  # fmt: skip


def compare(
    *,
    tier: Annotated[Literal["quick", "cpu"], Parameter(help="Model scale and budget.")] = "quick",
    proposer: Annotated[
        Literal["tpe", "random"], Parameter(help="Who has the ideas, for both alike.")
    ] = "tpe",
    repeats: Annotated[int, Parameter(help="How often, each from another seed.")] = 3,
    budget_runs: Annotated[int, Parameter(help="Runs for each policy in each repeat.")] = 120,
    budget_seconds: Annotated[
        float, Parameter(help="Seconds of compute at most, instead or besides; 0: no limit.")
    ] = 0.0,
    pairs: Annotated[int, Parameter(help="Fresh pairs that tell what the results are worth.")] = 12,
    seed: Annotated[int, Parameter(help="What everything is drawn from.")] = 0,
    corpus: CorpusFlag = None,
    jobs: Annotated[int, Parameter(help="Processes that measure side by side.")] = 1,
    as_json: JsonFlag = False,
) -> int:
    """Greedy keep or revert against this program's rules: the same budget of real experiments.

    Can be stopped at any moment, and taken up again by the same command.
    """
    from node.compare import Options, run_compare

    return run_compare(
        Options(
            tier=tier, proposer=proposer, repeats=repeats, budget_runs=budget_runs,
            budget_seconds=budget_seconds, pairs=pairs, seed=seed, corpus=corpus, jobs=jobs,
            as_json=as_json,
        )
    )  # fmt: skip


def cheats(
    directory: Annotated[
        Path | None,
        Parameter(help="Your own: a directory of train.py files, or one such file."),
    ] = None,
    *,
    only: Annotated[
        tuple[str, ...], Parameter(negative="", help="Names of adversaries or controls.")
    ] = (),
    controls: Annotated[
        bool, Parameter(negative="", help="Only the honest controls, none of which may be refused.")
    ] = False,
    naive: Annotated[
        bool, Parameter(help="Show what each wins in a loop that is not sealed.")
    ] = True,
    tier: Annotated[
        Literal["quick", "small"], Parameter(help="Tier in which your own files are tried.")
    ] = "quick",
    twin: Annotated[
        Path | None, Parameter(help="What your own files are compared with; the tier's base.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Try every known way to cheat on this machine. Exit 1: one gained, or an honest one failed."""
    from node.cheats_table import show_cheats

    return show_cheats(
        directory, names=only, only_controls=controls, naive=naive, tier=tier, twin=twin,
        as_json=as_json,
    )  # fmt: skip


def simulate(
    *,
    setting: Annotated[Setting, Parameter(name="*")] = Setting(),  # noqa: B008 (frozen)
    repeats: Annotated[
        int | None,
        Parameter(
            help="Epochs that are simulated, 3; or lives of each kind, 8.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, Parameter(help="What everything is drawn from.")] = 0,
    sweep: Annotated[
        bool, Parameter(negative="", help="Vary one thing at a time around these options.")
    ] = False,
    lifetime: Annotated[
        bool, Parameter(negative="", help="Whole lives of a swarm: epochs, new keys, retractions.")
    ] = False,
    bank: Annotated[
        Path | None,
        Parameter(help="Measured differences of edits, as JSON, instead of the shipped."),
    ] = None,
    plot: Annotated[
        Path | None, Parameter(help="Draw FDR and power: a .svg, .png or .pdf file.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """What the rules are worth: epochs of claims whose truth is known, and verifiers who lie.

    Greedy keep or revert, an uncorrected t test, and this swarm's own verdicts, side by side.
    """
    if lifetime:
        from node.simulation_life import lifetime_here

        return lifetime_here(
            setting, repeats=8 if repeats is None else repeats, seed=seed, bank=bank,
            as_json=as_json, progress=progress, other=sweep or plot is not None,
        )  # fmt: skip
    from node.simulation import simulate_here

    return simulate_here(
        setting, repeats=3 if repeats is None else repeats, seed=seed, sweep=sweep, bank=bank,
        plot=plot, as_json=as_json, progress=progress,
    )  # fmt: skip
