"""Passwords and tokens of the environment, kept out of messages."""

import os
import re
from urllib.parse import unquote

# Variables that hold a token, and ends of the names of those that hold an address, perhaps with user and password.
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_ADDRESSES = ("_PROXY", "_ENDPOINT", "_API", "_RAW", "_URL")
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s'\"]*@")
# Shorter ones would also be found in ordinary words.
_LEAST_LETTERS = 4


def without_secrets(text: str) -> str:
    """Return a text without user and password of the addresses in it, nor any that the environment holds, as it is or decoded."""
    text = _CREDENTIALS.sub("", text)
    for secret in _secrets():
        for spelling in (f"{secret}@", secret, unquote(secret)):
            text = text.replace(spelling, "" if spelling.endswith("@") else "***")
    return text


def _secrets() -> list[str]:
    """Return user and password, the password alone, and tokens, of the environment; the longest first."""
    found = []
    for name, value in os.environ.items():
        if name.upper() in _TOKENS:
            found.append(value.strip())
        elif name.upper().endswith(_ADDRESSES) and "@" in value:
            both = value.rpartition("@")[0].rpartition("://")[2]
            found += [both, both.partition(":")[2]]
    return sorted((secret for secret in found if len(secret) >= _LEAST_LETTERS), key=len, reverse=True)
