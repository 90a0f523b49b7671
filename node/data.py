"""The data of a challenge: fetched from peers by hash, checked, then read from disk.

The splits are named in the charter by their sha256, so nothing has to be believed: a peer's bytes
either have that hash or are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from swarm.blobs import BlobStore
from swarm.errors import SwarmError
from training.challenge import Challenge
from training.documents import Documents, Shards
from training.tokenstore import open_tokens

RETRY_SECONDS = 0.5

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.network import Network
    from swarm.records import Charter
    from training.challenge import FileRef
    from training.documents import SplitRef
    from training.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Data:
    """A challenge whose splits are all held here."""

    challenge: Challenge
    blobs: BlobStore

    def split(self, reference: SplitRef) -> Documents:
        """Read and parse one split; its hash is checked on the way."""
        return Documents.from_bytes(self.blobs.get(reference.sha256, reference.size))

    def train(self) -> Shards:
        """The training text; its files are read when they are needed."""
        return Shards(self.challenge.manifest.train, self.split)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; the hash of its file is checked on the way."""
        reference = self.challenge.tokenizer_file
        data = self.blobs.get(reference.sha256, reference.size) if reference else b""
        return self.challenge.read_tokenizer(data)

    def make_tokens(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make the tokens of the train text, unless they are kept already: minutes for gigabytes.

        A run would do it otherwise. ``progress`` is called with (bytes done, bytes in all).
        """
        open_tokens(self.train(), self.tokenizer(), progress)

    def dev(self) -> Documents:
        """The public development text, on which claimants measure."""
        return self.split(self.challenge.manifest.dev)

    def fold(self, index: int) -> Documents:
        """The sealed holdout fold ``index``."""
        return self.split(self.challenge.manifest.folds[index])


def describe(charter: Charter) -> Challenge:
    """The challenge of a charter, strictly parsed. Raises ``TrainingError``."""
    return Challenge.from_map(charter.challenge)


def needed(challenge: Challenge) -> list[SplitRef | FileRef]:
    """Every file of the challenge: the tokenizer, if it has one, then the splits, train first."""
    tokenizer = [challenge.tokenizer_file] if challenge.tokenizer_file else []
    return [*tokenizer, *challenge.manifest]


def missing(challenge: Challenge, blobs: BlobStore) -> list[SplitRef | FileRef]:
    """Those that are not held yet."""
    return [ref for ref in needed(challenge) if not blobs.has(ref.sha256)]


async def obtain(
    network: Network,
    blobs: BlobStore,
    challenge: Challenge,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[Exception], None] = lambda _: None,
) -> Data:
    """Fetch what is missing, from whoever has it, for as long as it takes.

    ``progress`` is called with (files held, files in all), ``failed`` with what was in the way of
    one, which is tried again.
    """
    total = len(needed(challenge))
    while wanted := missing(challenge, blobs):
        for done, reference in enumerate(wanted, total - len(wanted)):
            if progress is not None:
                progress(done, total)
            try:
                await network.blobs.fetch(reference.sha256, reference.size)
            except (SwarmError, OSError) as error:
                failed(error)
                await trio.sleep(RETRY_SECONDS)
                break
    if progress is not None:
        progress(total, total)
    return Data(challenge, blobs)
