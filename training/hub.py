"""Data sets of the Hugging Face Hub: ``hf://datasets/OWNER/NAME[/PATH][@REVISION]``.

The revision is resolved to a commit once, and every file is taken from that commit. Files are
downloaded one at a time, when they are read, into the library's own cache, where they stay
(``HF_HOME`` says where). ``PATH`` is a folder, a file, or a pattern with ``*``; without one all
files are read whose ending says that they hold text. A name without a revision means ``main``.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.documents import CorpusError
from training.readers import JSON_LINES, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

READABLE: Final = (*JSON_LINES, ".parquet", ".txt")
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SPEC: Final = re.compile(
    rf"hf://datasets/(?P<repo>{_PART}/{_PART})(?:/(?P<path>[^@]*))?(?:@(?P<revision>[^@]+))?"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """A name, taken apart. ``path`` and ``revision`` are empty where the name has none."""

    repo: str
    path: str
    revision: str

    @classmethod
    def parse(cls, spec: str) -> HubName:
        """Raises ``CorpusError`` where ``spec`` is not such a name."""
        found = _SPEC.fullmatch(spec)
        if not found:
            raise CorpusError(
                f"{spec!r} is not the name of a data set",
                cure="write hf://datasets/OWNER/NAME, with /PATH and @REVISION if you like",
            )
        path = (found["path"] or "").strip("/")
        return cls(found["repo"], path, found["revision"] or "")

    def matches(self, file: str) -> bool:
        """Whether a file of the data set is meant."""
        if not self.path:
            return file.endswith(READABLE)
        return (
            file == self.path
            or fnmatch.fnmatchcase(file, self.path)
            or (file.startswith(self.path + "/") and file.endswith(READABLE))
        )


class Hub(Source):
    """The files of one commit of a data set, in the order of their names.

    ``endpoint`` is another server than the Hub. Raises ``CorpusError`` without a network, without
    the library, or where there is nothing to read.
    """

    def __init__(self, spec: str, endpoint: str | None = None) -> None:
        name = HubName.parse(spec)
        self._library, self._repo, self._endpoint = _library(), name.repo, endpoint
        try:
            info = self._library.HfApi(endpoint=endpoint).dataset_info(
                name.repo, revision=name.revision or None
            )
        except Exception as error:  # the library passes on errors of several network libraries
            raise _failed(name.repo, error) from None
        self.revision = str(info.sha)
        super().__init__(f"hf://datasets/{name.repo}{'/' * bool(name.path)}{name.path}@{info.sha}")
        found = (item.rfilename for item in info.siblings or ())
        self._files = sorted(file for file in found if name.matches(file))
        if not self._files:
            raise CorpusError(
                f"{self.name} names no file that can be read",
                cure=f"files are read that end in {', '.join(READABLE)}",
            )

    def files(self) -> Iterator[tuple[str, Path]]:
        for file in self._files:
            try:
                path = self._library.hf_hub_download(
                    self._repo,
                    file,
                    repo_type="dataset",
                    revision=self.revision,
                    endpoint=self._endpoint,
                )
            except Exception as error:  # as above
                raise _failed(self._repo, error) from None
            yield file, Path(path).resolve()


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CorpusError(
            "reading hf:// names needs the package huggingface_hub",
            cure="pip install 'lazaretto[hub]'",
        ) from None
    return huggingface_hub


def _failed(repo: str, error: Exception) -> CorpusError:
    said = (str(error).splitlines() or [""])[0][:200]
    return CorpusError(
        f"{repo} cannot be read from the Hub: {type(error).__name__}: {said}",
        cure="check the name and the network, then run the same command again: what was "
        "downloaded is kept",
    )
