"""The scoring rules: which gallery images a query ignores."""

import numpy as np
import pytest

from pipeline.datasets.rules import RULES


def loses(name: str, query: tuple[int, int], gallery: tuple[int, int]) -> bool:
    """Does the query of (pid, camid) ignore that gallery image?"""
    pids, camids = np.array([query, gallery], np.int64).T
    first, second = RULES[name].exclusion(pids, camids)
    return bool(first == second)


@pytest.mark.parametrize(
    ("name", "query", "gallery", "lost"),
    [
        ("sysu", (7, 3), (7, 2), True),
        ("sysu", (7, 3), (8, 2), True),  # whatever the pid
        ("sysu", (7, 3), (7, 1), False),
        ("sysu", (7, 6), (7, 2), False),
        ("llcm", (7, 4), (7, 4), True),
        ("llcm", (7, 4), (8, 4), False),
        ("llcm", (7, 4), (7, 5), False),
        ("market", (7, 4), (7, 4), True),
        ("market", (7, 4), (8, 4), False),
        ("regdb", (7, 1), (7, 1), False),
        ("plain", (7, 1), (7, 1), False),
    ],
)
def test_what_a_query_ignores(name, query, gallery, lost):
    assert loses(name, query, gallery) == lost


def test_which_cmc_counts_a_person_once():
    assert {name for name, rule in RULES.items() if rule.cmc_unique_pids} == {"sysu", "llcm"}
