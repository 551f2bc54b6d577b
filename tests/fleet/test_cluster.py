"""What is said of a cluster that is lost in the middle of a run."""

from __future__ import annotations

import pytest

from superweight.core.errors import BadInput
from superweight.fleet.cluster import answering


@pytest.fixture
def of_grpc():
    """An error of a class of grpc's, which Ray's client hands on as it is."""
    return type("RpcError", (Exception,), {"__module__": "grpc._channel"})("Socket closed")


def test_a_cluster_that_is_lost_is_named_in_a_line(of_grpc):
    """With what to do; whatever the client raises of it."""
    for error in (ConnectionError("Client is shutting down."), of_grpc):
        with pytest.raises(BadInput) as caught, answering("ray://head:10001"):
            raise error
        line = str(caught.value)
        assert line.startswith(f"the Ray cluster at ray://head:10001 does not answer any more: {error}")
        assert line.endswith("the same command does the rest")


@pytest.mark.parametrize("error", [KeyError("model"), BadInput("cannot write s3://bucket/row.json")])
def test_what_is_no_loss_of_a_cluster_is_handed_on(error):
    """A fault of ours, and a place that cannot be written, are not called a lost cluster."""
    with pytest.raises(type(error)) as caught, answering("ray://head:10001"):
        raise error
    assert caught.value is error
