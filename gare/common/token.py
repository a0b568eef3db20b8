"""Find Ray's authentication token, and keep it unreadable for other users of the machine.

Only Ray itself reads the token. It is never printed, recorded or sent along with a job.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from gare.common.errors import RunError

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_BYTES = 32


def token_file() -> Path:
    """Return the file that Ray reads its token from, unless RAY_AUTH_TOKEN holds it."""
    named = os.environ.get(TOKEN_FILE)
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def token_source() -> str | None:
    """Describe where the token comes from, in Ray's order; None if there is none."""
    if os.environ.get(TOKEN, "").strip():
        return f"the variable {TOKEN}"
    file = token_file()
    with suppress(OSError):
        if file.is_file() and file.stat().st_size:
            return str(file)
    return None


def protect_token() -> None:
    """Make the token file readable for its owner alone: Ray writes it readable for everyone."""
    with suppress(OSError):  # another user's file, or one mounted read-only, is not ours to change
        file = token_file()
        if file.is_file() and file.stat().st_mode & 0o077:
            file.chmod(0o600)


def make_token() -> None:
    """Make the token before Ray does: others could read Ray's file for a moment.

    Raises RunError if its file cannot be written.
    """
    if token_source() is not None or os.environ.get(TOKEN_FILE) or os.environ.get(MODE, "token").lower() != "token":
        return
    file = token_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(TOKEN_BYTES))
    except FileExistsError:
        return  # another process was first
    except OSError as error:
        raise RunError(
            f"Cannot write Ray's token {file}: {error.strerror}. Set HOME to a folder that you may "
            f"write, or {TOKEN_FILE} to the file of a token."
        ) from None


def use_token() -> None:
    """Make Ray's clients send the token, if there is one; call before importing ray, which reads the mode once."""
    protect_token()
    if token_source() is not None:
        os.environ.setdefault(MODE, "token")


def wrong_token(cluster: str) -> str:
    """Explain what to do if ``cluster`` refuses our token or we have none; the message never holds the token."""
    source = token_source()
    put = f"put the cluster's in ~/.ray/auth_token with mode 600, or name its file in {TOKEN_FILE}"
    if source is None:
        return f"{cluster} asks for a token, and there is none here: {put}."
    if os.environ.get(MODE, "").lower() != "token":
        return f"{cluster} asks for a token; unset {MODE}, so that it is sent."
    also = f", and unset {TOKEN}" if TOKEN in source else ""
    return f"{cluster} refuses the token of {source}, which is not its own: {put}{also}."


def told_token() -> str:
    """Describe which token, if any, we send to clusters."""
    source = token_source()
    if source is None:
        return "there is none here"
    return f"it gets that of {source}" if os.environ.get(MODE, "").lower() == "token" else f"{MODE} keeps ours back"
