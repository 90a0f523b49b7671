"""Commands about a node's own work: experiments, the notebook, logs of other loops, receipts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from node.cli_common import HomeFlag, JsonFlag
from node.settings import find_home

experiments = App(name="experiments", help="What this node tried, negative results included.")

TierFlag = Annotated[str, Parameter(help="quick, cpu or gpu; all by default.", show_default=False)]
Number = Annotated[int, Parameter(help="As in the list.")]


@experiments.command(name="list")
def list_(*, tier: TierFlag = "", home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """All experiments of this node, oldest first."""
    from node.experiments import show_list

    return show_list(find_home(home), tier=tier, as_json=as_json)


@experiments.command
def show(number: Number, *, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """One experiment: hypothesis, pairs, cost, outcome, and what the swarm made of it."""
    from node.experiments import show_one

    return show_one(find_home(home), number, as_json=as_json)


@experiments.command
def diff(number: Number, *, home: HomeFlag = None) -> int:
    """What one experiment changed in its base, as a unified diff."""
    from node.experiments import show_diff

    return show_diff(find_home(home), number)


def notebook(
    *,
    tier: TierFlag = "quick",
    out: Annotated[Path | None, Parameter(help="Markdown file; stdout by default.")] = None,
    tsv: Annotated[Path | None, Parameter(help="results.tsv in autoresearch's columns.")] = None,
    git: Annotated[
        Path | None, Parameter(help="Repository for a branch with a commit for each kept one.")
    ] = None,
    home: HomeFlag = None,
) -> int:
    """This node's experiments as Markdown, as results.tsv, or as a git branch."""
    from node.exporting import export

    for line in export(find_home(home), tier=tier, out=out, tsv=tsv, git=git):
        print(line, file=sys.stderr)
    return 0


def import_autoresearch(
    log: Annotated[Path, Parameter(help="results.tsv, or the directory that it is in.")],
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Take in the log of an autoresearch session, as history that nobody has verified."""
    from node.importing import import_log

    return import_log(find_home(home), log, as_json=as_json)


def contribution(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Claims that this node confirmed or overturned, each with a signed receipt."""
    from node.contribution import show_contribution

    return show_contribution(find_home(home), as_json=as_json)
