"""Options of a test beyond the plain one, and how results disclose them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.options import Trial

EQUAL = 1e-9  # percent; the mean of equal numbers is rounded


@dataclass(frozen=True, slots=True)
class ReRanking:
    """Parameters of re-ranking, by default the paper's; raises `InputError` if out of range."""

    k1: int = 20  # neighbours that may be reciprocal
    k2: int = 6  # neighbours, the image itself included, whose encodings are averaged
    lambda_: float = 0.3  # weight of the original distance

    def __post_init__(self) -> None:
        for name, k in (("k1", self.k1), ("k2", self.k2)):
            if k < 1:
                raise InputError(f"--re-rank-{name} {k}: must be at least 1")
        if not 0 <= self.lambda_ <= 1:
            raise InputError(f"--re-rank-lambda {self.lambda_}: must be in 0…1")


@dataclass(frozen=True, slots=True)
class ReRankingFlags:
    """`ReRanking` on the command line."""

    re_rank: bool = False
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017) of each trial's queries and gallery."""

    re_rank_k1: int = ReRanking().k1
    """Neighbours that may be reciprocal."""

    re_rank_k2: int = ReRanking().k2
    """Neighbours, the image itself included, whose encodings are averaged."""

    re_rank_lambda: float = ReRanking().lambda_
    """Weight of the original distance."""

    def chosen(self) -> ReRanking | None:
        """Returns None without `--re-rank`; raises `InputError` for parameters without it."""
        parameters = ReRanking(self.re_rank_k1, self.re_rank_k2, self.re_rank_lambda)
        if not self.re_rank and parameters != ReRanking():
            raise InputError("--re-rank-k1, -k2, -lambda: have no effect alone; pass --re-rank too")
        return parameters if self.re_rank else None


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How a run is tested; by default, the plain test on its own data set."""

    flip_test: bool = False  # average the features of an image and its mirror image
    re_ranking: ReRanking | None = None
    data: Path | None = None  # where the data set is, or another one
    trial: Trial | None = None  # RegDB's, if not the one that the run was trained on

    def disclosure(self) -> dict[str, Any]:
        """Returns the entries of a result that disclose these options; {} for a plain test."""
        re_rank = self.re_ranking and {
            "k1": self.re_ranking.k1,
            "k2": self.re_ranking.k2,
            "lambda": self.re_ranking.lambda_,
        }
        used = self.flip_test or re_rank
        return {
            **({"test_time": {"flip_test": self.flip_test, "re_rank": re_rank}} if used else {}),
            **({"data": str(self.data)} if self.data else {}),
        }

    def file_name(self) -> str:
        """Returns the name of the result file; `result.json` is for the plain test only."""
        parts = ["result"]
        if self.data:
            parts += ["on", re.sub(r"\W+", "-", self.data.name).strip("-") or "data"]
            parts += ["trial", str(self.trial)] if self.trial else []
        if self.flip_test:
            parts.append("flip-test")
        if self.re_ranking:
            parts.append("re-rank")
        return "-".join(parts) + ".json"


PLAIN = EvalOptions()


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search a gallery; raises `InputError` for values out of range."""

    top: int = 20
    """Number of gallery images to list per query."""

    gallery_modality: Literal["rgb", "ir"] | None = None
    """Modality of gallery images without one in a CSV. Only networks that treat RGB and infrared
    differently need it; for images of the run's data set the default is to look it up there."""

    query_modality: Literal["rgb", "ir"] | None = None
    """The same for the queries."""

    flip_test: bool = False
    """Average the features of each image and its mirror image; the page says so."""

    cache: Path | None = None
    """Folder of cached features, 8 KB per image with ResNet-50; default RUN_DIR/search-cache. Can
    be deleted at any time, and shared by runs."""

    cache_gib: float = 10.0
    """Largest size of the cache, in GiB; the features used least recently are removed first, but
    never those of this search."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top {self.top}: must be at least 1")
        if not self.cache_gib >= 0:  # nor NaN
            raise InputError(f"--cache-gib {self.cache_gib}: must be at least 0")


USUAL_SEARCH = SearchOptions()


def disclosed(result: dict[str, Any]) -> list[str]:
    """Returns a result's disclosed options in words; [] for a plain test.

    Raises KeyError, TypeError or ValueError if they do not have the form of `disclosure`.
    """
    words = []
    test_time = result.get("test_time", {"flip_test": False, "re_rank": None})
    if test_time["flip_test"]:
        words.append("flip-test")
    if (used := test_time["re_rank"]) is not None:
        words.append(f"re-ranked (k1 {used['k1']}, k2 {used['k2']}, λ {used['lambda']:g})")
    if "data" in result:
        words.append(f"on {result['data']}")
    return words


def on_equal_trials(result: dict[str, Any]) -> str:
    """Returns a remark on a result in which some mode's trials all came out the same, or ""."""
    modes = result.get("modes", [result])
    if any(mode["num_trials"] > 1 and max(mode["std"].values()) < EQUAL for mode in modes):
        return (
            "a row of ± 0.0: all its trials came out the same, as when each gallery has every image"
        )
    return ""
