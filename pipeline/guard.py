"""Looks at a file before DALI's decoder does, with the decoder's own header parser.

A header that the parser refuses inside a running batch can crash the process (DALI 2.4: the other
samples' threads outlive the exception), and a few bytes that claim a huge picture are decoded at
full size. So each file's header is parsed once, when it is first used (25 µs a file), and a JPEG's
end is looked for; PIL decodes one that has none. Other damage raises in DALI, and `why_undecodable`
finds the file. Of PNG and BMP files PIL reads the header, too.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
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
    """What is wrong with a file: a short name for tables, and the words of an error message."""

    kind: str
    text: str
    is_usable: bool = False  # decoders take it all the same


class Looked(NamedTuple):
    """What a file's header tells."""

    flaw: Flaw | None
    codec: str = ""
    is_16_bit: bool = False


def look(image: Encoded) -> Looked:
    """Parses the image's header; only a JPEG without an end is decoded."""
    content = read(image)
    if isinstance(content, Flaw):
        return Looked(content)
    if not len(content):
        return Looked(Flaw("zero bytes", "is empty"))
    from nvidia import nvimgcodec  # here, so that what reads no image can do without it

    try:
        stream = nvimgcodec.CodeStream(content)
        height, width, codec = stream.height, stream.width, stream.codec_name
        is_16_bit = codec == "png" and stream.dtype == np.uint16
    except MemoryError:
        raise
    except Exception:  # whatever the parser has against it
        kind = "damaged header" if bytes(content[:4]).startswith(SIGNATURES) else "not an image"
        return Looked(Flaw(kind, "is no image, or its header is damaged"))
    flaw = None
    if codec not in FORMATS:
        flaw = Flaw("other format", f"is a {codec} file; expected {', '.join(FORMATS)}")
    elif height * width > MAX_PIXELS:
        flaw = Flaw("oversized", f"claims {width} x {height} pixels, more than {MAX_PIXELS}")
    elif codec != "jpeg":  # a BMP of negative width passes the parser
        flaw = _flaw_of(decode(content, only_header=True))
    elif not _has_an_end(bytes(content)):
        flaw = _flaw_of(decode(content))
    return Looked(flaw, codec, is_16_bit)


def _has_an_end(jpeg: bytes) -> bool:
    """Is there an end-of-image marker behind the last scan?

    Neither can stand inside the picture's data. Of a picture that was cut a GPU's JPEG engine
    reports nothing.
    """
    end = jpeg.rfind(END_OF_IMAGE)
    return end >= 0 and jpeg.find(START_OF_SCAN, end) < 0


def why_undecodable(image: Encoded) -> Flaw | None:
    """The reason why the image's pixels cannot be had, or None; decodes it."""
    if flaw := look(image).flaw:
        return flaw
    content = read(image)
    return content if isinstance(content, Flaw) else _flaw_of(decode(content))


def read(image: Encoded) -> UInt8[ndarray, " _"] | Flaw:
    """The file's bytes, or the reason why it cannot be read."""
    if not isinstance(image, Path):
        return image
    try:
        return np.frombuffer(image.read_bytes(), np.uint8)
    except OSError as error:
        return Flaw("unreadable", f"cannot be read ({error.strerror})")
    except ValueError as error:  # a path with a null byte
        return Flaw("unreadable", f"cannot be read ({error})")


def decode(
    content: UInt8[ndarray, " _"] | bytes, shrink: int = 1, only_header: bool = False
) -> Image.Image | Flaw:
    """The image's pixels as PIL decodes them, or what PIL has against it.

    A JPEG may be decoded at 1/`shrink` of its size, 2, 4 or 8, which is faster.
    """
    try:
        with Image.open(BytesIO(bytes(content))) as opened:
            if shrink > 1:
                opened.draft(None, (opened.width // shrink or 1, opened.height // shrink or 1))
            if not only_header:
                opened.load()
            return opened
    except MemoryError:  # the machine's
        raise
    except Exception as error:  # of which PIL has many classes, and its plugins raise any
        said = " ".join(str(error).partition(" <_io")[0].split()) or type(error).__name__
        kind = "truncated" if "truncated" in said else "damaged pixels"
        kind = "damaged header" if only_header else kind
        return Flaw(kind, f"cannot be decoded ({said})")


def _flaw_of(decoded: Image.Image | Flaw) -> Flaw | None:
    return decoded if isinstance(decoded, Flaw) else None
