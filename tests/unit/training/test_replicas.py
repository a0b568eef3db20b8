"""The ranks of a run train one model: the same at the start, and checked by digest after every epoch."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from gare.common.errors import RunError
from gare.launch.local import fit_local
from gare.model.weights import weights_digest
from gare.objective import SINGLE, TorchWorld, World
from gare.training import loop
from gare.training.weights import check_same_weights, share_weights

TIMEOUT_S = 60


def a_model(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_parameter("scale", nn.Parameter(torch.randn(())))
    model[1].running_mean.fill_(float(seed))
    return model


class Second(World):
    """Rank 1 of 2, which hears the digest, the distance and the weights of a model on rank 0."""

    rank, size = 1, 2

    def __init__(self, first):
        self.first = list(first.state_dict().values())
        self.texts = [weights_digest(first), "0.0"]
        self.sent = 0

    def gather_texts(self, text):
        return [self.texts.pop(0), text]

    def share(self, tensor):
        tensor.copy_(self.first[self.sent % len(self.first)])
        self.sent += 1


def test_a_digest_is_of_every_parameter_and_buffer():
    digest = weights_digest(a_model(0))
    assert digest == weights_digest(a_model(0))
    for name in ("0.weight", "0.bias", "1.running_mean", "scale"):
        model = a_model(0)
        model.state_dict()[name].view(-1)[0] += 1e-6
        assert weights_digest(model) != digest, name


def test_a_rank_whose_weights_differ_ends_the_run_by_name():
    check_same_weights(a_model(0), Second(a_model(0)), "At the start")
    with pytest.raises(RunError, match=r"After epoch 3 the weights of rank 1 are not those of rank 0"):
        check_same_weights(a_model(1), Second(a_model(0)), "After epoch 3")
    broken = a_model(0)
    broken.scale.data.fill_(float("nan"))
    with pytest.raises(RunError, match="not those of rank 0"):
        check_same_weights(broken, Second(a_model(0)), "After epoch 3")
    check_same_weights(a_model(1), SINGLE, "alone")


def test_a_rank_that_differs_by_rounding_is_given_the_weights_of_rank_0():
    model = a_model(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 1e-6)
    assert weights_digest(model) != weights_digest(a_model(0))
    check_same_weights(model, Second(a_model(0)), "After epoch 3")
    assert weights_digest(model) == weights_digest(a_model(0))


def worker(rank, port, folder):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, ranks, said = a_model(rank), TorchWorld(), []
    for change in (None, "share", "spoil"):
        if change == "share":
            share_weights(model, ranks)
        elif change == "spoil" and rank == 1:
            model.scale.data += 1
        try:
            check_same_weights(model, ranks, "Then")
            said.append("same")
        except RunError:
            said.append("other")
    (folder / str(rank)).write_text(" ".join([*said, weights_digest(a_model(0))[:8]]))
    torch.distributed.destroy_process_group()


def test_ranks_begin_with_the_weights_of_rank_0_and_all_notice_one_that_leaves(free_port, tmp_path):
    context = mp.spawn(worker, args=(free_port, tmp_path), nprocs=2, join=False)
    try:
        assert context.join(timeout=TIMEOUT_S) or context.join(timeout=TIMEOUT_S)
    finally:
        for process in context.processes:
            process.kill()
    wanted = f"other same other {weights_digest(a_model(0))[:8]}"
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [wanted, wanted]


def test_training_shares_first_and_checks_at_the_start_and_after_each_epoch(toy_run, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "share_weights", lambda *_: calls.append("share"))
    monkeypatch.setattr(loop, "check_same_weights", lambda *given: calls.append(given[-1]))
    fit_local(toy_run("train.epochs=2"), quiet=True)
    assert calls == ["share", "At the start", "After epoch 1", "After epoch 2"]
