"""Options for turning a source into a manifest, and the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from gare.common.errors import InputError
from gare.common.redact import names, shown
from gare.schema import MANIFEST


@dataclass(frozen=True)
class SourceOptions:
    """Options for turning a source into a manifest; the same for every kind of source.

    ``columns``: manifest column -> column of the source, where the names differ. ``root``: folder of relative uris,
    the source's own by default. ``split``: puts every row into this split. ``carve``: split -> share of the videos;
    the rest is train. ``attributes``: columns copied into the attributes. ``exact``: reject columns that would not
    be read. ``unquoted`` and ``header``: for a CSV file, as in ``CsvForm``.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    split: str | None = None
    carve: Mapping[str, float] | None = None
    seed: int = 0
    attributes: tuple[str, ...] = ()
    allow_uncaptioned: bool = False
    exact: bool = False
    unquoted: bool = False
    header: tuple[str, ...] = ()

    def source_of(self, column: str) -> str:
        """Return the source's name for a manifest column."""
        return self.columns.get(column, column)

    @property
    def ids_from_uris(self) -> bool:
        """True if video ids come from the files' names."""
        return self.source_of("video_id") == self.source_of("uri")

    @property
    def read(self) -> list[str]:
        """The columns of the source that are read if they exist."""
        return list(dict.fromkeys([*map(self.source_of, MANIFEST.names), *self.attributes]))


@dataclass(frozen=True)
class Made:
    """The manifest, the number of rows read, and how many videos were dropped because they have no caption.

    ``dropped_captions``: number of captions that stand for none, such as nan, None and null. ``in_several_splits``:
    files with rows in more than one split. ``left_out``: paths of a folder that are not in the manifest, with the
    reason. ``whole``: files that were not cut into segments, with the reason.
    """

    table: pa.Table
    rows: int
    uncaptioned: int
    dropped_captions: int = 0
    in_several_splits: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)


def check_columns(path: Path, header: Sequence[str], options: SourceOptions) -> None:
    """Raise InputError unless a source with these columns can be read with these options."""
    if not header:
        raise InputError(f"{path} is empty.")
    repeated = [name for name, count in Counter(header).items() if name and count > 1]
    if repeated:
        raise InputError(f"{path} has the column {shown(repeated[0])} twice.")
    unknown = [name for name in options.columns if name not in MANIFEST.names]
    if unknown:
        raise InputError(f"A manifest has no column {names(unknown[:1])}; its columns are {', '.join(MANIFEST.names)}.")
    needed = ["video_id", "uri", *([] if options.allow_uncaptioned else ["captions"])]
    wanted = [*map(options.source_of, needed), *options.columns.values(), *options.attributes]
    missing = list(dict.fromkeys(name for name in wanted if name not in header))
    if missing:
        raise InputError(
            f"{path} has no column {names(missing)}; its columns are {names(header)}. "
            "--columns names others, such as --columns video_id=file,uri=file."
        )
    unread = [name for name in header if name not in MANIFEST.names or name == "attributes"]
    if options.exact and unread:
        raise InputError(
            f"{path} has the column {names(unread)}, which a manifest in CSV does not have; "
            "gare manifest csv makes a manifest of any CSV file."
        )
    if options.split is None and options.carve is None and options.source_of("split") not in header:
        raise InputError(
            f"{path} has no split column; give --split NAME for all rows, or --carve dev=0.1,test=0.1 to draw them."
        )
