"""Flags that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

HomeFlag = Annotated[
    Path | None,
    Parameter(help="The node's directory. [env: LAZARETTO_HOME]", show_default=False),
]
CorpusFlag = Annotated[
    str | None,
    Parameter(help="Text to learn from: a folder, a file, or hf://datasets/OWNER/NAME."),
]
JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")]
