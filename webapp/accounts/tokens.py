"""Secret tokens of links: told once, kept as a hash."""

import hashlib
import secrets


def new_token() -> str:
    """URL-safe text of 256 random bits."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """What is kept of a token. It has too many random bits to be guessed, so the hash needs no salt."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
