"""CLIP towers, temporal transformer and the increment psi (the method's sections 1 and 2). No Ray, no MLflow."""

from gare.model.checkpoint import load_model, save_model
from gare.model.gare import GareModel
from gare.model.head import PairDropout, PairHead, PairScores
from gare.model.tokenizer import Tokenizer

__all__ = ["GareModel", "PairDropout", "PairHead", "PairScores", "Tokenizer", "load_model", "save_model"]
