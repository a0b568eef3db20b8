"""Secrets in addresses, blotted out before a text is printed, logged or stored."""

from __future__ import annotations

import re

_USER = re.compile(r"""(?<=://)(?:[^\s/@:]*:[^\s<>]*|[^/\s"'<>]*)@""")  # a password may hold slashes and quotes
_PARAMETER = re.compile(
    r"""(?<=[?&;#])([\w.-]*(?:access|account|auth|credential|key|passw|pwd|sas|secret|session|sig|token)[\w.-]*)"""
    r"""=[^&;\s"'<>]+""",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Replace user names, passwords and secret parameters of every address in a text by ``***``."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("***@", text))
