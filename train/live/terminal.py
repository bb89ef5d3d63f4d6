"""Output on terminals that cannot write every character: it is spelled in ASCII there."""

import codecs
import unicodedata
from typing import Any, TextIO

HANDLER = "cdp-spelled"  # as an `errors=` of str.encode
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
    **dict.fromkeys("─━", "-"),  # what frames are drawn with
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╞╡╪", "+"),
}


def spell(error: UnicodeError) -> tuple[str, int]:
    """The handler: an ASCII spelling of what an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_spelled, lacking)), error.end


def _spelled(character: str) -> str:
    if character in SPELLINGS:
        return SPELLINGS[character]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


codecs.register_error(HANDLER, spell)


def spelled(text: str, encoding: str) -> str:
    """`text` as a terminal of that encoding shows it."""
    return text.encode(encoding, HANDLER).decode(encoding)


def never_fail(*streams: TextIO | Any) -> None:
    """From now on these streams spell what they cannot encode, instead of raising."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
