import pytest
from prices import Prices


@pytest.fixture
def prices(broadcast_server):
    """The application, on the hub of a real server."""
    return broadcast_server.call(Prices, broadcast_server.hub)
