"""A small model of how people look to RGB, near- (NIR) and far-infrared (FIR) cameras.

What it models. A person is a jointed body of tapered capsules with walking phase, arm pose and
turn, worn garments, hair and carried things. Every material is a spectrum over (R, G, B, NIR), and
a print survives in NIR only when its ink differs there; for FIR cameras, heat takes NIR's place. A
camera has its own viewpoints, crop scale, scene, illuminant, blur and noise; NIR cameras see one
band under their own light, which falls off with distance, FIR cameras need no light. Detector boxes
are misaligned; passers-by or furniture hide some people.

What it does not model. There is no mesh, cloth simulation, lens distortion, interreflection or
facial likeness; scenes are still, and clothes, their warmth and carried things never change.
Light multiplies gamma-encoded values, which is exact for a pure power law and only approximate for
a real sensor. Results on these pictures say nothing about accuracy on real ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Spectrum = tuple[int, int, int, int]  # gamma-encoded R, G, B, NIR (or heat) in 0..255
Band = Literal["rgb", "nir", "heat"]
Point = tuple[float, float, float]  # right, forward, up in body heights; feet on zero
Array = NDArray[Any]
LABELS = 16  # canvas values for each of two people
LIT = 170  # canvas value of full light
SCENE_SCALE, SCENE_WIDTH, SCENE_TOP = 200, 8, 2.2  # pixels a body height; body heights


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


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera: how it sees people, its scene and light, and its sensor."""

    camid: int
    band: Band
    scene: str
    views: tuple[float, float, float]  # shares of front, back and side
    elevation: tuple[float, float]  # radians it looks down
    pixels: tuple[int, int]  # height of a crop
    margin: float  # how loosely the detector crops
    cast: tuple[float, float, float]  # gain of each channel
    exposure: tuple[float, float]
    contrast: float  # how much darker the sides of a limb are than its lit core
    gradient: float  # how much the light falls across the crop
    noise: float  # standard deviation in grey levels, of each channel
    blur: float  # pixels at a crop height of 256
    vignette: float
    backdrop: float = 1.0  # light that reaches the scene, of that on people
    folds: float = 0.04  # deviation of the light on cloth

    @property
    def modality(self) -> Literal["rgb", "ir"]:
        """What the data set calls it."""
        return "rgb" if self.band == "rgb" else "ir"


# fmt: off
TEXTURES: dict[str, Callable[[Array, Array, float], Array]] = {
    # where the print is, of body heights below the shoulder, azimuth and period
    "plain": lambda v, a, s: v < -9,
    "stripes": lambda v, a, s: np.sin(2 * np.pi * v / s) > 0,
    "bars": lambda v, a, s: np.sin(.7 * a / s) > 0,
    "checks": lambda v, a, s: (np.sin(2 * np.pi * v / s) > 0) ^ (np.sin(.7 * a / s) > 0),
    "logo": lambda v, a, s: (abs(v - .09) < .3 * s + .02) & (np.cos(a) > .8),
    "back": lambda v, a, s: (abs(v - .1) < .5 * s + .03) & (np.cos(a) < -.7),
    "block": lambda v, a, s: v < .08 + s,
}
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


