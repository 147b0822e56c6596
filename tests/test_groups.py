"""How the tests are run: those of a group, which share what is dear, run in one process."""

import pytest


@pytest.mark.xdist_group("one")
def test_a_group_reaches_the_scheduler(request: pytest.FixtureRequest) -> None:
    """pytest-xdist tells it by the name of the test; under a pytest that it does not know, it groups nothing and says nothing."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("the tests are not run in groups (--dist loadgroup)")
    assert request.node.nodeid.endswith("@one")
