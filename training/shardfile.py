"""Train text on its way to disk: shards under their final names, and what is needed to go on.

A shard is written under another name, made durable and renamed to its hash; then one line is added
to a journal beside it. After a kill, whoever offers the same documents again goes on behind the
last shard of the journal. The documents up to there are compared by a running hash: where they are
others than before, all begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

from training.documents import MAX_DOCUMENTS, MAX_SHARDS, CorpusError, Documents, SplitRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_PIECE_BYTES: Final = 256 << 10
"""Longest document of a train split."""
FULL_BYTES: Final = (64 << 20) - MAX_PIECE_BYTES
"""A shard with so much text is closed: so much a peer has to send at once."""
NEARLY_MILLI: Final = 990
"""A train split as full as this (thousandths) is not searched for documents that still fit."""


def write_split(out: Path, documents: Documents) -> SplitRef:
    """Writes one split to ``out/<sha256 hex>``, durably; raises ``CorpusError``."""
    data = documents.to_bytes()
    ref = SplitRef(hashlib.sha256(data).digest(), len(data), len(documents))
    path = out / ref.sha256.hex()
    scratch = path.with_suffix(f".{os.getpid()}.part")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise CorpusError(
            f"{out} takes no more text: {error.strerror}; finished shards are kept",
            cure="free some space there and run the same command again",
        ) from None
    return ref


class Journal:
    """The finished shards of a train split in ``out``, of which ``identity`` names all that
    decides what they are. An unfinished last line is as if it were not there."""

    def __init__(self, out: Path, identity: bytes) -> None:
        self._out = out
        self._path = out / "train.journal"
        self._head = {"identity": identity.hex()}

    def read(self) -> tuple[list[SplitRef], dict[str, Any]]:
        """The shards, and what was said of the last one; nothing where one is not there."""
        try:
            raw = self._path.read_bytes()
            head, *lines = [json.loads(line) for line in raw.splitlines(keepends=True)
                            if line.endswith(b"\n")] or [None]  # fmt: skip
        except (OSError, ValueError):
            return [], {}
        if head != self._head:
            return [], {}
        refs = [SplitRef(bytes.fromhex(line["sha256"]), line["size"], line["documents"])
                for line in lines]  # fmt: skip
        if not all(self._is_whole(ref) for ref in refs):
            return [], {}
        return refs, lines[-1] if lines else {}

    def start(self) -> None:
        """Begins anew."""
        self._path.write_text(json.dumps(self._head) + "\n")

    def add(self, ref: SplitRef, seen: int, chain: str) -> None:
        """Adds a finished shard: it came after ``seen`` documents with the running hash."""
        line = {"sha256": ref.sha256.hex(), "size": ref.size, "documents": ref.documents,
                "seen": seen, "chain": chain}  # fmt: skip
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def end(self) -> None:
        """All is written."""
        self._path.unlink(missing_ok=True)

    def _is_whole(self, ref: SplitRef) -> bool:
        try:
            with (self._out / ref.sha256.hex()).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest() == ref.sha256
        except OSError:
            return False


def write_shards(
    out: Path,
    identity: bytes,
    room: int,
    offered: Callable[[], Iterator[tuple[bytes, bytes]]],
    usable: Callable[[bytes], bool],
    progress: Callable[[int, int], None],
) -> tuple[SplitRef, ...]:
    """Writes the train split: what is ``usable`` of the documents offered, up to ``room`` bytes.

    ``offered`` gives documents as (key, text) in a fixed order, text of ``MAX_PIECE_BYTES`` at
    most, and is called again where the order turns out to be another than that of a journal.
    ``progress`` is told (bytes of text written, ``room``). Memory: one shard, twice.
    """
    journal = Journal(out, identity)
    refs, last = journal.read()
    documents = enumerate(offered(), 1)
    chain = hashlib.sha256()
    for number, (key, _) in documents if last else ():
        chain.update(key)
        if number == last["seen"]:
            break
    if not last or chain.hexdigest() != last["chain"]:
        refs, documents, chain = [], enumerate(offered(), 1), hashlib.sha256()
        journal.start()
    wanted = room
    room -= sum(ref.text_bytes for ref in refs)
    shard: list[bytes] = []
    size = 0
    for number, (key, text) in documents:
        chain.update(key)
        if len(text) > room:
            if 1000 * room <= (1000 - NEARLY_MILLI) * wanted:
                break
        elif usable(text):
            shard.append(text)
            size += len(text)
            room -= len(text)
            if size >= FULL_BYTES or len(shard) == MAX_DOCUMENTS:
                refs.append(write_split(out, Documents(shard)))
                journal.add(refs[-1], number, chain.hexdigest())
                shard, size = [], 0
                if len(refs) == MAX_SHARDS:
                    break
            if number % 64 == 0 or not shard:
                progress(wanted - room, wanted)
    if shard:
        refs.append(write_split(out, Documents(shard)))
    journal.end()
    progress(wanted, wanted)
    return tuple(refs)
