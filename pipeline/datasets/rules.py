"""How retrieval is scored: which pairs do not count, and what CMC counts. One row per protocol.

Sources: Wu et al., ICCV 2017, and the MATLAB code its authors published (SYSU-MM01); Ye et al.,
"Deep Learning for Person Re-identification", TPAMI 2021, and its code (RegDB); Zhang and Wang,
CVPR 2023, and its code (LLCM); Zheng et al., ICCV 2015 (Market-1501).
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

Codes = Int64[ndarray, " n"]
Cameras = Mapping[str, frozenset[int]]  # "RGB", "infrared": the cameras of that modality

SYSU_CAMERAS: Cameras = {"RGB": frozenset((1, 2, 4, 5)), "infrared": frozenset((3, 6))}
LLCM_CAMERAS: Cameras = {  # no infrared image of camera 3 exists
    "RGB": frozenset(range(1, 10)),
    "infrared": frozenset(range(1, 10)) - {3},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A scoring rule: each query ignores the gallery images whose exclusion code equals its own."""

    about: str
    exclusion: Callable[[Codes, Codes], Codes]  # (pids, camids) of all images -> their codes
    cmc_unique_pids: bool  # CMC counts each gallery pid once, at its best rank
    uses_cameras: bool = True
    cameras: Cameras = field(default_factory=dict)  # those of the data set; empty: any
    usual_query: str = ""  # the query modality of published results, if there is one

    def direction(self, query: Set[int], gallery: Set[int]) -> tuple[str, str] | None:
        """Returns the modalities of query and gallery that have these cameras, or None."""
        pairs = [(q, g) for q in self.cameras for g in self.cameras if q != g]
        fitting = [
            (q, g) for q, g in pairs if query <= self.cameras[q] and gallery <= self.cameras[g]
        ]
        return fitting[0] if fitting else None


def _nothing(pids: Codes, camids: Codes) -> Codes:
    """Returns a unique code per image: each excludes only itself."""
    return np.arange(len(pids), dtype=np.int64)


def _sysu_place(pids: Codes, camids: Codes) -> Codes:
    """Returns a code per place: cameras 2 and 3 share one, and queries ignore their own place."""
    return np.where(camids == 3, 2, camids)


def _pid_and_camera(pids: Codes, camids: Codes) -> Codes:
    """Returns a code per person and camera."""
    _, pid = np.unique(pids, return_inverse=True)
    _, camera = np.unique(camids, return_inverse=True)
    return (pid * (camera.max(initial=0) + 1) + camera).astype(np.int64)


PLAIN = Rule(
    "nothing is ignored; CMC counts every image",
    _nothing,
    cmc_unique_pids=False,
    uses_cameras=False,
)

RULES = {
    "sysu": Rule(
        "a query from camera 3 ignores camera 2, and every query its own camera, whatever the pid; "
        "CMC counts each gallery pid once",
        _sysu_place,
        cmc_unique_pids=True,
        cameras=SYSU_CAMERAS,
        usual_query="infrared",
    ),
    "regdb": PLAIN,
    "llcm": Rule(
        "images of the query's pid from its camera are ignored; CMC counts each gallery pid once",
        _pid_and_camera,
        cmc_unique_pids=True,
        cameras=LLCM_CAMERAS,
    ),
    "market": Rule(
        "images of the query's pid from its camera are ignored; CMC counts every image "
        "(Market-1501; data sets given as a table)",
        _pid_and_camera,
        cmc_unique_pids=False,
    ),
    "plain": PLAIN,
}


def name_of(rule: Rule) -> str:
    """Returns a rule's key in `RULES`."""
    return next(name for name, known in RULES.items() if known is rule)
