"""Validates a data set: lists and folders first, then every image, header before pixels."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.datasets.findings import Findings
from pipeline.datasets.kinds import kind_of, survey
from pipeline.options import DataOptions, KindName, num_threads
from pipeline.picture import Examination


def check(
    root: Path,
    kind: KindName = "auto",
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[KindName, Findings]:
    """Returns the data set's kind and the findings; decodes every image, one thread per core.

    Raises `InputError` if there is no data set of a known kind at `root`.
    """
    kind = kind_of(root, kind)
    found = survey(root, kind)
    files, examination = sorted(found.files), Examination()
    with ThreadPoolExecutor(num_threads(DataOptions())) as pool:
        images = (found.contents.get(file, found.folder / file) for file in files)
        flaws = pool.map(examination.flaw_of, images)
        for done, (file, flaw) in enumerate(zip(files, flaws, strict=True), start=1):
            if flaw:
                record = found.warn if flaw.is_usable else found.fault
                record(flaw.kind, file, f"{flaw.text}; restore it")
            if done % 64 == 0 or done == len(files):
                on_progress(done, len(files))
    for note in examination.notes():
        found.warn("16-bit images", found.root, note)
    return kind, found
