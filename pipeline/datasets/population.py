"""The embedded data set's people, cameras and scenes; `people` draws them.

Textile dyes mostly fade in near-infrared (NIR), so a fabric's NIR reflectance depends on the fabric
far more than on its visible colour; carbon black stays dark. Far-infrared (FIR) cameras see heat
instead. Spectra and heat are drawn from plausible ranges, not measured.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np
from numpy import ndarray
from numpy.random import Generator, Philox
from PIL import Image, ImageDraw, ImageFilter

from pipeline.datasets.body import Identity, Part, Spectrum
from pipeline.datasets.people import SCENE_SCALE, SCENE_TOP, SCENE_WIDTH, Band, Camera

T = TypeVar("T")
# purposes of random streams
IDENTITY, LAYOUT, PIXELS, TRIALS, SCENE, HEAT = range(100, 106)

# fmt: off
CAMERAS = (
    Camera(1, "rgb", "hall", (.5, .2, .3), (.10, .22), (180, 420), .04,
           (1.06, 1., .88), (.85, 1.1), .25, .12, 3., .7, .10),
    Camera(2, "rgb", "room", (.3, .4, .3), (.18, .35), (170, 400), .06,
           (.97, 1.02, 1.), (.75, 1.), .22, .25, 3.5, .8, .15),
    Camera(3, "nir", "room", (.3, .4, .3), (.18, .35), (170, 380), .06,
           (1., 1., 1.), (.8, 1.15), .20, .15, 2.2, .6, .20, backdrop=.55, folds=.025),
    Camera(4, "rgb", "street", (.4, .35, .25), (.05, .15), (150, 400), .04,
           (1., 1., 1.05), (.9, 1.25), .40, .30, 3., .6, .05),
    Camera(5, "rgb", "yard", (.2, .3, .5), (.12, .30), (140, 380), .08,
           (.93, 1., 1.12), (.65, 1.), .35, .35, 4.5, 1., .12),
    Camera(6, "nir", "park", (.35, .35, .3), (.08, .20), (150, 380), .06,
           (1., 1., 1.), (.7, 1.1), .20, .20, 3., .7, .25, backdrop=.42, folds=.025),
)
# height of the wall's foot, spectra of wall and floor, things: share, width, bottom, top, spectrum
_Thing = tuple[float, float, float, float, Spectrum]
_SCENES: dict[str, tuple[float, Spectrum, Spectrum, tuple[_Thing, ...]]] = {
    "hall": (.45, (196, 190, 176, 170), (128, 120, 108, 120),
             ((.5, .55, 0., 1.25, (118, 78, 48, 150)), (.4, .3, .6, 1., (60, 90, 140, 130)))),
    "room": (.62, (180, 186, 188, 150), (112, 100, 88, 105),
             ((.4, .35, 0., 1.1, (90, 94, 98, 70)), (.6, .8, -.1, .35, (150, 120, 84, 165)))),
    "street": (.35, (150, 146, 140, 135), (124, 124, 126, 110),
               ((.8, .4, .35, .95, (70, 84, 96, 50)), (.2, 1.3, -.1, .4, (140, 30, 34, 90)))),
    "yard": (.55, (126, 84, 66, 140), (140, 136, 128, 125),
             ((.6, .5, .5, 1.1, (84, 92, 96, 60)), (.5, .9, -.1, .3, (56, 84, 44, 205)))),
    "park": (.48, (96, 110, 84, 150), (116, 112, 100, 115),
             ((.6, .12, -.05, 1.5, (76, 60, 48, 110)), (.6, .7, .1, 1.6, (56, 84, 44, 200)))),
}
_COLOURS = {  # share of clothes by visible colour
    (30, 30, 34): .22, (222, 222, 218): .13, (122, 122, 124): .14, (34, 42, 74): .11,
    (54, 94, 160): .09, (166, 38, 42): .07, (190, 166, 130): .07, (52, 92, 62): .05,
    (98, 68, 48): .05, (216, 150, 166): .03, (216, 184, 64): .03, (110, 70, 140): .01,
}
_FABRICS = {  # share by range of NIR, how far NIR follows visible brightness, and only black
    (168, 224, .06, False): .40, (142, 210, .10, False): .28, (120, 184, .10, False): .20,
    (46, 90, .20, True): .12,
}
_HAIR_TONES = {(30, 26, 26): .72, (84, 60, 42): .2, (150, 140, 134): .08}
_HAIR = {"short": .42, "buzz": .08, "bob": .12, "long": .14, "tail": .12, "bun": .04, "cap": .08}
_UPPER = {"short": .38, "long": .30, "open": .20, "coat": .12}
_LOWER = {"trousers": .66, "shorts": .18, "skirt": .16}
_TEXTURE = {"plain": .36, "stripes": .14, "bars": .06, "checks": .10, "logo": .14, "back": .08,
            "block": .12}
_CARRIED = {"nothing": .42, "backpack": .30, "bag": .20, "suitcase": .08}
_HEAT = {  # range of FIR grey levels, between the ambient temperature (about 60) and the body's
    Part.SKIN: (212, 236), Part.HAIR: (150, 185), Part.UPPER: (130, 190), Part.INNER: (170, 205),
    Part.LOWER: (120, 175), Part.SHOES: (80, 120), Part.BAG: (62, 96), Part.HAT: (110, 150),
    Part.FURNITURE: (58, 70),
}
_SAME_HEAT = {Part.EYES: Part.SKIN, Part.PRINT: Part.UPPER}  # a print is as warm as its cloth
_COOLER = {"coat": 24., "open": 10., "long": 0., "short": 0.}  # grey levels, by upper garment
_GRAIN = {"rgb": .08, "nir": .05, "heat": .02}  # deviation of a surface's own brightness
# fmt: on
# No light of their own, hence no shading; a lens of few pixels, and little noise.
THERMAL_CAMERAS = tuple(
    camera
    if camera.band == "rgb"
    else replace(
        camera,
        band="heat",
        pixels=(128, 190),
        exposure=(0.92, 1.08),
        contrast=0.06,
        gradient=0.03,
        noise=1.5,
        blur=4.0,
        vignette=0.05,
        backdrop=1.0,
        folds=0.015,
    )
    for camera in CAMERAS
)


def stream(seed: int, purpose: int, pid: int = 0, camid: int = 0, image: int = 0) -> Generator:
    """Returns the random stream for a purpose and image; the low counter word counts its values."""
    return Generator(Philox(key=[seed, purpose], counter=[0, image, camid, pid]))


def _pick(rng: Generator, shares: Mapping[T, float]) -> T:
    """Draws a key, each with the probability of its share."""
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(edges, rng.random() * edges[-1]))]


def _dye(rng: Generator) -> Spectrum:
    """Draws a dyed fabric: a visible colour, and a NIR value that depends mostly on the fabric."""
    low, high, follow, only_black = _pick(rng, _FABRICS)
    colour = next(iter(_COLOURS)) if only_black else _pick(rng, _COLOURS)
    tint = np.multiply(colour, rng.lognormal(0, 0.12)) + rng.normal(0, 6, 3)
    r, g, b = np.clip(tint, 12, 240).astype(int).tolist()
    return r, g, b, int(rng.uniform(low, high) + follow * ((r + g + b) / 3 - 100))


def identity(seed: int, pid: int) -> Identity:
    """Returns one person of the population of `seed`."""
    rng = stream(seed, IDENTITY, pid)
    skin = np.multiply((224, 178, 150), rng.uniform(0.5, 1.05)).astype(int).tolist()
    hair = np.multiply(_pick(rng, _HAIR_TONES), rng.lognormal(0, 0.15)).astype(int).tolist()
    upper, ink, inner, lower, shoes, bag, hat = (_dye(rng) for _ in range(7))
    if rng.random() > 0.45:  # the ink absorbs no NIR, so the print vanishes there
        ink = (*ink[:3], upper[3])
    sleeve = ink if rng.random() < 0.12 else upper
    spectra = [(*skin, int(rng.uniform(186, 214))), (*hair, int(rng.uniform(64, 148)))]
    spectra += [(70, 50, 46, 100), upper, ink, sleeve, inner, lower, shoes, bag, hat]
    return Identity(
        height=rng.uniform(0.9, 1.1),
        build=float(np.clip(rng.lognormal(0, 0.13), 0.78, 1.4)),
        shoulder=rng.uniform(0.095, 0.122),
        hip=rng.uniform(0.08, 0.105),
        leg=rng.uniform(0.46, 0.52),
        head=rng.uniform(0.047, 0.056),
        loose=rng.uniform(0.002, 0.02),
        hem=rng.uniform(-0.02, 0.07),
        lean=rng.uniform(-0.01, 0.05),
        period=rng.uniform(0.03, 0.09),
        side=rng.choice((-1.0, 1.0)),
        hair=_pick(rng, _HAIR),
        upper=_pick(rng, _UPPER),
        lower=_pick(rng, _LOWER),
        texture=_pick(rng, _TEXTURE),
        carried=_pick(rng, _CARRIED),
        spectra=(*spectra, (110, 100, 90, 120)),  # the last one is of furniture
    )


def warm(person: Identity, seed: int, pid: int) -> Identity:
    """Returns a person of `seed` whose infrared band holds the heat of each part, for FIR cameras.

    No colour or print is left. Tight clothes are warmer than loose ones, which hold air.
    """
    rng = stream(seed, HEAT, pid)
    heat = {part: rng.uniform(*levels) for part, levels in _HEAT.items()}
    heat[Part.UPPER] -= _COOLER[person.upper] + 1500 * person.loose
    heat[Part.SLEEVE] = heat[Part.UPPER] - rng.uniform(4, 18)
    heat |= {part: heat[other] for part, other in _SAME_HEAT.items()}
    spectra = zip(Part, person.spectra, strict=True)
    return replace(person, spectra=tuple((r, g, b, int(heat[p])) for p, (r, g, b, _) in spectra))


@cache
def scene(name: str, band: Band) -> Image.Image:
    """Returns what a camera sees without people."""
    foot, wall, floor, things = _SCENES[name]
    rng = stream(list(_SCENES).index(name), SCENE)
    size = (SCENE_WIDTH * SCENE_SCALE, round((SCENE_TOP + 0.6) * SCENE_SCALE))
    picture = Image.new("CMYK", size, wall)  # four bands: R, G, B, NIR
    draw = ImageDraw.Draw(picture)

    def box(left: float, bottom: float, right: float, top: float, spectrum: Spectrum) -> None:
        corners = np.array((left, SCENE_TOP - top, right, SCENE_TOP - bottom)) * SCENE_SCALE
        draw.rectangle(corners.tolist(), spectrum, tuple(v * 6 // 10 for v in spectrum), 3)

    for top in (foot, *(foot - np.cumsum(0.04 * 1.6 ** np.arange(6)))):  # rows of slabs
        box(-1.0, -1.0, SCENE_WIDTH + 1.0, top, floor)
    for share, width, bottom, top, spectrum in things:
        for left in np.arange(0, SCENE_WIDTH, 1.3 * width) + rng.uniform(0, 0.3):
            if rng.random() < share:
                r, g, b, nir = np.multiply(spectrum, rng.uniform(0.75, 1.15)).astype(int).tolist()
                box(left, foot + bottom, left + width, foot + top, (r, g, b, nir))
    bands = _seen(np.asarray(picture), band)
    texture = rng.standard_normal((*bands.shape[:2], 1), np.float32)
    grain = 1 + np.float32(_GRAIN[band]) * texture
    seen = Image.fromarray(np.clip(bands * grain, 0, 255).astype(np.uint8).squeeze())
    return seen.filter(ImageFilter.BoxBlur(1))


def _seen(picture: ndarray, band: Band) -> ndarray:
    """Returns the channels of a scene [H, W, 4] that a camera sees."""
    if band == "heat":  # all is near the ambient temperature; what is dark by day warms up more
        return 66 - 0.1 * (picture[..., :3].mean(-1, keepdims=True, dtype=np.float32) - 128)
    return picture[..., 3:] if band == "nir" else picture[..., :3]
