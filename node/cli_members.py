"""The commands of membership: invitations, requests, members, epochs, keys. Part of ``cli``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from node.cli_common import HomeFlag, JsonFlag, hint, progress
from node.settings import find_home

Who = Annotated[str, Parameter(help="Peer id, the last 8 of it, or the operator's name.")]
Roles = Annotated[
    tuple[str, ...] | None,
    Parameter(name="--role", negative="", help="researcher, verifier, archivist; repeatable."),
]
Whom = Annotated[tuple[str, ...], Parameter(negative="")]
Instead = Annotated[
    bool, Parameter(negative="", help="Although this governor stands by another draft.")
]

epoch = App(name="epoch", help="Epochs: list them, open the next one, sign what another drafted.")


def register(app: App) -> None:
    """Add these commands to ``app``."""
    for command in (invite, join, requests, accept, ignore, dismiss, members):
        app.command(command)
    for command in (pause, resume, finish, limits):
        app.command(command)
    app.command(rotate_key, name="rotate-key")
    app.command(epoch)


def _tell(schema: str, answer: dict[str, Any], text: str, as_json: bool) -> int:
    print(json.dumps({"schema": f"lazaretto.{schema}/1", **answer}) if as_json else text)
    return 0


# --- joining --------------------------------------------------------------------------------------


def invite(
    *,
    operator: Annotated[
        str | None, Parameter(help="Who will run the node; one operator, one voice.")
    ] = None,
    role: Roles = None,
    host: Annotated[
        str | None, Parameter(help="IP address at which others reach this machine.")
    ] = None,
    expires: Annotated[str, Parameter(help="How long it lets in: 30m, 12h, 7d.")] = "7d",
    uses: Annotated[int, Parameter(help="How many nodes it lets in, all of one operator.")] = 1,
    listing: Annotated[
        bool, Parameter(name="--list", negative="", help="Show those given out instead.")
    ] = False,
    revoke: Annotated[str | None, Parameter(help="Withdraw the invitation with this id.")] = None,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Print one string with which a node can join. The node here must be running.

    A governor invites anybody; other members vouch for researchers under their own operator.
    """
    from node.invitations import Invitations, make_invitation
    from node.members import show_invitations

    where = find_home(home)
    if listing:
        return show_invitations(where, as_json=as_json)
    if revoke is not None:
        where.load()
        given = Invitations(where).revoke(revoke)
        return _tell("revoked", {"id": given.id}, f"revoked {given.id}", as_json)
    text = make_invitation(
        where, operator=operator, roles=role, host=host, expires=expires, uses=uses
    )
    return _tell("invitation", {"invitation": text}, text, as_json)


def join(
    invitation: Annotated[str | None, Parameter(help="The string that starts with laz1.")] = None,
    *,
    ask: Annotated[
        str | None, Parameter(help="Without one: a governor's address, /ip4/../tcp/../p2p/..")
    ] = None,
    operator: Annotated[str | None, Parameter(help="With --ask: who runs this node.")] = None,
    role: Roles = None,
    note: Annotated[str, Parameter(help="With --ask: a line for whoever decides.")] = "",
    name: Annotated[str, Parameter(help="A name for this node, for its own screen.")] = "member",
    cpu_only: Annotated[
        bool, Parameter(name="--cpu-only", negative="", help="Yield to everything else here.")
    ] = False,
    paused: Annotated[
        bool, Parameter(negative="", help="Train nothing before lazaretto resume.")
    ] = False,
    no_calibrate: Annotated[
        bool, Parameter(negative="", help="Do not measure how noisy a verifier's pairs are here.")
    ] = False,
    listen: Annotated[str, Parameter(help="Address to listen on.")] = "/ip4/127.0.0.1/tcp/0",
    home: HomeFlag = None,
) -> int:
    """Become a member: admission, charter, records and data, all checked by hash.

    With an invitation at once; with --ask when a governor accepts. The same command goes on.
    """
    from node.errors import UsageError
    from node.membership import Asking, join_here
    from swarm.addresses import parse_address
    from swarm.errors import SwarmError
    from swarm.joining import Invitation

    if (invitation is None) == (ask is None):
        raise UsageError(
            "join takes an invitation, or --ask ADDRESS",
            cure="lazaretto join laz1...   (or: lazaretto join --ask ADDRESS --operator NAME)",
        )
    if ask is not None and operator is None:
        raise UsageError("say who runs this node", cure="add --operator NAME")
    if invitation is not None and (operator or role or note):
        raise UsageError(
            "an invitation says operator and roles itself", cure="lazaretto join laz1..."
        )
    try:
        way = (
            Invitation.parse(invitation)
            if invitation is not None
            else Asking(
                (str(parse_address(ask or "")),), operator or "", role or ("researcher",), note
            )
        )
    except SwarmError as error:
        raise UsageError(str(error), cure=error.cure) from None
    done = join_here(
        find_home(home), way, name=name, cpu_only=cpu_only, listen=listen, progress=progress,
        paused=paused, calibrate=not no_calibrate,
    )  # fmt: skip
    if done.waiting:
        print(f"asked {way.addresses[0]}")
        command = f"lazaretto join --ask {way.addresses[0]} --operator {operator}"
        hint("see whether a governor accepted: the same command", command, home)
        return 0
    print(f"joined {done.swarm}")
    hint("start contributing", "lazaretto up", home)
    settings = find_home(home).load()
    if settings.calibrate and "verifier" in settings.roles:
        from node.calibrating import PAIRS

        progress(
            f"it will measure how noisy pairs are here, in {2 * PAIRS} runs of the base beside its "
            "other work; lazaretto status says how long once two are done"
        )
    if paused:
        hint("it starts paused", "lazaretto resume", home)
    return 0


