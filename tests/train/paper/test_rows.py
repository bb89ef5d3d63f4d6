"""The paper's rows: each changes the paper's setting only as its table says."""

import dataclasses

import pytest

from model.translator import TranslatorOptions
from tests import trees
from train.config import flat
from train.paper.contents import EXPERIMENTS, row
from train.paper.rows import ALIASES, ROWS
from train.presets import PRESETS, find_preset

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
        cfg = find_preset(name).config
        assert (cfg.data.sampling != "shuffle") == pk
        assert (cfg.method.loss.classification, cfg.method.loss.triplet) == (cls, tri)
        assert cfg.data.spectra == ()
        assert not cfg.method.dhsm.enabled


def test_spectra_are_those_of_table_5_in_its_order():
    rows = EXPERIMENTS["table5"].rows
    assert len(rows) == len(TABLE_5)
    for (label, method), (letters, rank1, mean_ap) in zip(rows, TABLE_5, strict=True):
        cfg = find_preset(method).config
        assert set(cfg.data.spectra) == set(letters)
        assert set(label.replace("gray", "X").split()) - {"none"} == set(letters)
        paper = ROWS[method].paper["sysu"]
        assert (paper[0], paper[3]) == (rank1, mean_ap)
        assert not cfg.method.dhsm.enabled


TRANSLATOR = {f"translator.{name}" for name in flat(TranslatorOptions())}
# All that each row may change; every row except CDP+DHSM changes something.
CHANGES = {
    "cdp-dhsm": set(),
    "cdp": {"dhsm.enabled"},
    "cdp-1": {"dhsm.enabled", "loss.triplet"},
    "baseline-1": {"dhsm.enabled", "data.spectra", "data.sampling", "loss.triplet"},
    "baseline-2": {"dhsm.enabled", "data.spectra", "loss.triplet"},
    "baseline-3": {"dhsm.enabled", "data.spectra", "loss.classification"},
    "baseline-4": {"dhsm.enabled", "data.spectra"},
    "zero-padding": {"dhsm.enabled", "data.spectra", "model.structure"},
    "separate-spectrum": {"dhsm.enabled", "data.spectra", "model.structure"},
    "intermediate-spectrum": {"dhsm.enabled", "data.spectra", "model.structure"},
    "generated-spectrum": {"dhsm.enabled", "data.spectra", "model.structure", *TRANSLATOR},
}


@pytest.mark.parametrize("name", [*ROWS, *ALIASES])
def test_a_row_changes_only_what_it_is_about(name):
    preset, method = find_preset(name), ALIASES.get(name, name)
    cfg, base = flat(preset.config), flat(PRESETS["sysu"].config)
    differing = {option for option in cfg if cfg[option] != base.get(option)} - {"data.kind"}
    assert differing == CHANGES.get(method, {"dhsm.enabled", "data.spectra"})
    for part in (f"Command: cdp train {name} --data.root", "Hardware:", "time:"):
        assert part in preset.about
    for figure in ROWS[method].paper.get("sysu", ()):
        assert f" {figure}" in preset.about


def test_a_row_works_with_the_setting_of_any_data_set(tmp_path):
    root = trees.regdb(tmp_path)
    on_regdb = find_preset("cdp", root)
    assert on_regdb.config.epochs == PRESETS["regdb"].config.epochs != PRESETS["sysu"].config.epochs
    assert "RegDB, thermal to visible: rank1 64.4" in on_regdb.about
    method = on_regdb.config.method
    assert method == dataclasses.replace(
        PRESETS["regdb"].config.method, dhsm=dataclasses.replace(method.dhsm, enabled=False)
    )


def test_every_row_of_a_table_is_known_and_has_a_unique_label():
    for experiment in EXPERIMENTS.values():
        labels = [label for label, _ in experiment.rows]
        assert len(set(labels)) == len(labels)
        assert all(row(method).about for _, method in experiment.rows)
