"""A run resumed with another number of epochs: learning rates and disclosure."""

import pytest

from pipeline.errors import InputError
from tests.front_door import call
from train import schedule
from train.config import Config, Stretch, from_json, to_json
from train.methods.base import Method
from train.optimizer import OptimizerOptions

STEPS = OptimizerOptions(lr=1.0, milestones=(0.4, 0.7), gamma=0.5)
RUN = Config(epochs=10, method=Method(optimizer=STEPS))


def rates(cfg: Config) -> list[float]:
    return [schedule.rate(cfg, epoch) for epoch in range(1, cfg.epochs + 1)]


def test_an_unextended_run_steps_down_at_its_milestones_and_discloses_nothing():
    assert rates(RUN) == [1.0] * 4 + [0.5] * 3 + [0.25] * 3
    assert schedule.disclosure(RUN, 10) == {}
    assert schedule.extended(RUN, 3, 10) == RUN
    assert [e for e in range(1, 11) if schedule.is_end(RUN, e)] == [10]


def test_trained_epochs_keep_their_rates_and_others_use_the_new_total():
    longer = schedule.extended(RUN, 10, 20)
    assert longer.history == (Stretch(10, 10),)
    straight = rates(schedule.extended(RUN, 0, 20))
    assert rates(longer) == rates(RUN) + straight[10:]
    assert [e for e in range(1, 21) if schedule.is_end(longer, e)] == [10, 20]
    assert from_json(to_json(longer), "here") == longer
    assert schedule.disclosure(longer, 10) == {}
    said = schedule.disclosure(longer, 20)["training"]
    assert said.startswith("resumed from 10 to 20 epochs, unlike a single run of 20")
    assert "1-10 as of 10, 11-20 as of 20" in said
    announced = schedule.describe_change(longer, 10)
    assert "from epoch 11: 0.25 to 0.5; from epoch 15: 0.5 to 0.25" in announced


def test_a_run_is_extended_twice_or_reset():
    longer = schedule.extended(RUN, 10, 20)
    again = schedule.extended(longer, 12, 40)
    assert again.history == (Stretch(10, 10), Stretch(12, 20))
    assert rates(again)[:12] == rates(longer)[:12]
    assert "resumed from 10 to 20 to 40 epochs" in schedule.disclosure(again, 40)["training"]
    # Totals that no epoch was trained with are not recorded.
    assert schedule.extended(longer, 10, 40).history == (Stretch(10, 10),)
    assert schedule.extended(longer, 10, 10) == RUN
    shorter = schedule.extended(RUN, 3, 5)
    assert (shorter.history, shorter.epochs) == ((Stretch(3, 10),), 5)


@pytest.mark.parametrize(("trained", "epochs"), [(10, 9), (4, 3), (1, 0), (5, 9)])
def test_fewer_epochs_than_are_trained_are_rejected(trained, epochs):
    cfg = schedule.extended(RUN, 10, 20) if (trained, epochs) == (5, 9) else RUN
    with pytest.raises(InputError, match=f"--epochs {epochs}: the run is already at epoch"):
        schedule.extended(cfg, trained, epochs)


def test_history_is_not_an_option(capsys):
    assert call("train", "demo", "--history", "1", "1") == 2
    assert call("train", "demo", "--help") == 0
    assert "history" not in capsys.readouterr().out
