"""What every test shares: which tests run by default, and that a skip in CI is a failure."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has all of them ignore Ctrl-C, which many are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one worker for each core: torch's threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Workers are told a size of their screen, which terminals of the tests have of their own.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)

from collections.abc import Generator

import pytest

ASKED_FOR = ("slow", "long", "gpu", "weights", "network")
GOOD_REASONS = ("Linux", "macOS", "Windows", "platform", "not beside this checkout")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The default run takes no slow test; `-m slow` (or any other expression) chooses for itself."""
    if config.getoption("-m"):
        return
    special = [item for item in items if any(item.get_closest_marker(name) for name in ASKED_FOR)]
    config.hook.pytest_deselected(items=special)
    items[:] = [item for item in items if item not in special]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped in silence: a skip whose reason is not the platform or absent data is red."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in GOOD_REASONS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report
