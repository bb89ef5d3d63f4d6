"""A person's body: tapered capsules for limbs, trunk, head, clothes, hair and carried things."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Spectrum = tuple[int, int, int, int]  # gamma-encoded R, G, B, NIR (or heat) in 0..255
Point = tuple[float, float, float]  # right, forward, up in body heights; feet on zero
Capsule = tuple[float, ...]  # 11 numbers, see `pose`
Array = NDArray[Any]


class Part(IntEnum):
    """What a pixel of a person shows; zero is the scene."""

    SKIN, HAIR, EYES, UPPER, PRINT, SLEEVE, INNER, LOWER, SHOES, BAG, HAT, FURNITURE = range(1, 13)


@dataclass(frozen=True, slots=True)
class Identity:
    """One person: body lengths in body heights, kinds by name, a spectrum for each `Part`."""

    height: float  # 1 is 1.7 m
    build: float
    shoulder: float
    hip: float
    leg: float
    head: float
    loose: float
    hem: float
    lean: float
    period: float
    side: float
    hair: str
    upper: str
    lower: str
    texture: str
    carried: str
    spectra: tuple[Spectrum, ...]

    @property
    def shoulders(self) -> float:
        """Half their breadth, with this build."""
        return self.shoulder * (0.6 + 0.4 * self.build)

    @property
    def hips(self) -> float:
        """Half their breadth, with this build."""
        return self.hip * (0.5 + 0.5 * self.build)


# fmt: off
HAIR: dict[str, tuple[tuple[Point, Point, float, float, Part], ...]] = {
    # capsules beside the skull in head radii: from, to, two radii, part
    "short": (), "buzz": (),
    "bob": (((0., -.15, .2), (0., -.25, -1.), 1.08, 1.05, Part.HAIR),),
    "long": (((0., -.3, .2), (0., -.8, -3.2), 1.02, .8, Part.HAIR),),
    "tail": (((0., -.9, .5), (0., -1.5, -2.), .32, .22, Part.HAIR),),
    "bun": (((0., -.5, 1.3), (0., -.5, 1.4), .42, .42, Part.HAIR),),
    "cap": (((0., 0., .75), (0., 0., .4), .85, 1.1, Part.HAT),
            ((0., .5, .5), (0., 1.5, .4), .6, .5, Part.HAT)),
}
CARRIED: dict[str, tuple[tuple[Any, ...], ...]] = {
    # capsules: from, to, half width and depth at each, roundness, depth bias
    "nothing": (),
    "backpack": (((0., -.1, .76), (0., -.11, .6), (.085, .05), (.1, .07), .4, .01),
                 ((-.06, 0., .81), (-.06, .07, .66), (.012, .012), (.012, .012), 1., .03),
                 ((.06, 0., .81), (.06, .07, .66), (.012, .012), (.012, .012), 1., .03)),
    "bag": (((.13, 0., .5), (.13, 0., .42), (.035, .09), (.04, .1), .3, .07),
            ((-.05, .05, .81), (.13, .07, .5), (.009, .009), (.009, .009), 1., .03),
            ((-.05, -.05, .81), (.13, -.07, .5), (.009, .009), (.009, .009), 1., .03)),
    "suitcase": (((.22, -.1, .3), (.22, -.1, .06), (.08, .06), (.08, .06), .2, 0.),
                 ((.22, -.1, .42), (.22, -.1, .3), (.008, .008), (.008, .008), 1., 0.)),
}
# fmt: on


def _capsule(
    a: Point, b: Point, r0: float, r1: float, part: Part, roundness: float = 1.0, bias: float = 0.0
) -> Capsule:
    return (*a, *b, r0, r1, float(part), roundness, bias)


def _swung(joint: Point, length: float, angle: float, out: float = 0.0) -> Point:
    """Where a limb ends that hangs from `joint`, swung forward by `angle`."""
    x, y, z = joint
    return x + out, y + length * math.sin(angle), z - length * math.cos(angle)


def pose(p: Identity, yaw: float, rng: Generator) -> Array:
    """Returns [N, 11] capsules: from xyz, to xyz, two radii, part, roundness, depth bias."""
    table = np.array([*_limbs(p, rng), *_trunk(p, yaw), *_head(p)])
    table[:, [2, 5]] += 0.025 - table[:, [2, 5]].min()  # the lower shoe stands on the ground
    table[:, :8] *= p.height
    return table


def _limbs(p: Identity, rng: Generator) -> Iterator[Capsule]:
    """Walks or stands; an arm swings against the leg of its side."""
    stride = rng.uniform(0.25, 0.5) if rng.random() < 0.75 else rng.uniform(0.02, 0.1)
    phase = rng.uniform(0, 2 * math.pi)
    for side in (-1, 1):
        turn = phase + side * math.pi / 2
        swing, bend = stride * math.sin(turn), stride * (0.2 + 1.2 * max(0.0, math.cos(turn)))
        yield from _leg(p, side, swing, bend)
        flex = rng.uniform(1.6, 2.4) if rng.random() < 0.12 else rng.uniform(0.1, 0.5)
        yield from _arm(p, side, -0.7 * swing, flex)


def _leg(p: Identity, side: int, swing: float, bend: float) -> Iterator[Capsule]:
    thigh = 0.046 * p.build + p.loose * (p.lower != "skirt")
    shin = thigh - 0.014 - p.loose * (p.lower == "shorts")
    on_thigh = Part.SKIN if p.lower == "skirt" else Part.LOWER
    on_shin = Part.LOWER if p.lower == "trousers" else Part.SKIN
    top = (side * 0.52 * p.hips, 0.0, p.leg)
    knee = _swung(top, 0.5 * p.leg, swing)
    ankle = _swung(knee, 0.45 * p.leg, swing - bend)
    toe = (ankle[0] + side * 0.015, ankle[1] + 0.08, ankle[2] - 0.012 + 0.05 * bend)
    yield _capsule(knee, ankle, shin, shin - 0.01, on_shin, 1.0, -0.15)
    yield _capsule(top, knee, thigh, thigh - 0.012, on_thigh, 0.6, -0.145)
    yield _capsule(ankle, toe, 0.023, 0.018, Part.SHOES, 0.8, -0.14)


def _arm(p: Identity, side: int, swing: float, flex: float) -> Iterator[Capsule]:
    arm, short = 0.015 + 0.014 * p.build, p.upper == "short"
    sleeve = arm + 0.005 + 0.5 * p.loose
    joint = (side * (p.shoulders * 0.95 - 0.01), p.lean, 0.785)
    elbow, half = (_swung(joint, length, swing, side * length / 8) for length in (0.17, 0.1))
    wrist, tips = (_swung(elbow, length, swing + flex, -side * 0.01) for length in (0.15, 0.18))
    if short:
        yield _capsule(joint, elbow, arm, 0.8 * arm, Part.SKIN, 1.0, 0.05)
    yield _capsule(elbow if short else wrist, tips, 0.85 * arm, 0.018, Part.SKIN, 1.0, 0.05)
    yield _capsule(joint, half if short else elbow, sleeve, sleeve, Part.SLEEVE, 0.6, 0.055)
    if not short:
        yield _capsule(elbow, wrist, 0.95 * sleeve, 0.8 * sleeve, Part.SLEEVE, 0.5, 0.055)


def _trunk(p: Identity, yaw: float) -> Iterator[Capsule]:
    """Neck, trunk, what is worn on it and carried; `yaw` says how wide these look."""

    def span(width: float, depth: float) -> float:
        return math.hypot(width * math.cos(yaw), depth * math.sin(yaw))

    hip, depth = p.hips, 0.068 * p.build
    pelvis, waist, chest = (0.0, 0.0, p.leg), (0.0, p.lean / 2, 0.64), (0.0, p.lean, 0.78)
    low, middle = (0.0, 0.0, p.leg - p.hem), span(0.9 * hip + 0.012, depth)
    wide = span(hip + 0.012 + p.loose / 2, depth + 0.012)
    yield _capsule(chest, (0.0, p.lean, 0.86), 0.03, 0.026, Part.SKIN)
    yield _capsule((0.0, 0.0, p.leg + 0.04), pelvis, middle, span(hip, depth), Part.LOWER, 0.4)
    yield _capsule(chest, waist, span(p.shoulders, depth), middle, Part.UPPER, 0.45, 0.02)
    yield _capsule(waist, low, middle, wide, Part.UPPER, 0.25, 0.02)
    if p.lower == "skirt":
        hem = (0.0, 0.0, p.leg * (0.45 + 8 * p.loose))
        yield _capsule(pelvis, hem, wide, span(hip * 1.35, depth * 1.6), Part.LOWER, 0.2, 0.01)
    if p.upper == "coat":
        hem = (0.0, 0.0, p.leg / 2)
        yield _capsule(low, hem, wide, span(hip * 1.3, depth * 1.5), Part.UPPER, 0.15, 0.02)
    if p.upper in ("coat", "open"):
        strip, end = max(0.035 * abs(math.cos(yaw)), 0.008), (0.0, depth, p.leg - p.hem + 0.02)
        top = (0.0, p.lean + depth, 0.81)
        yield _capsule(top, end, 0.7 * strip, 1.2 * strip, Part.INNER, 0.3)
    for a, b, r0, r1, cap, bias in CARRIED[p.carried]:
        start, end = ((p.side * x, y, z) for x, y, z in (a, b))
        yield _capsule(start, end, span(*r0), span(*r1), Part.BAG, cap, bias)


def _head(p: Identity) -> Iterator[Capsule]:
    skull = 1.0 if p.hair == "buzz" else 1.1
    crown, face = (0.0, -0.05, 0.1), (0.0, 0.32, -0.28)
    head = ((crown, crown, skull, skull, Part.HAIR), (face, face, 0.86, 0.86, Part.SKIN))
    eyes = (((x, 0.95, 0.0), (x, 0.95, -0.01), 0.12, 0.12, Part.EYES) for x in (-0.36, 0.36))
    for a, b, r0, r1, part in (*head, *HAIR[p.hair], *eyes):
        start, end = ((p.head * x, p.head * y + p.lean, p.head * z + 0.925) for x, y, z in (a, b))
        yield _capsule(start, end, p.head * r0, p.head * r1, part, 1.25 if a == b else 0.6, 0.03)
