"""The command ``lazaretto``. Thin: each command imports what it needs when it runs.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 failure, 2 usage or
settings, 3 no node is running, 4 evidence invalid, 5 evidence incomplete, 6 network, 130
interrupted. ``experiment``: 1 the candidate failed, 2 nothing could be measured.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from node.cli_common import CorpusFlag, HomeFlag, JsonFlag, hint, progress
from node.cli_measuring import cheats, compare, experiment, simulate
from node.cli_members import register
from node.cli_notebook import contribution, experiments, import_autoresearch, notebook
from node.settings import find_home

if TYPE_CHECKING:
    from collections.abc import Sequence


app = App(
    name="lazaretto",
    help="A swarm of ML research agents in which nothing is built on until it was reproduced.",
    version="0.1.0",
    version_flags=["--version"],
)

app.command(experiment)
app.command(compare)
app.command(cheats)
app.command(simulate)
app.command(experiments)
app.command(notebook)
app.command(contribution)
app.command(import_autoresearch, name="import-autoresearch")


@app.command
def demo(
    *,
    corpus: CorpusFlag = None,
    directory: Annotated[
        Path | None, Parameter(help="Where the nodes live; a new temporary one by default.")
    ] = None,
    limit: Annotated[int, Parameter(help="Give up after this many seconds.")] = 420,
    as_json: JsonFlag = False,
) -> int:
    """Run a local swarm: real training, real peers, and two false claims that must not pass."""
    from node.demo.run import run_demo

    return run_demo(corpus=corpus, directory=directory, limit=limit, as_json=as_json)


@app.command
def init(
    name: str,
    *,
    charter: Annotated[Path | None, Parameter(help="Charter file; see configs/demo.toml.")] = None,
    challenge: Annotated[
        Literal["demo", "cpu", "gpu"], Parameter(help="A charter that comes with lazaretto.")
    ] = "demo",
    policy: Annotated[
        Literal["invite", "open"] | None,
        Parameter(help="Who may claim: those admitted, or anybody (only the admitted verify)."),
    ] = None,
    corpus: CorpusFlag = None,
    operator: Annotated[str, Parameter(help="Who runs this node.")] = "founder",
    listen: Annotated[str, Parameter(help="Address to listen on.")] = "/ip4/127.0.0.1/tcp/0",
    home: HomeFlag = None,
) -> int:
    """Found a swarm; this node becomes its governor, researcher and verifier."""
    from node.governing import shipped_charter
    from node.membership import found_here
    from node.progress import bar

    with bar(progress) as stage:
        plan = charter or shipped_charter(challenge)
        swarm = found_here(
            find_home(home), name=name, plan_file=plan, corpus=corpus, operator=operator,
            listen=listen, progress=progress, stage=stage, admission=policy,
        )  # fmt: skip
    print(f"swarm {swarm}")
    hint("start it", "lazaretto up", home)
    hint("then, in another terminal, invite somebody", "lazaretto invite --operator NAME", home)
    return 0


@app.command
def up(*, home: HomeFlag = None) -> int:
    """Run this node until it is stopped: listen, reproduce, research."""
    from node.service import run_node

    where = find_home(home)
    atexit.register(gc.freeze)  # or the process looks for garbage for a second when all is done
    hint("watch it from another terminal", "lazaretto status", home)
    return run_node(where, progress=progress)


@app.command
def down(*, home: HomeFlag = None) -> int:
    """Stop the node that runs in this home; nothing that it signed or finished is lost."""
    from node.stopping import stop

    print(f"stopped process {stop(find_home(home))}")
    return 0


@app.command
def status(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """What this node is, knows and does."""
    from node.report import show_status

    return show_status(find_home(home), as_json=as_json)


@app.command
def inbox(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Claims in quarantine, and how far their reproduction is."""
    from node.report import show_inbox

    return show_inbox(find_home(home), as_json=as_json)


@app.command
def discoveries(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """What was adopted and what was rejected, with the evidence for it."""
    from node.report import show_discoveries

    return show_discoveries(find_home(home), as_json=as_json)


@app.command
def audit(
    claim: Annotated[str, Parameter(help="Id of a claim, or its first digits.")],
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Check a discovery again from stored signed bytes alone. Exit 4: something was changed."""
    from node.auditing import audit_here

    return audit_here(find_home(home), claim, as_json=as_json)


@app.command
def recheck(
    claim: Annotated[str, Parameter(help="Id of a claim, or its first digits.")],
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Score the sealed weights behind a claim again; the node must not be running.

    Exit 4: a block says what its weights do not, and a contradiction was signed. Exit 5: weights
    are missing, or could not be scored here.
    """
    from node.progress import bar
    from node.recheck_table import recheck_here

    with bar(progress) as stage:
        return recheck_here(find_home(home), claim, as_json=as_json, say=progress, stage=stage)


@app.command
def contradict(
    claim: Annotated[str, Parameter(help="Id of an adopted claim, or its first digits.")],
    *,
    reason: Annotated[str, Parameter(help="Why, for everybody to read.")],
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Put an adopted discovery before a fresh bench: is it worth half of what it was adopted for?

    Takes one of this node's slots for contradictions. If it is upheld, every node retracts the
    discovery and freezes what was built on it.
    """
    from node.orders import submit

    where = find_home(home)
    answer = submit(where, {"do": "contradict", "claim": claim, "reason": reason})
    if as_json:
        print(json.dumps({"schema": "lazaretto.contradict/1", **answer}))
        return 0
    print(
        f"contradiction {answer['contradiction'][:12]} of claim {answer['claim'][:12]}: is it "
        f"worth less than {answer['margin_bpb']:+.4f} bits per byte?"
    )
    hint("what comes of it", f"lazaretto audit {answer['claim'][:12]}", home)
    return 0


@app.command
def calibrate(
    *,
    pairs: Annotated[
        int, Parameter(help="Null pairs to measure; 12 at least, 20 are better.")
    ] = 20,
    tier: Annotated[
        str | None, Parameter(help="The node's own tier by default.", show_default=False)
    ] = None,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Measure how noisy pairs are on this machine, and sign it; the node must not be running.

    Trains the base against itself in other data orders. Can be stopped and taken up again.
    """
    from node.calibrating import calibrate_here
    from node.progress import bar

    with bar(progress) as stage:
        return calibrate_here(find_home(home), pairs=pairs, tier=tier, as_json=as_json, stage=stage)


@app.command
def doctor(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """What works on this machine, and the cure for what does not."""
    from node.doctor import examine

    return examine(find_home(home), as_json=as_json)


def _run(argv: Sequence[str] | None) -> int:
    """Run the command; an error from inside a nursery comes out as itself, not in a group."""
    try:
        result = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
    return result if isinstance(result, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; every error becomes one line and a next step."""
    try:
        return _run(argv)
    except CycloptsError as error:
        progress(f"lazaretto: {error}")
        progress("next: lazaretto --help")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        cure = getattr(error, "cure", None)
        if cure is None:
            raise
        progress(f"lazaretto: {error}")
        if cure:
            progress(f"next: {cure}")
        return int(getattr(error, "exit_code", 1))


register(app)

if __name__ == "__main__":
    sys.exit(main())
