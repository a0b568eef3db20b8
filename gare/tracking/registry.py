"""Register a trained model in MLflow's registry: one that answers sentences with videos."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gare
from gare.common.errors import ConfigError, InputError, RunError
from gare.common.redact import redact
from gare.tracking.mlflow_tracker import MlflowTracker
from gare.tracking.names import RunHandle, tag_value
from gare.tracking.tracker import Refused, Unreachable
from gare.tracking.trackers import tracker_at

MODEL_NAME = "text-to-video"
REQUIREMENTS = (
    "click", "ftfy", "matplotlib", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "rich", "ruamel.yaml",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""Packages that a search needs; gare itself is included as code, so that serving needs no package index with it."""
_NAME = re.compile(r"[^/:.%\"']+")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, with the address for ``mlflow.pyfunc.load_model``."""

    name: str
    version: int
    model_id: str
    address: str


def register(
    handle: RunHandle, name: str, *, checkpoint: Path, index: Path, tags: Mapping[str, str], description: str
) -> Registered:
    """Log a checkpoint with an index of videos as a model of a run, and register it as the next version of ``name``.

    Raises ConfigError for a name that MLflow does not allow, RunError if the store does not accept it.
    """
    if not _NAME.fullmatch(name) or not name.strip():
        raise ConfigError(f"--name is {name!r}; a registered model's name has no / : . % or quotes.")
    target = tracker_at(handle.uri, handle.experiment)
    if not isinstance(target, MlflowTracker):
        raise InputError(f"The run is not recorded in MLflow but at {redact(handle.uri)}, which has no registry.")
    try:
        return _register(target, handle.run_id, name, checkpoint, index, dict(tags), description)
    except (Refused, Unreachable) as error:
        raise RunError(f"MLflow at {redact(handle.uri)} does not register the model: {error}") from None


def _register(
    target: MlflowTracker, run_id: str, name: str, checkpoint: Path, index: Path, tags: dict[str, str], description: str
) -> Registered:
    from mlflow.entities import LoggedModelOutput
    from mlflow.entities.logged_model_status import LoggedModelStatus

    experiment = target.experiment_id
    tags = {key: tag_value(value) for key, value in tags.items()}
    with target.asking() as mlflow:
        model = mlflow.create_logged_model(experiment, MODEL_NAME, run_id, tags, {}, "retrieval")
    status = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _save(folder, model, run_id, checkpoint, index)
            with target.asking() as mlflow:
                mlflow.log_model_artifacts(model.model_id, str(folder))
        status = LoggedModelStatus.READY
    finally:
        with target.asking() as mlflow:
            mlflow.finalize_logged_model(model.model_id, status)
    with target.asking() as mlflow:
        mlflow.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        if not mlflow.search_registered_models(f"name = '{name}'", max_results=1):
            mlflow.create_registered_model(name, description="Finds the videos a sentence describes (gare register).")
        # A server finds the model by its id; in this process MLflow would look in its global store.
        source = f"models:/{model.model_id}" if target.uri.startswith("http") else model.artifact_location
        version = mlflow.create_model_version(
            name, source, run_id, tags=tags, description=description, model_id=model.model_id
        )
    return Registered(name, int(version.version), str(model.model_id), f"models:/{name}/{version.version}")


def _save(folder: Path, model: Any, run_id: str, checkpoint: Path, index: Path) -> None:
    """Write the model's folder: code instead of pickle; weights and vectors as safetensors."""
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the missing example of the input; the signature is enough
        save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"checkpoint": str(checkpoint.resolve()), "index": str(index.resolve())},
            code_paths=[str(Path(gare.__file__).parent)],
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", "query"), ColSpec("long", "top", required=False)]),
                outputs=Schema(
                    [
                        ColSpec("string", "query"),
                        ColSpec("long", "rank"),
                        ColSpec("string", "video_id"),
                        ColSpec("double", "score"),
                    ]
                ),
            ),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=run_id,
                model_id=model.model_id,
            ),
        )


def check_index(index: Path, weights_sha256: str) -> str:
    """Return an index's split; InputError if it is not an index, or of other weights than the checkpoint's."""
    from gare.retrieval.folder import read_index_file

    values = read_index_file(index)
    if values.weights_sha256 != weights_sha256:
        raise InputError(f"The index {index} was made with other weights; make it again, or leave out --index.")
    return values.split
