"""Fixed binary frames between the trusted side and the shim in the sandbox.

Every frame is a header of 16 bytes, little-endian: operation (u8), three zero bytes, and three
u32 values a, b, c. What follows a header is fixed by the operation and by what the receiver asked
for; the sender's own word is believed for the weights only, and there up to a cap. One request is
in flight at a time. Nothing is pickled, and no text crosses. A token takes one byte where the
vocabulary has at most 256 tokens, and two otherwise (``token_width``).

    trusted side -> shim
    GO       a = threads, b = niceness, c = bytes of payload; payload ``GO_LIMITS`` + the filter
    START    a = mode, b = vocabulary, c = bytes of code; payload ``START_HEAD``, then code
    BATCH    a = batch_size, b = seq_len, c = milliseconds spent; payload a * (b + 1) tokens
    SPENT    the next batch does not fit: a normal end
    REFUSED  the request breaks the tier's limits; nothing was paid
    WEIGHTS  a = bytes; payload the weights (scoring)
    TOKENS   a = rows, b = length, c = last positions wanted; payload a * b tokens
    BYE      nothing more is wanted

    shim -> trusted side
    HELLO    first frame; the kernel attaches the sender's process id to it
    READY    limits, filter and file lock are on; no candidate byte has been seen
    BUILT    a = parameters, b = bytes of header; payload 32 bytes, SHA-256 of the initial weights
             (scoring: zeros), then the header that the weights will have (scoring: none)
    REQUEST  a = batch_size, b = seq_len
    WEIGHTS  a = bytes; payload the trained weights
    LOADED   the weights fit the model
    LOGITS   a = rows, b = positions, c = a code of ``LOGIT_WIDTHS``; payload a * b * vocabulary
    FAILED   a = one of the ``FAIL_*`` codes
    TRACE    a = bytes, at most ``TRACE_MAX``; sent before FAILED, and only where GO asked for it
    PLACES   as TRACE, once text to be scored has been seen: payload ``PLACES_FORM``, no text
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("<B3xIII")
GO_LIMITS: Final = struct.Struct("<QQQQ")
"""Data bytes, CPU seconds, processes and threads, 1 where a trace is wanted."""
START_HEAD: Final = struct.Struct("<QQQQ")
"""Seed, budget in tokens, budget in milliseconds (0: no such budget), context."""

GO, START, BATCH, SPENT, REFUSED, WEIGHTS, TOKENS, BYE = range(1, 9)
HELLO, READY, BUILT, REQUEST, LOADED, LOGITS, FAILED, TRACE, PLACES = range(32, 41)

MODE_TRAIN: Final = 1
MODE_SCORE: Final = 2

FLOAT32, BFLOAT16, FLOAT16 = range(3)
LOGIT_WIDTHS: Final[dict[int, int]] = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}
"""Bytes of one logit, by the code in a LOGITS header: they travel as the model made them."""

TRACE_MAX: Final = 4096
PLACES_FORM: Final = struct.Struct("<5I")
"""Place of the exception's type in ``ERRORS``, 0 for any other; lines of train.py, the last first,
0 for none."""
ERRORS: Final = (
    "another exception", "ArithmeticError", "AssertionError", "AttributeError",
    "FloatingPointError",
    "ImportError", "IndexError", "KeyError", "LookupError", "MemoryError", "ModuleNotFoundError",
    "NameError", "NotImplementedError", "OSError", "OverflowError", "PermissionError",
    "RecursionError", "RuntimeError", "StopIteration", "SystemExit", "TypeError",
    "UnboundLocalError", "ValueError", "ZeroDivisionError",
)  # fmt: skip
DIGEST_BYTES: Final = 32
U32_MAX: Final = 0xFFFFFFFF

FAIL_SYNTAX: Final = 1
FAIL_IMPORT: Final = 2
FAIL_NO_FUNCTION: Final = 3
FAIL_BUILD: Final = 4
FAIL_NOT_A_MODULE: Final = 5
FAIL_TRAIN: Final = 6
FAIL_STATE: Final = 7
FAIL_WEIGHTS: Final = 8
FAIL_FORWARD: Final = 9
FAIL_SHAPE: Final = 10
FAIL_MEMORY: Final = 11

FAILURES: Final[dict[int, tuple[str, str]]] = {
    FAIL_SYNTAX: ("crashed", "the code does not compile"),
    FAIL_IMPORT: ("crashed", "the module raised while it was loaded"),
    FAIL_NO_FUNCTION: ("bad_contract", "build_model or train is missing"),
    FAIL_BUILD: ("crashed", "build_model raised"),
    FAIL_NOT_A_MODULE: ("bad_contract", "build_model did not return a torch.nn.Module"),
    FAIL_TRAIN: ("crashed", "train raised"),
    FAIL_STATE: ("bad_weights", "the state of the model could not be written"),
    FAIL_WEIGHTS: ("bad_weights", "the weights do not fit a freshly built model"),
    FAIL_FORWARD: ("crashed", "forward raised"),
    FAIL_SHAPE: ("wrong_shape", "forward did not return rows x length x vocabulary logits"),
    FAIL_MEMORY: ("crashed", "it ran out of memory by its own account, with most of it unused"),
}
"""What a FAILED code means: (status, detail), both from this closed list."""


def token_width(vocabulary: int) -> int:
    """Bytes of one token on the wire; two bytes are little-endian."""
    return 1 if vocabulary <= 256 else 2
