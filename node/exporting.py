"""The notebook for people and for tools they already have: Markdown, ``results.tsv``, git.

``results.tsv`` has the columns of autoresearch (commit, val_bpb, memory_gb, status, description),
``--git`` a branch with one commit for each experiment that was kept, so that its users' habits and
scripts work. Scores are on this node's public dev text: what was found, not yet what is true.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
from typing import TYPE_CHECKING, Final

from node.errors import NodeError
from node.escaping import escaped
from node.experiments import diff_of, entries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from node.experiments import Entry
    from node.settings import Home

COLUMNS: Final = ("commit", "val_bpb", "memory_gb", "status", "description")
WIDE: Final = 400
"""Characters of a hypothesis."""


def markdown(found: Sequence[Entry]) -> str:
    """The whole notebook, oldest first, with diffs."""
    kept = sum(one.kept for one in found)
    adopted = sum(one.verdict == "adopted" for one in found)
    lines = [
        "# Notebook",
        "",
        f"{len(found)} experiments; {kept} better by more than noise on dev text; {adopted} "
        "reproduced by independent verifiers and adopted.",
    ]
    for one in found:
        record = one.record
        gains = ", ".join(f"{pair.d_nano / 1e9:+.4f}" for pair in record.dev_pairs) or "none"
        fate = f"; in the swarm: {one.verdict}" if one.verdict else ""
        lines += [
            "",
            f"## {one.number}. {escaped(record.hypothesis, WIDE)}",
            "",
            f"- {record.outcome.replace('_', ' ')}: {record.reason.replace('_', ' ')}{fate}",
            f"- gains on dev text, bits per byte: {gains}",
            f"- tier {record.tier}, proposed by {escaped(record.proposer)}, "
            f"{record.cost_ms / 1000:.1f} s",
        ]
        if one.tried is not None:
            lines += ["", *(f"    {line}" for line in diff_of(one).splitlines())]
    return "\n".join(lines) + "\n"


def results_tsv(found: Sequence[Entry], commits: Mapping[int, str] | None = None) -> str:
    """``results.tsv``; ``commits`` has the git commit of an experiment by its number."""
    out = io.StringIO()
    rows = csv.writer(
        out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\"
    )
    rows.writerow(COLUMNS)
    for one in found:
        status = "keep" if one.kept else "crash" if one.record.outcome == "failed" else "discard"
        memory = (one.tried.peak_bytes if one.tried else 0) / 2**30
        commit = (commits or {}).get(one.number, one.record.ast_hash.hex()[:7])
        text = escaped(one.record.hypothesis, WIDE)
        rows.writerow((commit, f"{one.bpb or 0:.6f}", f"{memory:.1f}", status, text))
    return out.getvalue()


def git_branch(found: Sequence[Entry], repository: Path, tier: str) -> dict[int, str]:
    """Write the branch ``lazaretto/TIER``: a commit of ``train.py`` for each kept experiment.

    ``repository`` is made if it is not there; nothing but that branch is touched, and it is written
    anew each time. Returns the short commit of each experiment by its number.

    Raises:
        NodeError: git is not installed, or refused.
    """
    repository.mkdir(parents=True, exist_ok=True)
    if not (repository / ".git").exists():
        _git(repository, "init", "-q", "-b", f"lazaretto/{tier}")
    commits: dict[int, str] = {}
    parent = ""
    for one in found:
        if not one.kept or one.tried is None:
            continue
        blob = _git(repository, "hash-object", "-w", "--stdin", data=one.tried.code.encode())
        entry = f"100644 blob {blob}\ttrain.py\n".encode()
        tree = _git(repository, "mktree", data=entry)
        message = f"{escaped(one.record.hypothesis, WIDE)}\n\nexperiment {one.number}"
        when = f"{int(one.tried.tried)} +0000"
        above = ("-p", parent) if parent else ()
        parent = _git(repository, "commit-tree", tree, *above, data=message.encode(), when=when)
        commits[one.number] = parent[:7]
    if parent:
        _git(repository, "update-ref", f"refs/heads/lazaretto/{tier}", parent)
    return commits


def _git(where: Path, *arguments: str, data: bytes = b"", when: str = "") -> str:
    who = {"NAME": "lazaretto", "EMAIL": "lazaretto@localhost", **({"DATE": when} if when else {})}
    names = {
        f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()
    }
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *arguments],
            input=data,
            capture_output=True,
            env={**os.environ, **names},
            check=True,
            timeout=60,
        )
    except FileNotFoundError:
        raise NodeError("git is not installed", cure="apt install git") from None
    except subprocess.SubprocessError as error:
        told = getattr(error, "stderr", None) or b""
        raise NodeError(
            f"git {arguments[0]} failed: {escaped(told.decode(errors='replace'), 200)}",
            cure="give an empty directory; nothing of this node was changed",
        ) from None
    return done.stdout.decode().strip()


def export(
    home: Home, *, tier: str, out: Path | None, tsv: Path | None, git: Path | None
) -> list[str]:
    """``lazaretto notebook``: write what is asked for; returns what was written, in words.

    Raises:
        UsageError, StoreError: the home is not in order.
        NodeError: a file cannot be written, or git failed.
    """
    found = entries(home, tier)
    told: list[str] = []
    commits = git_branch(found, git, tier) if git is not None else None
    if commits is not None and git is not None:
        told.append(f"{len(commits)} commits on branch lazaretto/{tier} of {git}")
    for path, text in ((tsv, results_tsv(found, commits)), (out, markdown(found))):
        if path is not None:
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise NodeError(f"{path} cannot be written: {error.strerror}") from None
            told.append(f"{len(found)} experiments in {path}")
    if not told:
        print(markdown(found), end="")
    return told
