"""CLIP towers, temporal transformer and the assembled model (the method's section 1). No Ray, no MLflow."""

from gare.model.checkpoint import load_model, save_model
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer

__all__ = ["GareModel", "Tokenizer", "load_model", "save_model"]
