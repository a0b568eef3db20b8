"""The model of an index: a trained checkpoint, or a CLIP without training, scored by the zero-shot rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gare.common.errors import ConfigError, InputError
from gare.common.files import file_digest
from gare.common.redact import first_line
from gare.config import Config
from gare.config.experiment import ModelConfig
from gare.config.tree import with_overrides
from gare.model.checkpoint import WEIGHTS, load_checkpoint_config, load_model
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.model.weights import weights_digest
from gare.retrieval.records import Fields, RecordFormat, record_factors
from gare.scoring.factors import Videos

if TYPE_CHECKING:
    from gare.retrieval.folder import IndexRecord


@dataclass(frozen=True)
class IndexModel:
    """A model with its settings; ``name``: its place; ``weights``: SHA-256 of its weights.

    ``clip``: True for a CLIP without training, False for a checkpoint.
    """

    model: GareModel
    tokenizer: Tokenizer
    config: Config
    name: str
    weights: str
    clip: bool = False

    def check_format(self, fields: Fields, folder: Path) -> RecordFormat:
        """Return the format of an index's records. Raises InputError unless this model makes it.

        Nothing else in a file is trusted: a type like ``object`` would turn its bytes into addresses.
        """
        sized = next((f for name, f in fields.items() if name.endswith("frames")), ("", [1, 0]))
        frames = sized[1][0] if sized[1] and 0 < sized[1][0] <= self.config.model.max_frames else 1
        videos = Videos(torch.zeros(1, frames, self.model.dim), torch.ones(1, frames, dtype=torch.bool))
        factors = record_factors(self.model.head)
        for storage in (torch.float16, None):
            form = RecordFormat.of(factors.build(videos.to(self.device), storage))
            if form.fields == {name: (kind, list(shape)) for name, (kind, shape) in fields.items()}:
                return form
        raise InputError(f"The records of the index {folder} are not those of this model's videos; make it again.")

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.clip.logit_scale.device  # type: ignore[no-any-return]

    @classmethod
    def of_checkpoint(cls, folder: Path, model: GareModel, config: Config) -> IndexModel:
        """Make it from an open checkpoint. Raises InputError if that has no tokenizer."""
        return cls(model, _tokenizer(model, str(folder)), config, str(folder.resolve()), file_digest(folder / WEIGHTS))

    @classmethod
    def of_clip(cls, name: str, model: GareModel, config: Config) -> IndexModel:
        """Make it from a CLIP's folder or hub id. Raises InputError if that has no tokenizer."""
        where = str(Path(name).resolve()) if Path(name).is_dir() else name
        return cls(model, _tokenizer(model, name), config, where, weights_digest(model), clip=True)

    @classmethod
    def load(cls, name: str, config: Config, *, clip: bool) -> IndexModel:
        """Load the model of a checkpoint's folder, or a CLIP by its folder or hub id."""
        if clip:
            return cls.of_clip(name, _without_training(name), config)
        return cls.of_checkpoint(Path(name), load_model(Path(name)), config)

    @classmethod
    def of_index(cls, folder: Path, record: IndexRecord, moved: Path | None) -> IndexModel:
        """Load an index's model, or its copy at ``moved``. Raises InputError if gone, ConfigError for another model."""
        if record.clip_data is not None:
            found = cls.load(str(moved or record.checkpoint), _clip_config(record.clip_data), clip=True)
        else:
            source = moved or Path(record.checkpoint)
            if not (source / WEIGHTS).is_file():
                raise InputError(
                    f"The checkpoint {source} of the index {folder} is not there; give its place with --checkpoint."
                )
            if file_digest(source / WEIGHTS) != record.weights_sha256:  # before loading anything large
                raise _other(folder, str(source))
            found = cls.load(str(source), load_checkpoint_config(source), clip=False)
        if found.weights != record.weights_sha256:
            raise _other(folder, found.name)
        return found


def _other(folder: Path, source: str) -> ConfigError:
    return ConfigError(f"The index {folder} was made with other weights than those in {source}; make it again.")


def _clip_config(data: dict[str, object]) -> Config:
    try:
        return with_overrides(Config(), {f"data.{key}": value for key, value in data.items()})
    except ConfigError as error:
        raise InputError(f"The index holds settings that cannot be used: {first_line(error)} Make it again.") from None


def _without_training(name: str) -> GareModel:
    return GareModel.from_clip(name, ModelConfig(head="mean_pool", temporal_layers=0)).eval()


def _tokenizer(model: GareModel, name: str) -> Tokenizer:
    if model.tokenizer is None:
        raise InputError(f"The checkpoint {name} has no tokenizer, so a sentence cannot be read.")
    return model.tokenizer
