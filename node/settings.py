"""A node's home directory and its settings.

    HOME/node.toml       settings, written once by ``init`` or ``join``, edited by people
    HOME/key             the secret key; whoever has it is this node
    HOME/log.sqlite      every record held
    HOME/blobs/          data by hash
    HOME/peers           where other members were last reached
    HOME/work/           what a running experiment must find again after a crash
    HOME/programs/       what this node tried, see node.programs
    HOME/imported.jsonl  logs of other loops, unverified
    HOME/journal.jsonl   what the node did, a line each
    HOME/invitations/    those given out;  requests/: nodes that ask;  orders/: see node.orders
    HOME/state.json      what a running node says of itself, for ``status``
    HOME/spending.sqlite what a model's service was paid
    HOME/program.md      what a person asks of the model, if there is one

The home is ``--home``, else ``$LAZARETTO_HOME``, else ``~/.local/share/lazaretto``.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from node.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
ROLES = ("researcher", "verifier", "archivist")
"""What somebody can be admitted as; governors are made by an epoch."""
HOME_VARIABLE = "LAZARETTO_HOME"
VERIFY_SHARE_MILLI = 333

Amount = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Price = Annotated[int, msgspec.Meta(ge=0, le=10**6)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a contributor lends. ``nice`` 19 yields to everything else on the machine.

    ``patience_seconds``: how long this node waits for another member of a bench before it says that
    the member is absent; 0 for twice the longest time that a run of the tier may take.
    ``blob_gib``: disk for blobs; above four fifths of it, those that nothing needs are dropped.
    ``recheck_share_milli``: of the settled blocks of others, how many this node scores again when
    it has nothing else to do, in thousandths; 0 for none.
    ``memory_mib``: memory for all runs together, 0 for what the tiers allow; ``net_kib_s``: data by
    hash sent and fetched, in KiB a second, 0 for no limit (records are small and not counted).
    ``cores``: cores for training, 0 for all; ``on_battery``: work on battery too; ``idle_only``:
    only while nobody else uses the machine; ``hours``: local hours lent, like 22-7, empty for all;
    ``max_celsius``: of the processor, 0 for no limit; ``min_free_gib``: room that stays free on the
    disk. A node that may not work says why.
    """

    nice_verify: int = 0
    nice_research: int = 10
    patience_seconds: int = 0
    blob_gib: int = 64
    recheck_share_milli: int = 100
    cores: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    on_battery: bool = True
    idle_only: bool = False
    hours: str = ""
    max_celsius: Annotated[int, msgspec.Meta(ge=0, le=150)] = 0
    min_free_gib: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 1
    memory_mib: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    net_kib_s: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0


