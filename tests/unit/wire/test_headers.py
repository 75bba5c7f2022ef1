"""Who may be named in a header."""

import pytest

from director.errors import InvalidArgument
from director.wire.channels import sync_channel


@pytest.mark.parametrize("client_id", ["zoë", "two\nlines", " ada", "ada ", "\x1b[31m"])
def test_client_id_that_cannot_travel_in_a_header_is_refused(client_id):
    with pytest.raises(InvalidArgument, match="client id"):
        sync_channel("127.0.0.1:1", None, client_id)
