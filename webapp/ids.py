"""Identifiers: time-ordered inside, random where a rater can see them, a hash where a text is one."""

import hashlib
import secrets
import time
import uuid


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562, version 7): milliseconds since 1970, then random bits.

    Good for primary keys (new rows lie together in the index). Never shown to a rater: the time tells which policy
    made a sample. There a random ``uuid.uuid4`` stands.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (
        (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    )
    return uuid.UUID(int=value)


def sha256_of(text: str) -> str:
    """Hexadecimal SHA-256 of a text; half a surrogate pair, which JSON can carry, has one too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
