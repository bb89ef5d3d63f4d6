"""Validates a data set: lists and folders first, then every image, header before pixels."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.datasets.findings import Survey
from pipeline.datasets.kinds import kind_of
from pipeline.datasets.packed_survey import survey_packed
from pipeline.datasets.survey import SURVEYS
from pipeline.options import DataOptions, KindName, num_threads
from pipeline.picture import examine
from pipeline.sixteen_bit import MOST, describe


def check(
    root: Path,
    kind: KindName = "auto",
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[KindName, Survey]:
    """The data set's kind, and what was found; decodes every image, in a thread a core.

    Raises `InputError` if there is no data set of a known kind at `root`.
    """
    kind = kind_of(root, kind)
    survey = (SURVEYS | {"packed": survey_packed})[kind](root)
    files = sorted(survey.files)
    num_16_bit, histogram = 0, np.zeros(MOST + 1, np.int64)
    with ThreadPoolExecutor(num_threads(DataOptions())) as pool:
        images = (survey.contents.get(file, survey.root / file) for file in files)
        examined = pool.map(examine, images)
        for done, (file, found) in enumerate(zip(files, examined, strict=True), start=1):
            if found.flaw:
                survey.fault(found.flaw.kind, file, f"{found.flaw.text}; restore it")
            if found.values is not None:
                num_16_bit += 1
                histogram[found.values] += found.times
            if done % 64 == 0 or done == len(files):
                on_progress(done, len(files))
    if num_16_bit:
        survey.notes.append(describe(num_16_bit, histogram))
    return kind, survey
