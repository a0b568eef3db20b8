"""``dataset.json``: read only where it holds what is read of it, in the right types."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from gare.common.errors import InputError
from gare.common.records import LENIENT, checked, load_json
from gare.common.redact import shown
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, SCHEMA_VERSION


def _file_name(name: str) -> str:
    """The name of a file of the shard folder, and not of one elsewhere."""
    if name in ("", ".", "..") or PurePosixPath(name).name != name:
        raise ValueError("it is no file's name")
    return name


Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**31)]


class _Lenient(BaseModel):
    model_config = LENIENT


class _Shard(_Lenient):
    file: Annotated[str, AfterValidator(_file_name)]
    rows: Count
    unit: Count = 0
    bytes: Count = 0
    sha256: str = ""


class _Recipe(_Lenient):
    max_frames: Size
    short_side: Size
    crop: Size | None = None


class _Counted(_Lenient):
    videos: Count
    captions: Count


class _Totals(_Lenient):
    notes: dict[str, Count] = {}


class _DatasetFile(_Lenient):
    digest: str
    recipe_digest: str
    recipe: _Recipe
    splits: dict[str, _Counted]
    shards: list[_Shard]
    totals: _Totals = _Totals()


def read_dataset_file(place: Folder) -> dict[str, Any]:
    """Read the dataset manifest of a folder. Raises InputError where there is none, or one of something else."""
    path = place.named(DATASET_FILE)
    if place.is_local and not place.local.is_dir():
        raise InputError(f"There is no folder {place}; give the --out folder of gare prepare.")
    text = place.read_text(DATASET_FILE) if place.size(DATASET_FILE) is not None else None
    if text is None:
        raise InputError(f"{place} has no {DATASET_FILE}: gare prepare did not finish there. Run it again.")
    try:
        values = load_json(text)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; run gare prepare again.") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {shown(version)}; this software reads {SCHEMA_VERSION}.")
    try:
        checked(_DatasetFile, values)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); run gare prepare again.") from None
    return dict(values)
