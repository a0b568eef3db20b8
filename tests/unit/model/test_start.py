"""What new parts of the model are before training (the method's sections 1 and 2)."""

import torch
from torch import nn

from gare.config import ModelConfig
from gare.model import PairHead
from gare.model.temporal import TemporalTransformer

D = 256


def test_every_linear_layer_of_psi_starts_at_a_deviation_of_two_hundredths():
    torch.manual_seed(0)
    head = PairHead(D, ModelConfig())
    layers = {name: module for name, module in head.named_modules() if isinstance(module, nn.Linear)}
    assert len(layers) >= 6
    for name, layer in layers.items():
        weight = layer.weight.detach()
        assert abs(float(weight.std()) - 0.02) < 5e-4, name
        assert abs(float(weight.mean())) < 5e-4, name
        assert not layer.bias.any(), name
    for module in head.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_the_increments_start_as_long_as_the_method_says():
    torch.manual_seed(0)
    head = PairHead(512, ModelConfig()).eval()
    text, frames, words = torch.randn(6, 512), torch.randn(5, 4, 512), torch.randn(6, 1, 512)
    frame_mask, word_mask = torch.ones(5, 4, dtype=torch.bool), torch.ones(6, 1, dtype=torch.bool)
    with torch.no_grad():
        delta = head(text, frames, frame_mask, words, word_mask).delta
    assert 0.8 < float(delta.norm(dim=-1).mean()) / (0.02 * 512) < 1.2


def test_norms_of_the_temporal_transformer_have_the_released_epsilon():
    norms = [m for m in TemporalTransformer(64, layers=2, max_frames=8).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 4
    assert {norm.eps for norm in norms} == {1e-12}
