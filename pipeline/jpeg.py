"""Finds JPEGs that have an end marker but lack part of the picture.

Decoders silently fill what is missing with flat blocks. So extra data is inserted before the end
marker: if the picture is complete, a decoder never reads it; if not, a decoder takes it for the
missing data, and the pixels change from there on. Arithmetic coding is not examined: its encoders
may leave out the end of the data.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL import ImageChops

from pipeline.guard import Flaw, decode

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not a stuffed byte, restart or padding
END, SCAN = 0xD9, 0xDA
FIRST_RESTART, NUM_RESTARTS = 0xD0, 8
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # Huffman-coded frames
ALL_BITS = 14  # bits missing from a coefficient that is in no scan

_noise = [bytes(random.Random(n).choices(range(255), k=96)) for n in range(NUM_RESTARTS + 1)]
# Any restart interval may be the truncated one. The first byte follows a marker's 0xff before it.
EXTRA_DATA = b"\0" + _noise[0]
for _n, _bytes in enumerate(_noise[1:]):
    EXTRA_DATA += bytes((0xFF, FIRST_RESTART + _n)) + _bytes


class Segment(NamedTuple):
    """A marker, its position in the file, and its header."""

    marker: int
    position: int
    header: bytes


def why_incomplete(jpeg: bytes) -> Flaw | None:
    """Returns what a JPEG's picture lacks, or None; decodes it twice."""
    segments = list(_segments(jpeg))
    frame = next((s for s in segments if s.marker in (*SEQUENTIAL, PROGRESSIVE)), None)
    progressive = frame is not None and frame.marker == PROGRESSIVE
    # A progressive file's last scans add detail that a small picture does not show.
    shrink = 1 if progressive else 8
    picture = decode(jpeg, shrink)
    if isinstance(picture, Flaw):
        return picture
    if frame is None or segments[-1].marker != END:
        return None
    if progressive and _lacks_scans(frame, segments):
        return _cut_short("its last scans are missing, so that it is blurred")
    end = segments[-1].position
    other = decode(jpeg[:end] + EXTRA_DATA + jpeg[end:], shrink)
    changed = None if isinstance(other, Flaw) else ImageChops.difference(picture, other).getbbox()
    if not changed:
        return None
    share = 1 - changed[1] / picture.height
    what = "not complete" if progressive else "flat, filled in by the decoder"
    return _cut_short(f"the lower {share:.0%} of it is {what}")


def _cut_short(what: str) -> Flaw:
    return Flaw("cut short", f"is cut short: {what}", is_usable=True)


def _segments(jpeg: bytes) -> Iterator[Segment]:
    """Yields the file's segments, up to its end marker if it has one."""
    start = 2
    while found := MARKER.search(jpeg, start):
        marker = jpeg[found.end() - 1]
        start = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
        yield Segment(marker, found.start(), jpeg[found.end() + 2 : start])
        if marker == END:
            return


def _lacks_scans(frame: Segment, segments: list[Segment]) -> bool:
    """Are the last bits of some coefficient in none of the scans?"""
    missing = {component: [ALL_BITS] * 64 for component in frame.header[6::3]}
    for scan in (s.header for s in segments if s.marker == SCAN and len(s.header) >= 6):
        first, last, bits = scan[-3], scan[-2], scan[-1] & 15
        for component in scan[1:-3:2]:
            missing.get(component, [])[first : last + 1] = [bits] * (last + 1 - first)
    return any(map(any, missing.values()))