def requests(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Nodes that ask to join without an invitation."""
    from node.members import show_requests

    return show_requests(find_home(home), as_json=as_json)


def accept(
    node: Who,
    *,
    operator: Annotated[
        str | None, Parameter(help="Under which operator; as it says itself by default.")
    ] = None,
    role: Roles = None,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Admit a node that asks. It has a place from the next epoch on."""
    answer = _order(
        home, do="accept", who=node, operator=operator, roles=list(role) if role else None
    )
    said = f"accepted {answer['accepted']} as {answer['operator']}: {', '.join(answer['roles'])}"
    _tell("accepted", answer, said, as_json)
    hint("give it a share and a seat", "lazaretto epoch open", home)
    return 0


def ignore(node: Who, *, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Refuse a node that asks, for good."""
    answer = _order(home, do="ignore", who=node)
    return _tell("ignored", answer, f"ignored {answer['ignored']}", as_json)


def dismiss(
    node: Annotated[str, Parameter(help="Peer id, the last 8 of it, its name; or all.")],
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Drop a request; the node may ask again."""
    answer = _order(home, do="dismiss", who=node)
    return _tell("dismissed", answer, f"dismissed {len(answer['dismissed'])}", as_json)


def members(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Who is in, for whom they speak, who left and why, and what does not count."""
    from node.members import show_members

    return show_members(find_home(home), as_json=as_json)


# --- epochs ---------------------------------------------------------------------------------------


@epoch.command(name="list")
def list_epochs(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Epochs that count, and drafts that wait for signatures, with what they change."""
    from node.members import show_epochs

    return show_epochs(find_home(home), as_json=as_json)


@epoch.command(name="open")
def open_epoch(
    *,
    remove: Annotated[Whom, Parameter(help="Take a member out; repeatable.")] = (),
    reason: Annotated[str, Parameter(help="Why; it is signed and shown to everybody.")] = "",
    governor: Annotated[Whom, Parameter(help="Make a member a governor; repeatable.")] = (),
    no_governor: Annotated[Whom, Parameter(help="Take that role away; repeatable.")] = (),
    retire_fold: Annotated[
        tuple[int, ...], Parameter(negative="", help="Score on this fold no more; repeatable.")
    ] = (),
    instead: Instead = False,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Open the next epoch, with all who were admitted or changed their key since.

    Where several governors must sign, this publishes a draft for the others.
    """
    answer = _order(
        home, do="open_epoch", remove=list(remove), reason=reason, governors=list(governor),
        no_governors=list(no_governor), retired=list(retire_fold), instead=instead,
    )  # fmt: skip
    if "draft" in answer:
        missing = answer["signatures_missing"]
        said = f"draft {answer['draft'][:12]} of epoch {answer['number']}; {missing} must sign"
        _tell("draft", answer, _with_people(said, answer), as_json)
        hint("the other governors type", f"lazaretto epoch sign {answer['draft'][:12]}", None)
        return 0
    said = f"epoch {answer['epoch']} with {answer['members']} members"
    return _tell("epoch", answer, _with_people(said, answer), as_json)


def _with_people(said: str, answer: dict[str, Any]) -> str:
    """``said``, and a line for everybody whom the epoch takes out or should have."""
    from node.convicts import STAYS, STORIES
    from node.escaping import escaped
    from swarm.keys import short

    gone = [f"  removes {short(one['id'])}: {escaped(one['reason'])}" for one in answer["removed"]]
    stay = [f"  {short(one)} {STORIES}; {STAYS}" for one in answer["convicted_stay"]]
    return "\n".join([said, *gone, *stay])


@epoch.command(name="sign")
def sign_epoch(
    draft: Annotated[str, Parameter(help="Id of the draft, or its first digits.")],
    *,
    instead: Instead = False,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Sign the draft of another governor. Read it first: lazaretto epoch list."""
    answer = _order(home, do="sign_draft", draft=draft, instead=instead)
    return _tell("signed", answer, f"signed {answer['signed'][:12]}", as_json)


# --- this node ------------------------------------------------------------------------------------


def rotate_key(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Go on under a new key, which the old one names in its last record. Stop the node first."""
    from node.rotation import rotate_key as rotate

    old, new = rotate(find_home(home))
    _tell("rotated", {"old": old, "new": new}, f"{old} -> {new}", as_json)
    hint("tell the swarm", "lazaretto up", home)
    hint("the new key has claims and seats from the next epoch on", "lazaretto status", home)
    return 0


def pause(
    *,
    for_: Annotated[
        str, Parameter(name="--for", help="Go on by itself after 90m, 2h, 1d; else at resume.")
    ] = "",
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Stop training here; go on listening, storing and serving."""
    from node.times import clock, seconds_of

    answer = _order(home, do="pause", seconds=seconds_of(for_) if for_ else 0)
    until = answer["until"]
    text = f"paused until {clock(until)}" if until else "paused"
    return _tell("paused", answer, text, as_json)


def resume(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Go on training here."""
    return _tell("paused", _order(home, do="resume"), "running", as_json)


def finish(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Let the node end what is at hand and what it promised to benches, then stop it.

    Waits until it has ended. Ctrl-C ends the waiting only; resume makes the node go on after all.
    """
    from node.stopping import finished

    where = find_home(home)
    answer = _order(home, do="finish")
    pid = finished(where, progress)
    return _tell("finished", {**answer, "pid": pid}, f"finished; process {pid} ended", as_json)


def limits(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """What this node lends, each limit beside what is measured, and why it pauses if it does."""
    from node.limits_table import show_limits

    return show_limits(find_home(home), as_json=as_json)


def _order(home: Path | None, **order: object) -> dict[str, Any]:
    from node.orders import submit

    return submit(find_home(home), order)