def _pose(p: Identity, yaw: float, rng: Generator) -> Array:
    """Returns [N, 11] capsules: from xyz, to xyz, two radii, part, roundness, depth bias."""
    rows: list[tuple[float, ...]] = []

    def add(a: Point, b: Point, r0: float, r1: float, part: Part, *shape: float) -> None:
        rows.append((*a, *b, r0, r1, part, *(shape or (1.0, 0.0))))

    def span(width: float, depth: float) -> float:
        return math.hypot(width * math.cos(yaw), depth * math.sin(yaw))

    def swung(a: Point, length: float, angle: float, out: float = 0.0) -> Point:
        return a[0] + out, a[1] + length * math.sin(angle), a[2] - length * math.cos(angle)

    stride = rng.uniform(0.25, 0.5) if rng.random() < 0.75 else rng.uniform(0.02, 0.1)
    phase = rng.uniform(0, 2 * math.pi)
    shoulder, hip = p.shoulder * (0.6 + 0.4 * p.build), p.hip * (0.5 + 0.5 * p.build)
    arm, depth, short = 0.015 + 0.014 * p.build, 0.068 * p.build, p.upper == "short"
    sleeve = arm + 0.005 + 0.5 * p.loose
    thigh = 0.046 * p.build + p.loose * (p.lower != "skirt")
    shin = thigh - 0.014 - p.loose * (p.lower == "shorts")
    on_thigh = Part.SKIN if p.lower == "skirt" else Part.LOWER
    on_shin = Part.LOWER if p.lower == "trousers" else Part.SKIN
    for side in (-1, 1):
        turn = phase + side * math.pi / 2
        swing, bend = stride * math.sin(turn), stride * (0.2 + 1.2 * max(0.0, math.cos(turn)))
        top = (side * 0.52 * hip, 0.0, p.leg)
        knee = swung(top, 0.5 * p.leg, swing)
        ankle = swung(knee, 0.45 * p.leg, swing - bend)
        toe = (ankle[0] + side * 0.015, ankle[1] + 0.08, ankle[2] - 0.012 + 0.05 * bend)
        add(knee, ankle, shin, shin - 0.01, on_shin, 1.0, -0.15)
        add(top, knee, thigh, thigh - 0.012, on_thigh, 0.6, -0.145)
        add(ankle, toe, 0.023, 0.018, Part.SHOES, 0.8, -0.14)
        joint, back = (side * (shoulder * 0.95 - 0.01), p.lean, 0.785), -0.7 * swing
        elbow, half = (swung(joint, length, back, side * length / 8) for length in (0.17, 0.1))
        flex = back + (rng.uniform(1.6, 2.4) if rng.random() < 0.12 else rng.uniform(0.1, 0.5))
        wrist, tips = (swung(elbow, length, flex, -side * 0.01) for length in (0.15, 0.18))
        if short:
            add(joint, elbow, arm, 0.8 * arm, Part.SKIN, 1.0, 0.05)
        add(elbow if short else wrist, tips, 0.85 * arm, 0.018, Part.SKIN, 1.0, 0.05)
        add(joint, half if short else elbow, sleeve, sleeve, Part.SLEEVE, 0.6, 0.055)
        if not short:
            add(elbow, wrist, 0.95 * sleeve, 0.8 * sleeve, Part.SLEEVE, 0.5, 0.055)

    pelvis, waist, chest = (0.0, 0.0, p.leg), (0.0, p.lean / 2, 0.64), (0.0, p.lean, 0.78)
    low, middle = (0.0, 0.0, p.leg - p.hem), span(0.9 * hip + 0.012, depth)
    wide = span(hip + 0.012 + p.loose / 2, depth + 0.012)
    add(chest, (0.0, p.lean, 0.86), 0.03, 0.026, Part.SKIN)
    add((0.0, 0.0, p.leg + 0.04), pelvis, middle, span(hip, depth), Part.LOWER, 0.4, 0.0)
    add(chest, waist, span(shoulder, depth), middle, Part.UPPER, 0.45, 0.02)
    add(waist, low, middle, wide, Part.UPPER, 0.25, 0.02)
    if p.lower == "skirt":
        hem = (0.0, 0.0, p.leg * (0.45 + 8 * p.loose))
        add(pelvis, hem, wide, span(hip * 1.35, depth * 1.6), Part.LOWER, 0.2, 0.01)
    if p.upper == "coat":
        add(low, (0.0, 0.0, p.leg / 2), wide, span(hip * 1.3, depth * 1.5), Part.UPPER, 0.15, 0.02)
    if p.upper in ("coat", "open"):
        strip, end = max(0.035 * abs(math.cos(yaw)), 0.008), (0.0, depth, p.leg - p.hem + 0.02)
        add((0.0, p.lean + depth, 0.81), end, 0.7 * strip, 1.2 * strip, Part.INNER, 0.3, 0.0)
    for a, b, r0, r1, cap, bias in CARRIED[p.carried]:
        start, end = ((p.side * x, y, z) for x, y, z in (a, b))
        add(start, end, span(*r0), span(*r1), Part.BAG, cap, bias)
    skull = 1.0 if p.hair == "buzz" else 1.1
    crown, face = (0.0, -0.05, 0.1), (0.0, 0.32, -0.28)
    head = ((crown, crown, skull, skull, Part.HAIR), (face, face, 0.86, 0.86, Part.SKIN))
    eyes = (((x, 0.95, 0.0), (x, 0.95, -0.01), 0.12, 0.12, Part.EYES) for x in (-0.36, 0.36))
    for a, b, r0, r1, part in (*head, *HAIR[p.hair], *eyes):
        start, end = ((p.head * x, p.head * y + p.lean, p.head * z + 0.925) for x, y, z in (a, b))
        add(start, end, p.head * r0, p.head * r1, part, 1.25 if a == b else 0.6, 0.03)
    table = np.array(rows)
    table[:, [2, 5]] += 0.025 - table[:, [2, 5]].min()
    table[:, :8] *= p.height
    return table


