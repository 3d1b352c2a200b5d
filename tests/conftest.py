"""What every test shares: slow and special tests run only where they are asked for by `-m`."""

import pytest

ASKED_FOR = ("slow", "gpu", "weights", "network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The default run takes no slow test; `-m slow` (or any other expression) chooses for itself."""
    if config.getoption("-m"):
        return
    special = [item for item in items if any(item.get_closest_marker(name) for name in ASKED_FOR)]
    config.hook.pytest_deselected(items=special)
    items[:] = [item for item in items if item not in special]
