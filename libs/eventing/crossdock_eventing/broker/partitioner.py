"""Which partition a key belongs to: murmur2 exactly as the Java client computes it.

Used by the shell to check that a record lies where its key belongs (`contract.misrouted_key`), by the
in-memory broker, and at start-up to prove that the native client agrees. Pure.
"""

from typing import Final

_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C

# From org.apache.kafka.common.utils.UtilsTest#testMurmur2, taken modulo 2^32: (key, hash).
VECTORS: Final[tuple[tuple[bytes, int], ...]] = (
    (b"21", -973932308 & _MASK),
    (b"foobar", -790332482 & _MASK),
    (b"a-little-bit-long-string", -985981536 & _MASK),
    (b"a-little-bit-longer-string", -1486304829 & _MASK),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971 & _MASK),
    (b"abc", 479470107),
)


def murmur2(key: bytes) -> int:
    """The 32-bit murmur2 hash of `key`, unsigned, with Kafka's seed
    (org.apache.kafka.common.utils.Utils.murmur2).
    """
    length = len(key)
    h = (_SEED ^ length) & _MASK
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if whole != length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions` (≥ 1), as Java's default partitioner and aiokafka compute it.

    Raises ValueError on an empty key: keyed topics have non-empty keys, and clients disagree on what an empty
    one means.
    """
    if not key:
        raise ValueError("an empty key has no partition")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
