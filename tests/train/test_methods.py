"""The paper's methods: each preset is the paper's setting with what its table says, no more."""

import pytest

from train.config import changed, flat
from train.experiments import EXPERIMENTS
from train.methods import ALIASES, METHODS
from train.presets import PRESETS

# Table III, copied from the paper: PK?, L_cls, L_tri.
TABLE_3 = {
    "baseline-1": (False, True, False),
    "baseline-2": (True, True, False),
    "baseline-3": (True, False, True),
    "baseline-4": (True, True, True),
}
# Table V, in the paper's order: gray, R, G, B; rank-1, mAP.
TABLE_5 = [
    ("", 29.1, 31.2),
    ("X", 33.2, 35.2),
    ("XR", 33.5, 35.7),
    ("XG", 33.9, 36.3),
    ("XB", 35.2, 36.5),
    ("XGB", 34.8, 36.8),
    ("XRB", 35.8, 37.2),
    ("XRG", 35.4, 37.0),
    ("XRGB", 36.2, 37.5),
]


def test_baselines_are_those_of_table_3():
    for name, (pk, cls, tri) in TABLE_3.items():
        cfg = PRESETS[name].config
        assert (cfg.data.sampling != "shuffle") == pk
        assert (cfg.loss.classification, cfg.loss.triplet) == (cls, tri)
        assert cfg.data.spectra == ()
        assert not cfg.dhsm.enabled


def test_spectra_are_those_of_table_5_in_its_order():
    rows = EXPERIMENTS["table5"].rows
    assert len(rows) == len(TABLE_5)
    for (label, method), (letters, rank1, mean_ap) in zip(rows, TABLE_5, strict=True):
        cfg = PRESETS[method].config
        assert set(cfg.data.spectra) == set(letters)
        assert set(label.replace("gray", "X").split()) - {"none"} == set(letters)
        paper = METHODS[method].paper["sysu"]
        assert (paper[0], paper[3]) == (rank1, mean_ap)
        assert not cfg.dhsm.enabled


@pytest.mark.parametrize("name", [*METHODS, *ALIASES])
def test_a_preset_is_the_paper_s_setting_but_for_its_method(name):
    method = METHODS[ALIASES.get(name, name)]
    cfg, base = flat(PRESETS[name].config), flat(PRESETS["sysu"].config)
    differing = {option for option in cfg if cfg[option] != base[option]}
    assert differing == {option.replace("_", "-") for option in method.changes}
    about = PRESETS[name].about
    for part in (f"Command: cdp train {name} --data.root", "Hardware:", "time:"):
        assert part in about
    for figure in method.paper.get("sysu", ()):
        assert f" {figure}" in about


def test_cdp_dhsm_is_the_sysu_preset():
    assert PRESETS["cdp-dhsm"].config == PRESETS["sysu"].config
    assert PRESETS["regdb-cdp"].config == changed(PRESETS["regdb"].config, {"dhsm.enabled": False})


def test_every_row_names_a_method_and_a_label_once():
    for experiment in EXPERIMENTS.values():
        labels = [label for label, _ in experiment.rows]
        assert len(set(labels)) == len(labels)
        assert {method for _, method in experiment.rows} <= set(METHODS)
