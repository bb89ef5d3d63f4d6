"""Checks a file before DALI decodes it, with the decoder's own header parser.

A header that the parser rejects inside a running batch can crash the process (DALI 2.4: the other
samples' threads outlive the exception), and a few bytes that claim a huge picture are decoded at
full size. So each file's header is parsed once, when it is first used (25 µs per file). A JPEG must
also have an end marker; PIL decodes one that has none. PIL reads the headers of PNG and BMP files
too. Other damage raises in DALI, and `why_undecodable` finds the file.
"""

import os
import stat
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from pipeline.options import MAX_PIXELS

os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # our own messages name the file and the fault

FORMATS = ("jpeg", "png", "bmp")
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"BM")
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"

Encoded = Path | UInt8[ndarray, " _"]  # a file, or its content


class Flaw(NamedTuple):
    """What is wrong with a file: a short name for tables, and text for an error message."""

    kind: str
    text: str
    is_usable: bool = False  # decoders still accept it


class Header(NamedTuple):
    """What a file's header says."""

    flaw: Flaw | None
    codec: str = ""
    is_16_bit: bool = False


def check_header(image: Encoded) -> Header:
    """Parses the image's header; decodes only a JPEG without an end marker."""
    content = read(image)
    if isinstance(content, Flaw):
        return Header(content)
    if not len(content):
        return Header(Flaw("zero bytes", "is empty"))
    from nvidia import nvimgcodec  # here, so that only code that reads images needs it

    try:
        stream = nvimgcodec.CodeStream(content)
        height, width, codec = stream.height, stream.width, stream.codec_name
        is_16_bit = codec == "png" and stream.dtype == np.uint16
    except MemoryError:
        raise
    except Exception:  # the parser raises many types
        kind = "damaged header" if bytes(content[:4]).startswith(SIGNATURES) else "not an image"
        return Header(Flaw(kind, "is not an image, or its header is damaged"))
    flaw = None
    if codec not in FORMATS:
        flaw = Flaw("other format", f"is a {codec} file; expected {', '.join(FORMATS)}")
    elif height * width > MAX_PIXELS:
        flaw = Flaw("oversized", f"claims {width} x {height} pixels, more than {MAX_PIXELS}")
    elif codec != "jpeg":  # a BMP of negative width passes the parser
        flaw = _flaw_of(decode(content, only_header=True))
    elif not _has_an_end(bytes(content)):
        flaw = _flaw_of(decode(content))
    return Header(flaw, codec, is_16_bit)


def _has_an_end(jpeg: bytes) -> bool:
    """Is there an end-of-image marker after the last scan?

    Neither marker can occur inside the picture's data. Not every decoder reports a truncated
    picture.
    """
    end = jpeg.rfind(END_OF_IMAGE)
    return end >= 0 and jpeg.find(START_OF_SCAN, end) < 0


def why_undecodable(image: Encoded) -> Flaw | None:
    """Decodes the image; returns why that is impossible, or None."""
    if flaw := check_header(image).flaw:
        return flaw
    content = read(image)
    return content if isinstance(content, Flaw) else _flaw_of(decode(content))


def read(image: Encoded) -> UInt8[ndarray, " _"] | Flaw:
    """Returns the file's bytes, or why it cannot be read."""
    if not isinstance(image, Path):
        return image
    try:
        if not stat.S_ISREG(mode := os.stat(image).st_mode) and not stat.S_ISDIR(mode):
            return Flaw("unreadable", "cannot be read (a pipe or a device)")  # reading may wait
        return np.frombuffer(image.read_bytes(), np.uint8)
    except OSError as error:
        return Flaw("unreadable", f"cannot be read ({error.strerror})")
    except ValueError as error:  # a path with a null byte
        return Flaw("unreadable", f"cannot be read ({error})")


def decode(
    content: UInt8[ndarray, " _"] | bytes, shrink: int = 1, only_header: bool = False
) -> Image.Image | Flaw:
    """Returns the image as PIL decodes it, or why PIL cannot.

    A JPEG can be decoded at 1/`shrink` (2, 4 or 8) of its size, which is faster.
    """
    try:
        with Image.open(BytesIO(bytes(content))) as opened:
            if shrink > 1:
                opened.draft(None, (opened.width // shrink or 1, opened.height // shrink or 1))
            if not only_header:
                opened.load()
            return opened
    except MemoryError:  # the machine's fault, not the file's
        raise
    except Exception as error:  # PIL has many exception types, and its plugins raise any
        message = " ".join(str(error).partition(" <_io")[0].split()) or type(error).__name__
        kind = "truncated" if "truncated" in message else "damaged pixels"
        kind = "damaged header" if only_header else kind
        return Flaw(kind, f"cannot be decoded ({message})")


def _flaw_of(decoded: Image.Image | Flaw) -> Flaw | None:
    return decoded if isinstance(decoded, Flaw) else None
