"""The pure-Python murmur2 against Java's vectors, aiokafka and librdkafka."""

import confluent_kafka
import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from crossdock_eventing.broker.partitioner import VECTORS, murmur2, partition_for


@pytest.mark.parametrize(("key", "hashed"), VECTORS)
def test_murmur2_gives_the_java_vectors(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed


@given(st.binary(min_size=1, max_size=64), st.integers(min_value=1, max_value=1000))
def test_the_partition_of_a_key_is_the_one_of_every_other_client(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)
    assert partition_for(key, partitions) == confluent_kafka.murmur2(key, partitions)


def test_an_empty_key_has_no_partition() -> None:
    with pytest.raises(ValueError, match="empty key"):
        partition_for(b"", 3)
