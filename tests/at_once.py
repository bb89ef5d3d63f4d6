"""A pytest plugin, `-p tests.at_once`: shows each failure when it happens.

pytest shows them at its end, which a run with a time limit may not reach.
"""

import pytest

MAX_LINES, MAX_CHARACTERS = 40, 300  # of a line; one may show a whole batch of pixels


class AtOnce:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self.config.pluginmanager.get_plugin("terminalreporter")
            lines = report.longreprtext.splitlines()[-MAX_LINES:]
            terminal.write_line("")
            for line in (f"{report.when} of {report.nodeid}, last lines:", *lines):
                terminal.write_line(line[:MAX_CHARACTERS])


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in the processes of pytest-xdist
        config.pluginmanager.register(AtOnce(config))
