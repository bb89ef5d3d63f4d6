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
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipeline.datasets.body import Array, Identity, Part, pose

Band = Literal["rgb", "nir", "heat"]
LABELS = 16  # canvas values for each of two people
LIT = 170  # canvas value of full light
SCENE_SCALE, SCENE_WIDTH, SCENE_TOP = 200, 8, 2.2  # pixels a body height; body heights


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


@dataclass(frozen=True, slots=True)
class Figure:
    """A person in a pose, projected: N overlapping shapes, far ones first, in body heights."""

    who: Identity
    yaw: float  # radians from facing the camera
    outlines: Array  # [N, 16, 2]: right, up
    cores: Array  # the lit part of each
    parts: Array  # what each shows, see `Part`


Layer = tuple[Figure, int, tuple[float, float]]  # with its first label and where it stands


@dataclass(frozen=True, slots=True)
class Crop:
    """The detector's box, in body heights and in pixels."""

    left: float
    top: float
    wide: float
    tall: float
    width: int
    height: int

    @property
    def scale(self) -> Array:
        """Pixels right and down of a body height right and up."""
        return np.array((self.width / self.wide, -self.height / self.tall))

    @property
    def fine(self) -> int:
        """Oversampling; large crops are soft enough without it."""
        return 2 if self.height <= 300 else 1


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
# fmt: on


def _figure(who: Identity, camera: Camera, elevation: float, sun: float, rng: Generator) -> Figure:
    """Lets `who` turn some way to the camera, which looks down by `elevation`; light from `sun`."""
    facing = int(np.searchsorted(np.cumsum(camera.views), rng.random()))
    turn = (0.0, math.pi, rng.choice((-1, 1)) * math.pi / 2)[min(facing, 2)]
    yaw = turn + rng.normal(0, 0.3)
    return Figure(who, yaw, *_outlines(pose(who, yaw, rng), yaw, elevation, sun))


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


def _frame(figure: Figure, camera: Camera, rng: Generator) -> Crop:
    """Returns the box that the detector puts around a person, more or less well."""
    low, high = figure.outlines.min((0, 1)), figure.outlines.max((0, 1))
    tall = (high[1] - low[1]) * (1 + camera.margin + rng.normal(0, 0.03))
    wide = min(max((high[0] - low[0]) * rng.normal(1.08, 0.06), tall / 3.2), tall / 2.2)
    height = round(math.exp(rng.uniform(*np.log(camera.pixels))))
    width = min(max(round(height * wide / tall), 50), 250)
    left, top = (low + high) / 2 + rng.normal(0, (0.03, 0.02)) + (-wide / 2, tall / 2)
    return Crop(left, top, wide, tall, width, height)


def _draw(layers: list[Layer], crop: Crop, camera: Camera, rng: Generator) -> tuple[Array, Any]:
    """Draws far to near: labels uint8 [H * fine, W * fine], and the light as a picture [H, W]."""
    canvas = Image.new("L", (crop.width * crop.fine, crop.height * crop.fine))
    shade = Image.new("L", (crop.width, crop.height), round(LIT * camera.backdrop))
    label, light = ImageDraw.Draw(canvas), ImageDraw.Draw(shade)
    for figure, first, shift in layers:
        edges, cores = (
            (xy + shift - (crop.left, crop.top)) * crop.scale
            for xy in (figure.outlines, figure.cores)
        )
        for edge, lit, part in zip(edges, cores, figure.parts.tolist(), strict=True):
            label.polygon((edge * crop.fine).ravel().tolist(), first + part)
            light.polygon(edge.ravel().tolist(), round(LIT * (1 - camera.contrast)))
            light.polygon(lit.ravel().tolist(), LIT)
    if rng.random() < 0.08:  # furniture hides the legs, or a post one side
        size = (crop.width, crop.height, crop.width)
        x, y, thick = rng.uniform((0.65, 0.65, 0.1), (0.9, 0.85, 0.25)) * size
        post = rng.random() < 0.5
        hidden = np.array(
            (x, 0, x + thick, crop.height) if post else (0, y, crop.width, crop.height)
        )
        label.rectangle((hidden * crop.fine).tolist(), int(Part.FURNITURE))
        light.rectangle(hidden.tolist(), LIT)
    return np.array(canvas), shade


def _print(labels: Array, figure: Figure, crop: Crop, elevation: float) -> None:
    """Labels what of a person's upper garment is printed."""
    who, yaw = figure.who, figure.yaw
    rows, columns = ((np.arange(n) + 0.5) / crop.fine for n in labels.shape)
    below = 0.82 * who.height * math.cos(elevation) - crop.top - rows[:, None] / crop.scale[1]
    chest = who.height * math.hypot(who.shoulder * math.cos(yaw), 0.07 * math.sin(yaw))
    across = (columns / crop.scale[0] + crop.left - who.lean * math.sin(yaw)) / chest
    azimuth = np.arcsin(np.clip(across, -1, 1)) - yaw
    printed = TEXTURES[who.texture](below, azimuth, who.period)
    sleeves = Part.SLEEVE if who.texture in ("stripes", "checks") else Part.UPPER
    np.putmask(labels, printed & ((labels == Part.UPPER) | (labels == sleeves)), Part.PRINT)


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
    figure = _figure(person, camera, elevation, sun, rng)
    crop = _frame(figure, camera, rng)
    layers: list[Layer] = [(figure, 0, (0.0, 0.0))]
    if passer_by:  # in front of the person when lower in the picture
        x, y = rng.uniform(0.25, 0.45) * rng.choice((-1, 1)), rng.uniform(-0.1, 0.1)
        other = _figure(passer_by, camera, elevation, sun, rng)
        layers.insert(int(y < 0), (other, LABELS, (x, y)))
    labels, shade = _draw(layers, crop, camera, rng)
    _print(labels, figure, crop, elevation)

    palette = np.zeros((2 * LABELS, 4), np.uint8)
    for layer, first, _ in layers:
        palette[first + 1 : first + 1 + len(layer.who.spectra)] = layer.who.spectra
    worn = Image.fromarray(np.take(palette[:, 3 if infrared else slice(3)], labels, axis=0))
    x = SCENE_SCALE * (rng.uniform(1, SCENE_WIDTH - 2) + crop.left)
    y = SCENE_SCALE * (SCENE_TOP - crop.top)
    box = (x, y, x + SCENE_SCALE * crop.wide, y + SCENE_SCALE * crop.tall)
    behind = scene.resize(worn.size, Image.Resampling.BILINEAR, box)
    mask = Image.fromarray(labels).point([0] + [255] * 255)
    picture = Image.composite(worn, behind, mask).reduce(crop.fine)
    return np.broadcast_to(_expose(picture, shade, camera, rng), (crop.height, crop.width, 3))
