"""``gare cache``: manage the copies of shards on this machine."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, gare_command
from gare.common.console import note, print_table, warn
from gare.common.errors import InputError, RunError

if TYPE_CHECKING:
    from gare.data.cache import Copy


@gare_command("cache", short_help="List, check and remove the copies of shards on this machine.")
@click.option("--folder", type=PLACE, help="Folder of the cache (runtime.cache); GARE_CACHE by default.")
@click.option("--evict", metavar="DIGEST", multiple=True, help="Remove the copy of this dataset; repeatable.")
@click.option("--all", "everything", is_flag=True, help="Remove every copy that is not in use.")
@click.option(
    "--verify", is_flag=True, help="Compute every file's SHA-256, and remove damaged copies that are not in use."
)
def cache(folder: Path | None, evict: tuple[str, ...], everything: bool, verify: bool) -> dict[str, Any]:
    """List the copies of shards on this machine: dataset, source, size, when each was last used, and if it is in use.

    GARE copies shards to this machine when it opens them at an address (or in a folder, with runtime.cache_mounted),
    and removes old copies when it needs the space (runtime.cache_gb). A copy that a process uses is never removed. You
    can shorten DIGEST to its first characters.

    \b
    Examples:
      gare cache
      gare cache --evict 3f6c2a
      gare cache --folder /mnt/nvme/gare --verify
    """
    from gare.data.cache import Cache, entries
    from gare.data.cache.room import usable

    settings = Cache(None if folder is None else str(folder))
    with usable(settings):
        root = settings.root
        copies = entries(root)
        wanted = copies if everything else [_named(copies, digest, root) for digest in evict]
        broken = _damaged(root, copies) if verify else {}
        wanted += [copy for copy in copies if copy.digest in broken and copy not in wanted]
        removed = _remove(root, wanted)
        left = [copy for copy in entries(root) if copy.digest not in removed]
    result = _show(root, left) | {"removed": removed} | ({"damaged": broken} if verify else {})
    kept = [copy.digest for copy in wanted if copy.digest not in removed]
    if (kept and not everything) or set(kept) & set(broken):
        raise RunError(f"{', '.join(kept)} in {root} is in use or being copied, so it was not removed.", result=result)
    return result


def _named(copies: list[Copy], digest: str, root: Path) -> Copy:
    found = [copy for copy in copies if digest and copy.digest.startswith(digest)]
    if len(found) != 1:
        what = "several copies" if found else "no copy"
        raise InputError(f"There is {what} of a dataset {digest!r} in {root}; gare cache lists them.")
    return found[0]


def _damaged(root: Path, copies: list[Copy]) -> dict[str, list[str]]:
    """Return the damaged files of finished copies, by digest; unfinished copies are checked when copying continues."""
    from gare.data.cache import damaged

    finished = [copy for copy in copies if copy.state in ("unused", "in use")]
    broken = {copy.digest: files for copy in finished if (files := damaged(root / copy.digest))}
    for digest, files in broken.items():
        warn(f"The copy {digest} in {root} is damaged: {', '.join(files)}.")
    return broken


def _remove(root: Path, copies: list[Copy]) -> list[str]:
    from gare.data.cache import evict

    return [copy.digest for copy in copies if evict(root, copy.digest)]


def _show(root: Path, copies: list[Copy]) -> dict[str, Any]:
    from gare.data.cache.room import disk, size_text

    rows = [
        [copy.digest, copy.source or "-", size_text(copy.there), _when(copy.last_used), copy.state] for copy in copies
    ]
    print_table(f"Copies of shards in {root}", ["dataset", "source", "size", "last used", "state"], rows)
    taken, usage = sum(copy.there for copy in copies), disk(root)
    room = f"{size_text(usage.free)} of {size_text(usage.total)}"
    note(f"{len(copies)} copies, {size_text(taken)}; the disk has {room} free")
    return {
        "folder": str(root),
        "bytes": taken,
        "free_bytes": usage.free,
        "copies": [asdict(copy) | {"last_used": _when(copy.last_used)} for copy in copies],
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