def _outlines(table: Array, yaw: float, elevation: float, sun: float) -> tuple[Array, Array, Array]:
    """Projects capsules, far ones first: outlines and lit cores [N, 16, 2] (right, up), parts."""
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    ground, up = table[:, [[0, 1], [3, 4]]] @ turn, table[:, [2, 5]]
    scale = 1 + 0.4 * math.sin(elevation) * (up - 0.5)  # the camera is nearer to the head
    lifted = up * math.cos(elevation) - ground[..., 1] * math.sin(elevation)
    order = np.argsort(ground[..., 1].mean(1) + table[:, 10], kind="stable")
    ends = np.stack((ground[..., 0] * scale, lifted), -1)[order]
    r0, r1, part, cap = (table[order, i, None, None] for i in range(6, 10))
    a, b, axis = ends[:, :1], ends[:, 1:], np.diff(ends, axis=1)
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    axis = np.where(length > 1e-6, axis / np.maximum(length, 1e-6), (0.0, -1.0))
    arc = np.linspace(0, np.pi, 8)[:, None]
    across, along = np.cos(arc) * axis[..., ::-1] * (-1, 1), cap * np.sin(arc) * axis
    shapes = []
    for thin, shift in ((1.0, 0.0), (0.6, 0.25 * sun)):  # as long as the part: joints show no seam
        side, aside = thin * across - along, np.array((shift, 0.0))
        shapes.append(np.concatenate((a + r0 * (aside + side), b + r1 * (aside - side)), 1))
    return shapes[0], shapes[1], part.ravel().astype(int)


