"""Begin a run's record, or continue the existing one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from gare.common.errors import RunError
from gare.common.files import make_folder, write_text
from gare.common.locks import lock_within
from gare.common.redact import redact
from gare.config import Config
from gare.config.tree import to_yaml
from gare.tracking.environment import environment, resolve_uri
from gare.tracking.names import tag_value
from gare.tracking.record import (
    Record,
    Status,
    now_ms,
    read_handle,
    read_record,
    relative_uri,
    take_up,
    updating,
    write_record,
)
from gare.tracking.sync import LOCK_SECONDS, SETTINGS, Sync, line_to
from gare.tracking.tracker import Denied, Gone, Refused, Unreachable

ELSEWHERE = "Set runtime.tracking_uri to a server or a sqlite:/// file, or runtime.tracking to false."


def begin(
    folder: Path,
    config: Config,
    name: str,
    *,
    tags: Mapping[str, str],
    dataset: Mapping[str, str],
    parent: Path | None = None,
    former: str | None = None,
    description: str | None = None,
    ended: Status | None = None,
) -> str | None:
    """Begin the record of a run's folder, or continue the existing one, and update the tracker.

    Returns the run's id in the tracker, None if it is not known yet. Raises RunError if the tracker of a new run cannot
    be used; a run that was recorded before, or has a ``parent``, continues without it.

    Args:
        folder: The run's, made if missing.
        config: Settings, which also name the tracker; written to a new folder's config.yaml.
        name: Of a new run.
        tags: Of a new run, in addition to those for code and machine.
        dataset: Name, source and digests of the shards; empty if unknown.
        parent: Folder of the parent run.
        former: Id of the run in an earlier version.
        description: Of a new run, in Markdown.
        ended: How the run ended, if it did: it is only brought up to date, and keeps its end time and tags.
    """
    runtime, uri = config.runtime, resolve_uri(config.runtime)
    with lock_within(make_folder(folder) / ".tracking.lock", LOCK_SECONDS):
        record = read_record(folder)
        is_former = record is not None
        if record is None or record.experiment != runtime.experiment:
            record, is_former = Record(uri=uri, experiment=runtime.experiment), former is not None
            take_up(record, former)
        at_its_tracker = record.run_id is not None and record.address(folder) == uri
        under_way = parent is not None or ended is not None or at_its_tracker
        record.name = record.name or tag_value(name)
        if record.begun_ms is None and not (ended and is_former):
            every = environment() | {
                "gare.config_digest": config.digest(),
                "gare.protocol_test": config.protocol.test,
                **tags,
            }
            record.begun_ms = now_ms()
            record.description = None if description is None else tag_value(description)
            record.tags = {key: tag_value(value) for key, value in every.items()} | record.tags
            record.parent = None if parent is None else os.path.relpath(parent, folder)
        record.uri, record.synced = relative_uri(uri, folder), None
        if ended is None:
            record.status, record.ended_ms = "RUNNING", None
        record.status = record.status or ended
        record.tags |= {key: value for key, value in dataset.items() if key.endswith("_digest")}
        if "dataset_digest" in dataset:
            source = tag_value(dataset.get("source", "local"))
            record.dataset = {
                "name": dataset.get("name", "shards"),
                "digest": dataset["dataset_digest"],
                "source": source,
            }
        write_record(folder, record)
    if not (folder / SETTINGS).is_file():
        write_text(folder / SETTINGS, to_yaml(config))
    _first_sync(folder, uri, under_way=under_way)
    handle = read_handle(folder)
    return None if handle is None else handle.run_id


def _first_sync(folder: Path, uri: str, *, under_way: bool) -> None:
    """Reach the tracker, with a new run if it lost the folder's; RunError if a new run cannot begin."""
    way = Sync(folder)
    if under_way and time.monotonic() < line_to(uri).again_at:
        return
    try:
        with lock_within(folder / ".sync.lock", LOCK_SECONDS):
            try:
                way.push()
            except Gone:
                with updating(folder) as record:
                    if record is None or record.run_id is None:
                        raise
                    record.renew()
                way.push()
    except (Unreachable, Refused) as error:
        if under_way:
            line_to(uri).failed(error, folder)
            return
        fix = f"It refuses access: {error.fix}." if isinstance(error, Denied) else ELSEWHERE
        raise RunError(f"Cannot use the tracker {redact(uri)}: {error}. {fix}") from None
