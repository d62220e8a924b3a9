"""Examples for the module training: read them, run them with `pytest tests/public -k <task>`."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from training import (
    SGD,
    AdamW,
    EarlyStopping,
    accumulate_gradients,
    clip_grad_norm_,
    collate_padded,
    cosine_with_warmup,
    cross_entropy,
    evaluate,
    fit_digits,
    load_checkpoint,
    save_checkpoint,
    split_indices,
    train_epoch,
)

RAW = Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw"


# cross_entropy


def test_cross_entropy_of_even_scores():
    """Two equal scores give each class probability ½: the loss is log 2."""
    loss = cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_cross_entropy_ignores_rows():
    """The second row doesn't count, however wrong it is. 50 against −50 is as good as certain: loss 0."""
    logits = torch.tensor([[50.0, -50.0], [50.0, -50.0]])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0, -100])), torch.tensor(0.0))
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0, 1]), ignore_index=1), torch.tensor(0.0))


def test_cross_entropy_with_label_smoothing():
    """ε = 0.2 over two classes: q = (0.9, 0.1), and the scores differ by 100."""
    logits = torch.tensor([[50.0, -50.0]])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2), torch.tensor(10.0))


# SGD


def test_SGD_without_momentum():
    """1 − 0.5 · 3 = −0.5"""
    p = torch.tensor([1.0], requires_grad=True)
    optimizer = SGD([p], lr=0.5)
    p.grad = torch.tensor([3.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5]))
    optimizer.zero_grad()
    assert p.grad is None


def test_SGD_with_momentum():
    """V is 1, then 0.5 · 1 + 1 = 1.5: the parameter goes from 10 to 9 to 7.5."""
    p = torch.tensor([10.0], requires_grad=True)
    optimizer = SGD([p], lr=1.0, momentum=0.5)
    for expected in (9.0, 7.5):
        p.grad = torch.tensor([1.0])
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor([expected]))


def test_SGD_like_torch():
    """Five steps with everything on end where torch's optimizer ends."""
    mine, theirs = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    for p, optimizer in (mine, SGD([mine], **settings)), (theirs, torch.optim.SGD([theirs], **settings)):
        for i in range(5):
            p.grad = torch.tensor([1.0, -2.0, 3.0]) + i
            optimizer.step()
    torch.testing.assert_close(mine, theirs)


# AdamW


def test_AdamW_first_step():
    """The first step moves by lr whatever the size of the gradient: m / √v = ±1. Here there is no decay."""
    p = torch.tensor([1.0, 1.0], requires_grad=True)
    optimizer = AdamW([p], lr=0.1, weight_decay=0.0)
    p.grad = torch.tensor([0.001, -1000.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.9, 1.1]))


def test_AdamW_decay():
    """With a gradient of 0 only the decay is left: 2 · (1 − 0.1 · 0.5) = 1.9."""
    p = torch.tensor([2.0], requires_grad=True)
    optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.tensor([0.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([1.9]))


def test_AdamW_like_torch():
    """Five steps end where torch's optimizer ends."""
    mine, theirs = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1}
    for p, optimizer in (mine, AdamW([mine], **settings)), (theirs, torch.optim.AdamW([theirs], **settings)):
        for i in range(5):
            p.grad = torch.tensor([1.0, -2.0, 3.0]) + i
            optimizer.step()
    torch.testing.assert_close(mine, theirs)


# cosine_with_warmup


def test_cosine_with_warmup_by_hand():
    """Four steps up, then four down: ½ · (1 + cos(π · x)) at x = 0, ¼, ½, ¾, and 0 from there on."""
    factors = [cosine_with_warmup(step, warmup_steps=4, total_steps=8) for step in range(10)]
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.853553, 0.5, 0.146447, 0, 0], abs=1e-6)


def test_cosine_with_warmup_ends_at_min_factor():
    """Half way between 1 and 0.2, and then 0.2."""
    assert cosine_with_warmup(5, warmup_steps=0, total_steps=10, min_factor=0.2) == pytest.approx(0.6)
    assert cosine_with_warmup(99, warmup_steps=0, total_steps=10, min_factor=0.2) == pytest.approx(0.2)


# clip_grad_norm_


def test_clip_grad_norm_three_four_five():
    """The gradients 3 and 4 have the joint norm 5; with max_norm = 1 they become 0.6 and 0.8."""
    a, b, without = (torch.zeros(1, requires_grad=True) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    torch.testing.assert_close(clip_grad_norm_([a, without, b], 1.0), torch.tensor(5.0))
    torch.testing.assert_close(a.grad, torch.tensor([0.6]))
    torch.testing.assert_close(b.grad, torch.tensor([0.8]))
    assert without.grad is None


def test_clip_grad_norm_leaves_small_gradients():
    """A norm of 5 is below 10."""
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(clip_grad_norm_([p], 10.0), torch.tensor(5.0))
    assert p.grad.tolist() == [3.0, 4.0]


# train_epoch, evaluate, accumulate_gradients: y = w · x with w = 1, and the loss (w · x − y)²


def line() -> nn.Linear:
    """The model w · x with w = 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


def test_train_epoch_two_batches():
    """Batch 1: loss (1 − 3)² = 4, gradient −4, so w = 1.4. Batch 2, two samples: loss (1.4 − 2.4)² = 1, gradient −2, so w = 1.6."""
    model = line().eval()
    batches = [(torch.ones(1, 1), torch.full((1, 1), 3.0)), (torch.ones(2, 1), torch.full((2, 1), 2.4))]
    loss = train_epoch(model, batches, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert loss == pytest.approx((4 + 1 + 1) / 3, abs=1e-5)
    assert model.weight.item() == pytest.approx(1.6, abs=1e-5)
    assert model.training


def test_evaluate_two_batches():
    """Two of three samples are right. The identity as a model: its scores are the inputs."""
    model = nn.Identity().train()
    batches = [(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])), (torch.tensor([[9.0, 0.0]]), torch.tensor([1]))]
    result = evaluate(model, batches, nn.functional.cross_entropy)
    assert result == pytest.approx({"loss": 3.0001234, "accuracy": 2 / 3}, abs=1e-4)
    assert model.training


def test_accumulate_gradients_of_three_samples():
    """Pieces of 2 and 1; the gradient is the mean of 2 · (x − y) = 0, −2 and −10, not the mean of the pieces' means."""
    model = line()
    x, y = torch.ones(3, 1), torch.tensor([[1.0], [2.0], [6.0]])
    loss = accumulate_gradients(model, x, y, nn.functional.mse_loss, 2)
    assert loss == pytest.approx((0 + 1 + 25) / 3, abs=1e-5)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[-4.0]]))


