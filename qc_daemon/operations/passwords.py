"""Passwords and tokens: made, hashed and compared."""

import functools
import hashlib
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from detector.console import UsageError

MIN_PASSWORD_LETTERS = 12
MAX_PASSWORD_LETTERS = 1000
TOKEN_PREFIX = "qcd_"
"""What an API token begins with, so that one that got into a file is known for what it is."""
_TOKEN_BYTES = 32
# Each check takes 64 MiB and a core for a moment: no more than two at once, however many ask.
_TURNS = threading.BoundedSemaphore(2)


@functools.cache
def _hasher() -> PasswordHasher:
    """Argon2id with the library's parameters (RFC 9106, low memory)."""
    return PasswordHasher()


@functools.cache
def _hash_of_nobody() -> str:
    return _hasher().hash(secrets.token_urlsafe())


def parse_password(password: str, name: str) -> str:
    """The password, if it is long enough and not the name. Raises UsageError."""
    if not MIN_PASSWORD_LETTERS <= len(password) <= MAX_PASSWORD_LETTERS:
        raise UsageError(
            f"password: give {MIN_PASSWORD_LETTERS} to {MAX_PASSWORD_LETTERS} letters, as some"
            " words in a row"
        )
    if name.casefold() in password.casefold() or len(set(password)) < MIN_PASSWORD_LETTERS // 3:
        raise UsageError("password: give one without the name in it, of several different letters")
    return password


def hash_password(password: str) -> str:
    """What is stored of a password."""
    with _TURNS:
        return _hasher().hash(password)


def is_password(password: str, stored: str | None) -> bool:
    """Whether it is the one that was hashed; without a hash it takes as long, and is not."""
    if len(password) > MAX_PASSWORD_LETTERS:
        return False
    with _TURNS:
        try:
            return _hasher().verify(stored or _hash_of_nobody(), password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False


def new_token() -> str:
    """A random token of 256 bits, in letters of URLs."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def token_sha256(token: str) -> str:
    """What is stored of a token: it is random, so that no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()
