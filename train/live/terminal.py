"""Spells characters that a terminal's encoding lacks in ASCII; notices when the reader has gone."""

import codecs
import os
import select
import unicodedata
from typing import Any, TextIO

HANDLER = "cdp-spelled"  # the `errors` argument of str.encode
SPELLINGS = {
    "\u0302": "^",  # of P̂
    "…": "...",
    "±": "+/-",
    "×": "x",
    "→": "->",
    "–": "-",
    "—": "-",
    "·": "*",
    "•": "*",
    "✓": "v",
    "✗": "x",
    "α": "alpha",
    "δ": "delta",
    "λ": "lambda",
    **dict.fromkeys("─━", "-"),  # table borders
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╞╡╪", "+"),
}


def spell(error: UnicodeError) -> tuple[str, int]:
    """Error handler: returns an ASCII spelling and the position at which to continue."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_spelled, lacking)), error.end


def _spelled(character: str) -> str:
    if character in SPELLINGS:
        return SPELLINGS[character]
    if "\udc80" <= character <= "\udcff":  # an undecodable byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


codecs.register_error(HANDLER, spell)


def spelled(text: str, encoding: str) -> str:
    """Returns `text` as a terminal with this encoding shows it."""
    return text.encode(encoding, HANDLER).decode(encoding)


def or_nowhere(stream: TextIO | Any) -> TextIO | Any:
    """Returns the stream, or one that discards everything if it is None: closed, as by `>&-`."""
    return stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def never_fail(*streams: TextIO | Any) -> None:
    """Makes streams spell what they cannot encode instead of raising."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def reader_left(stream: TextIO) -> bool:
    """Returns whether the pipe's reader, such as `head`, has left; if so, discards all output."""
    poll = select.poll()
    poll.register(stream, 0)
    left = any(event & select.POLLERR for _, event in poll.poll(0))
    if left:
        discard(stream)
    return left


def discard(stream: TextIO) -> None:
    """Discards all further output, and what Python would write at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
