"""Addresses that cannot be meant, or where nobody answers, are refused before anything is started."""

import pytest

from footplate.errors import FootplateError
from footplate_cluster.connection import connected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://head:10001",
            "--address ray://head:10001: Ray's client protocol is not used here, "
            "a run must outlive a laptop's connection; use host:6379 from a node of the cluster",
        ),
        (
            "http://head:8265",
            "--address http://head:8265: that is the address of Ray's dashboard; to train give host:6379 or auto, "
            "to send the job there use `footplate submit`",
        ),
        ("head:99999", "--address head:99999: is no address of a cluster; give host:6379, auto or local"),
        ("nonsense", "--address nonsense: is no address of a cluster; give host:6379, auto or local"),
        (
            "127.0.0.1:1",
            "--address 127.0.0.1:1: nobody answers there (Connection refused); start a cluster with "
            "`ray start --head`, or give the address that it printed",
        ),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(FootplateError) as raised, connected(address):
        pass
    assert str(raised.value) == message
