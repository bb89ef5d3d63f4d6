"""`cdp data check`: what a data set holds, for people."""

from pathlib import Path

from pipeline.check import check as check_data_set
from pipeline.datasets.kinds import KINDS
from pipeline.errors import InputError
from pipeline.options import KindName
from train.reporting.display import Display


def check(root: Path, kind: KindName, display: Display) -> None:
    """Shows what a data set holds; raises `InputError` if something has to be mended."""
    with display.progress("images") as progress:
        kind, survey = check_data_set(root, kind, progress)
    display.say(f"{root}: {KINDS[kind].layout}")
    display.say(f"{len(survey.files)} images were opened")
    display.survey(survey)
    for note in survey.notes:
        display.say(f"note      {note}")
    if survey.faults:
        raise InputError(
            f"{root}: {len(survey.faults)} faults ({', '.join(survey.by_kind())}); mend them and "
            "check again"
        )
    display.say("no fault")