# EarlyStopping


def test_EarlyStopping_after_two_bad_updates():
    """The best loss is 1.0; the second update in a row without a better one ends the training."""
    model, stopping = line(), EarlyStopping(patience=2)
    assert [stopping.update(loss, model) for loss in [2.0, 1.0, 1.5, 1.0]] == [False, False, False, True]
    assert stopping.best_loss == 1.0


def test_EarlyStopping_restores_the_best():
    """The weight was 3 when the loss was lowest."""
    model, stopping = line(), EarlyStopping(patience=5)
    for weight, loss in [(2.0, 0.9), (3.0, 0.1), (4.0, 0.5)]:
        nn.init.constant_(model.weight, weight)
        stopping.update(loss, model)
    stopping.restore(model)
    assert model.weight.item() == 3.0


# save_checkpoint, load_checkpoint


def session():
    """A model, an optimizer with momentum, and a scheduler that halves the learning rate at each step."""
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def test_save_checkpoint_content(tmp_path):
    """The five keys, read by torch.load."""
    model, optimizer, scheduler = session()
    save_checkpoint(tmp_path / "last.pt", model, optimizer, scheduler, 7)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "scheduler", "epoch", "rng_state"}
    assert state["epoch"] == 7
    assert state["model"]["weight"].tolist() == [[1.0]]
    assert torch.equal(state["rng_state"], torch.get_rng_state())
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_load_checkpoint_puts_everything_back(tmp_path):
    """The weight 5, the learning rate 0.25, epoch 3, and the random numbers of seed 1."""
    model, optimizer, scheduler = session()
    state = {"model": {"weight": torch.tensor([[5.0]])}, "epoch": 3, "rng_state": torch.Generator().manual_seed(1).get_state()}
    state["optimizer"] = {"state": {}, "param_groups": [{**optimizer.state_dict()["param_groups"][0], "lr": 0.25}]}
    state["scheduler"] = {**scheduler.state_dict(), "last_epoch": 2, "_last_lr": [0.25]}
    torch.save(state, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt", model, optimizer, scheduler) == 3
    assert model.weight.item() == 5.0
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert scheduler.get_last_lr() == [0.25]
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))


# collate_padded


def test_collate_padded_two_sequences():
    """[1, 2, 3] and [4]: the second is padded with −1."""
    batch = [(torch.tensor([1, 2, 3]), 0), (torch.tensor([4]), 1)]
    padded, lengths, mask, labels = collate_padded(batch, padding_value=-1)
    assert padded.tolist() == [[1, 2, 3], [4, -1, -1]]
    assert lengths.tolist() == [3, 1]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert labels.tolist() == [0, 1]
    assert padded.dtype == lengths.dtype == labels.dtype == torch.int64


def test_collate_padded_keeps_the_size_of_vectors():
    """Sequences of 2 and 3 vectors of size 5 become (2, 3, 5)."""
    padded, *_ = collate_padded([(torch.ones(2, 5), 0), (torch.ones(3, 5), 0)])
    assert padded.shape == (2, 3, 5)
    assert padded.sum() == 25


# split_indices


def test_split_indices_keeps_the_shares():
    """Of 8 zeros and 4 ones a quarter is held out: 2 zeros and 1 one."""
    labels = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1])
    train, held_out = split_indices(labels, 0.25, seed=3)
    assert labels[held_out].sort().values.tolist() == [0, 0, 1]
    assert sorted(train.tolist() + held_out.tolist()) == list(range(12))


def test_split_indices_is_seeded():
    """The same seed gives the same split, another seed another one."""
    labels = torch.arange(60) % 3
    first, again, other = (split_indices(labels, 0.5, seed=seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# fit_digits


def read_idx(name: str) -> torch.Tensor:
    """Read one of MNIST's files: the fourth byte is the rank, then come the sizes, big-endian, and the bytes."""
    raw = (RAW / name).read_bytes()
    shape = [int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, raw[3] + 1)]
    return torch.frombuffer(bytearray(raw[4 + 4 * len(shape) :]), dtype=torch.uint8).view(shape)


def test_fit_digits_reaches_93_percent():
    """Every fifth of the 1,797 images is held out; the network gets at least 335 of these 360 right."""
    images = torch.cat([read_idx(f"{part}-images-idx3-ubyte") for part in ("train", "t10k")])[:, None] / 255
    labels = torch.cat([read_idx(f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]).long()
    held_out = torch.arange(1797) % 5 == 0
    weights = fit_digits(images[~held_out], labels[~held_out], seed=0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()),
        nn.Linear(32 * 4 * 4, 10),
    )
    model.load_state_dict(weights)
    with torch.no_grad():
        guesses = model(images[held_out]).argmax(1)
    assert (guesses == labels[held_out]).sum() >= 335