def modest() -> Limits:
    """What ``join --cpu-only`` lends: half the cores, 2 GiB of memory, 16 GiB of disk and a MiB a
    second, at the lowest priority, never on battery.
    """
    half = max(1, (os.cpu_count() or 2) // 2)
    return Limits(
        nice_verify=19, nice_research=19, cores=half, on_battery=False, memory_mib=2048,
        net_kib_s=1024, blob_gib=16,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClaudeSettings:
    """``[claude]``: for ``proposer = "claude"``. The key is never here, see the README.

    Attributes:
        model: as the service names it.
        base_url: of a server that speaks the Messages API; empty for Anthropic's.
        max_output_tokens: largest answer to one request; a proposal takes up to 30 of them.
        input_cents_per_mtok: price of a million input tokens in US cents; of output likewise. Set
            them to your model's: the default is meant to be too dear rather than too cheap. A
            request costs at most what it is booked with, so caps are never overrun.
        tokens_per_hour: cap on input and output tokens in any 3,600 seconds, what is in flight
            included; ``day`` and ``total`` likewise. ``cents_...`` caps money. 0 allows nothing.
    """

    model: str = "claude-opus-5-5"
    base_url: str = ""
    max_output_tokens: Annotated[int, msgspec.Meta(ge=256, le=65_536)] = 8192
    input_cents_per_mtok: Price = 1500
    output_cents_per_mtok: Price = 7500
    tokens_per_hour: Amount = 2_000_000
    tokens_per_day: Amount = 10_000_000
    tokens_total: Amount = 100_000_000
    cents_per_hour: Amount = 500
    cents_per_day: Amount = 2000
    cents_total: Amount = 10_000


@dataclass(frozen=True, slots=True)
class RaySettings:
    """``[ray]``: for ``executor = "ray"``, see ``node.cluster``.

    Attributes:
        address: of the cluster, as ``ray.init`` takes it; ``auto`` for the one of this machine.
        lanes: how many experiments run side by side.
        cores: of each lane; a tier on the processor needs as many as it has threads.
        gpus: of each lane.
    """

    address: str = "auto"
    lanes: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    cores: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    gpus: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """``node.toml``. ``bootstrap``: multiaddrs to dial first. ``token``: of the invitation.

    ``asked``: this node asked to join, without an invitation. ``start = "paused"``: it listens,
    stores and serves, and trains nothing until ``lazaretto resume``, or until ``paused_until``
    (seconds since 1970) where that is not 0. ``open_epochs = "join"``: a
    sole governor's node opens an epoch by itself for those who join, and without those who told
    two stories, at most one each ``epoch_pause_s`` seconds; with ``"hand"`` only
    ``lazaretto epoch open`` does.
    ``mdns``: announce this node on the local network, and find members there.
    ``relay``: carry data between two members that cannot reach one another; it counts as this
    node's own, so ``limits.net_kib_s`` bounds it.
    ``calibrate``: a node that verifies measures how noisy pairs are here, beside its other work.
    ``portfolio`` names those who share the work where ``proposer = "portfolio"``.
    ``verify_share_milli``: edits that help are kept at home, and claimed together when so much
    research went into them that verifying the claim takes at most this share of all runs, in
    thousandths; 1000 claims each at once.

    ``lanes`` names devices that share nothing, on each of which one experiment runs at a time
    (``node.lanes``); empty for one experiment at a time, on whatever cores are lent.
    ``executor = "ray"``: they run on a cluster, whose lanes are in ``[ray]``.

    ``hw_class`` is the class under which measurements on the processor are published; those on a
    GPU are of class ``cuda``. ``sandbox = "landlock"`` does without bubblewrap, see
    ``training.kinds``. All that the node then publishes says so: its class is ``cpu-landlock``, and
    its evidence counts only where the charter names that among a tier's classes.
    """

    name: str
    swarm: str
    operator: str
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    token: str = ""
    asked: bool = False
    start: Literal["running", "paused"] = "running"
    paused_until: Annotated[int, msgspec.Meta(ge=0, le=10**11)] = 0
    open_epochs: Literal["join", "hand"] = "join"
    epoch_pause_s: int = 300
    mdns: bool = False
    relay: bool = True
    roles: tuple[str, ...] = ("researcher", "verifier")
    proposer: str = "tpe"
    portfolio: tuple[str, ...] = ("tpe", "random")
    tier: str = "quick"
    verify_share_milli: Annotated[int, msgspec.Meta(ge=1, le=1000)] = VERIFY_SHARE_MILLI
    calibrate: bool = True
    hw_class: str = "cpu"
    sandbox: Literal["bubblewrap", "landlock"] = "bubblewrap"
    lanes: tuple[str, ...] = ()
    executor: Literal["local", "ray"] = "local"
    limits: Limits = field(default_factory=Limits)
    claude: ClaudeSettings = field(default_factory=ClaudeSettings)
    ray: RaySettings = field(default_factory=RaySettings)

    @property
    def swarm_id(self) -> bytes:
        """The 32-byte swarm id."""
        try:
            swarm = bytes.fromhex(self.swarm)
        except ValueError:
            swarm = b""
        if not self.swarm and self.asked:
            raise UsageError(
                "the request of this node has not been accepted yet, so it knows no swarm",
                cure=f"lazaretto join --ask {' '.join(self.bootstrap)} --operator {self.operator}",
            )
        if len(swarm) != 32:
            raise UsageError("node.toml: swarm is not 64 hex digits", cure="lazaretto join INVITE")
        return swarm


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one node. Nothing is created by naming them."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "node.toml"

    @property
    def key(self) -> Path:
        return self.path / "key"

    @property
    def log(self) -> Path:
        return self.path / "log.sqlite"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def programs(self) -> Path:
        return self.path / "programs"

    @property
    def imported(self) -> Path:
        return self.path / "imported.jsonl"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def spending(self) -> Path:
        return self.path / "spending.sqlite"

    @property
    def invitations(self) -> Path:
        return self.path / "invitations"

    def create(self) -> None:
        """Make the directories, readable by their owner alone."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in (self.blobs, self.work):
            directory.mkdir(exist_ok=True, mode=0o700)

    def load(self) -> Settings:
        """Read ``node.toml``.

        Raises:
            UsageError: no node lives here, or the file has a wrong or unknown setting.
        """
        try:
            data = tomllib.loads(self.settings.read_text())
        except FileNotFoundError:
            raise UsageError(
                f"no node lives in {self.path}",
                cure="lazaretto join INVITE   (or: lazaretto init NAME)",
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(
                f"{self.settings} cannot be read: {error}", cure=f"edit {self.settings}"
            ) from None
        known = set(Settings.__dataclass_fields__)
        unknown = sorted(set(data) - known)
        if unknown:
            raise UsageError(
                f"{self.settings}: unknown setting {unknown[0]!r}", cure=f"edit {self.settings}"
            )
        try:
            return msgspec.convert(data, Settings, strict=True)
        except msgspec.ValidationError as error:
            raise UsageError(f"{self.settings}: {error}", cure=f"edit {self.settings}") from None

    def save(self, settings: Settings) -> None:
        """Write ``node.toml`` atomically."""
        write_atomic(self.settings, to_toml(asdict(settings)).encode())


def to_toml(data: dict[str, Any]) -> str:
    """TOML of a flat map with at most one level of tables; text, integers, booleans, lists."""
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if type(value) is not dict]
    for key, table in data.items():
        if type(table) is dict:
            lines += ["", f"[{key}]", *(f"{name} = {_value(item)}" for name, item in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which no setting needs.
        return msgspec.json.encode(value).decode()
    return "[" + ", ".join(_value(item) for item in value) + "]"


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old or the new file, never a part.

    ``durable=False`` skips the fsync, for files that a restart rewrites anyway.
    """
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def find_home(flag: Path | None) -> Home:
    """The home to work in: the flag, the environment, or the default."""
    if flag is not None:
        return Home(flag.expanduser().absolute())
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Home(Path(chosen).expanduser().absolute())
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Home(Path(data).expanduser().absolute() / "lazaretto")


def is_name(text: str) -> bool:
    """Whether ``text`` is a short name as records allow it: lower case, digits, dots, hyphens."""
    return _NAME.match(text) is not None


def check_corpus(corpus: str | None) -> None:
    """Refuse a corpus that is not there, before anything is made.

    Raises:
        UsageError: with the forms that there are.
    """
    if corpus is not None and not corpus.startswith("hf://") and not Path(corpus).exists():
        raise UsageError(
            f"there is no {corpus}",
            cure="give a folder or file of text, .jsonl or .parquet, or hf://datasets/OWNER/NAME",
        )
