"""Text that somebody else wrote, made harmless for a terminal."""

from __future__ import annotations

MAX_SHOWN_TEXT = 80


def escaped(text: str, limit: int = MAX_SHOWN_TEXT) -> str:
    """Text from elsewhere as one harmless line of printable ASCII."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def escaped_lines(data: bytes, most: int = 60, width: int = 200) -> list[str]:
    """Bytes from elsewhere as their last ``most`` lines, without a control character left."""
    lines = data.decode("ascii", "backslashreplace").splitlines()[-most:]
    return [escaped(line.expandtabs(4), width) for line in lines]
