"""Looks at a file before DALI's decoder does, with the decoder's own header parser.

A header that the parser refuses inside a running batch can crash the process (DALI 2.4: the other
samples' threads outlive the exception), and a few bytes that claim a huge picture are decoded at
full size. So each file's header is parsed once, when it is first used (25 µs a file), and a JPEG's
end is looked for; PIL decodes one that has none. Other damage raises in DALI, and `why_undecodable`
finds the file.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # we say what is wrong, and where

FORMATS = ("jpeg", "png", "bmp")
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"BM")
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
MAX_PIXELS = 4096 * 4096  # a person crop has some 20,000

Encoded = Path | UInt8[ndarray, " _"]  # a file, or its content


class Flaw(NamedTuple):
    """Why a file cannot serve: a short name for tables, and the words of an error message."""

    kind: str
    text: str


def why_unusable(image: Encoded) -> Flaw | None:
    """The reason why the image's header cannot serve, or None."""
    try:
        content = image.read_bytes() if isinstance(image, Path) else image
    except OSError as error:
        return Flaw("unreadable", f"cannot be read ({error.strerror})")
    if not len(content):
        return Flaw("zero bytes", "is empty")
    from nvidia import nvimgcodec  # here, so that what reads no image can do without it

    try:
        stream = nvimgcodec.CodeStream(content)
        height, width, codec = stream.height, stream.width, stream.codec_name
    except RuntimeError:
        kind = "damaged header" if bytes(content[:4]).startswith(SIGNATURES) else "not an image"
        return Flaw(kind, "is no image, or its header is damaged")
    if codec not in FORMATS:
        return Flaw("other format", f"is a {codec} file; expected {', '.join(FORMATS)}")
    if codec == "jpeg" and not _has_an_end(bytes(content)):
        return _undecodable(image)
    if height * width > MAX_PIXELS:
        return Flaw("oversized", f"claims {width} x {height} pixels, more than {MAX_PIXELS}")
    return None


def _has_an_end(jpeg: bytes) -> bool:
    """Is there an end-of-image marker behind the last scan?

    Neither can stand inside the picture's data. Of a picture that was cut a GPU's JPEG engine
    reports nothing.
    """
    end = jpeg.rfind(END_OF_IMAGE)
    return end >= 0 and jpeg.find(START_OF_SCAN, end) < 0


def why_undecodable(image: Encoded) -> Flaw | None:
    """The reason why the image's pixels cannot be had, or None; decodes it."""
    return why_unusable(image) or _undecodable(image)


def _undecodable(image: Encoded) -> Flaw | None:
    """What PIL has against the image's pixels."""
    try:
        with Image.open(image if isinstance(image, Path) else BytesIO(image.data)) as opened:
            opened.load()
    except (OSError, SyntaxError, ValueError) as error:
        kind = "truncated" if "truncated" in str(error) else "damaged pixels"
        return Flaw(kind, f"cannot be decoded ({error})")
    return None