def _expose(picture: Image.Image, shade: Image.Image, camera: Camera, rng: Generator) -> Array:
    """Lights what is seen and adds the sensor's noise; uint8 [H, W, 1 or 3]."""
    v, u = np.linspace(-1, 1, 48)[:, None], np.linspace(-1, 1, 20)
    slope, centre = camera.gradient * rng.uniform(-0.5, 0.5, 2), rng.normal((0, -0.2), 0.2)
    light = 1 + slope[0] * u + slope[1] * v + rng.normal(0, camera.folds, (48, 20))
    light *= 1 - camera.vignette * ((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / 2
    light *= rng.uniform(*camera.exposure) / LIT
    smooth = Image.fromarray(light.astype(np.float32)).resize(shade.size, Image.Resampling.BICUBIC)
    soft = shade.filter(ImageFilter.BoxBlur(shade.height * max(1 / 90, camera.blur / 256)))
    sharp = picture.filter(ImageFilter.GaussianBlur(camera.blur * shade.height / 256))
    seen = np.atleast_3d(np.asarray(sharp)) * (np.asarray(smooth) * np.asarray(soft))[..., None]
    if camera.modality == "rgb":
        seen *= np.multiply(camera.cast, rng.normal(1, 0.03, 3))
    seen += rng.standard_normal(seen.shape, np.float32) * np.float32(camera.noise)
    seen += np.float32(rng.uniform(2, 14))  # stray light
    lit: Array = np.clip(seen, 0, 255).astype(np.uint8)
    return lit


def render(
    person: Identity,
    camera: Camera,
    scene: Image.Image,
    passer_by: Identity | None,
    rng: Generator,
) -> NDArray[np.uint8]:
    """Returns one detector crop as uint8 [H, W, 3]; an infrared one has three equal channels.

    `scene` is the camera's view without people, in its own bands, at `SCENE_SCALE`.
    """
    infrared, elevation = camera.modality == "ir", rng.uniform(*camera.elevation)
    sun = 0.0 if infrared else rng.uniform(-1, 1)

    def figure(who: Identity) -> tuple[float, tuple[Array, Array, Array]]:
        facing = int(np.searchsorted(np.cumsum(camera.views), rng.random()))
        turn = (0.0, math.pi, rng.choice((-1, 1)) * math.pi / 2)[min(facing, 2)]
        yaw = turn + rng.normal(0, 0.3)
        return yaw, _outlines(_pose(who, yaw, rng), yaw, elevation, sun)

    yaw, body = figure(person)
    low, high = body[0].min((0, 1)), body[0].max((0, 1))
    tall = (high[1] - low[1]) * (1 + camera.margin + rng.normal(0, 0.03))
    wide = min(max((high[0] - low[0]) * rng.normal(1.08, 0.06), tall / 3.2), tall / 2.2)
    height = round(math.exp(rng.uniform(*np.log(camera.pixels))))
    width = min(max(round(height * wide / tall), 50), 250)
    left, top = (low + high) / 2 + rng.normal(0, (0.03, 0.02)) + (-wide / 2, tall / 2)
    scale = np.array((width / wide, -height / tall))
    layers = [(person, 0, (0.0, 0.0), body)]
    if passer_by:  # in front of the person when lower in the picture
        x, y = rng.uniform(0.25, 0.45) * rng.choice((-1, 1)), rng.uniform(-0.1, 0.1)
        layers.insert(int(y < 0), (passer_by, LABELS, (x, y), figure(passer_by)[1]))

    fine = 2 if height <= 300 else 1  # large crops are soft enough without oversampling
    canvas = Image.new("L", (width * fine, height * fine))
    shade = Image.new("L", (width, height), round(LIT * camera.backdrop))
    label, light = ImageDraw.Draw(canvas), ImageDraw.Draw(shade)
    palette = np.zeros((2 * LABELS, 4), np.uint8)
    for who, first, shift, (outline, core, parts) in layers:
        palette[first + 1 : first + 1 + len(who.spectra)] = who.spectra
        edges, cores = ((xy + shift - (left, top)) * scale for xy in (outline, core))
        for edge, lit, part in zip(edges, cores, parts.tolist(), strict=True):
            label.polygon((edge * fine).ravel().tolist(), first + part)
            light.polygon(edge.ravel().tolist(), round(LIT * (1 - camera.contrast)))
            light.polygon(lit.ravel().tolist(), LIT)
    if rng.random() < 0.08:  # furniture hides the legs, or a post one side
        x, y, thick = rng.uniform((0.65, 0.65, 0.1), (0.9, 0.85, 0.25)) * (width, height, width)
        post = rng.random() < 0.5
        hidden = np.array((x, 0, x + thick, height) if post else (0, y, width, height))
        label.rectangle((hidden * fine).tolist(), int(Part.FURNITURE))
        light.rectangle(hidden.tolist(), LIT)

    labels = np.array(canvas)
    rows, columns = ((np.arange(n) + 0.5) / fine for n in labels.shape)
    below = 0.82 * person.height * math.cos(elevation) - top - rows[:, None] / scale[1]
    chest = person.height * math.hypot(person.shoulder * math.cos(yaw), 0.07 * math.sin(yaw))
    across = (columns / scale[0] + left - person.lean * math.sin(yaw)) / chest
    azimuth = np.arcsin(np.clip(across, -1, 1)) - yaw
    printed = TEXTURES[person.texture](below, azimuth, person.period)
    sleeves = Part.SLEEVE if person.texture in ("stripes", "checks") else Part.UPPER
    np.putmask(labels, printed & ((labels == Part.UPPER) | (labels == sleeves)), Part.PRINT)
    x, y = SCENE_SCALE * (rng.uniform(1, SCENE_WIDTH - 2) + left), SCENE_SCALE * (SCENE_TOP - top)
    box = (x, y, x + SCENE_SCALE * wide, y + SCENE_SCALE * tall)
    behind = scene.resize(canvas.size, Image.Resampling.BILINEAR, box)
    mask = Image.fromarray(labels).point([0] + [255] * 255)
    worn = Image.fromarray(np.take(palette[:, 3 if infrared else slice(3)], labels, axis=0))
    picture = Image.composite(worn, behind, mask).reduce(fine)
    return np.broadcast_to(_expose(picture, shade, camera, rng), (height, width, 3))
