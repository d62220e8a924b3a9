"""Examples for the module ecosystem. Run one task's with `pytest tests/public -k twice_op`."""

import importlib.util
import logging
import math
import warnings

import pytest
import torch
from ecosystem import CountingBackend, break_free, launch_spec, lit_classifier, log_run, twice_op
from torch import nn
from torch.utils.data import DataLoader

needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="pip install tensorboard")
needs_lightning = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="pip install lightning")


@pytest.fixture
def quiet():
    """Keep what Lightning tells of devices, and its warnings about small examples, off the screen."""
    import lightning.pytorch  # noqa: F401

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_twice_op_of_two_numbers():
    """x, and behind it x / 2: by the operator, and by its name."""
    op = twice_op("public::twice")
    x = torch.tensor([1.0, 2.0])
    assert op(x, 0.5).tolist() == [1.0, 2.0, 0.5, 1.0]
    assert torch.ops.public.twice(x, -3.0).tolist() == [1.0, 2.0, -3.0, -6.0]


def test_twice_op_has_a_gradient():
    """Each entry of x counts once, and once more half."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    twice_op("public::twice_with_gradient")(x, 0.5).sum().backward()
    assert x.grad.tolist() == [1.5, 1.5]


def test_twice_op_without_numbers():
    """On meta there are shapes only; the compiler needs no more."""
    op = twice_op("public::twice_on_meta")
    assert op(torch.empty(3, 5, device="meta"), 0.5).shape == (6, 5)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: op(x, 2.0) + 1, fullgraph=True, backend="eager")
    assert compiled(torch.tensor([1.0])).tolist() == [2.0, 3.0]


def whole(x, limit):
    """The task's function, compiled as one graph."""
    torch._dynamo.reset()
    return torch.compile(break_free, fullgraph=True, backend="eager")(x, limit)


def test_break_free_of_four_rows():
    """The second row is bad. What is left has the norm √(3² + 4²) = 5, and is halved."""
    rows, factor, bad = whole(torch.tensor([[3.0, 0.0], [math.nan, 1.0], [0.0, 4.0], [0.0, 0.0]]), 2.5)
    assert rows.tolist() == [[1.5, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    assert (factor.item(), bad.item(), bad.dtype) == (0.5, 1, torch.int64)


def test_break_free_has_gradients():
    """A batch below the limit passes as it is, and a bad row has gradient 0."""
    x = torch.tensor([[0.5, 0.0], [math.inf, 0.0]], requires_grad=True)
    rows, _, _ = whole(x, 2.5)
    rows.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_CountingBackend_of_one_function():
    """Three runs, two shapes: two graphs with the same operations, of which the second is a recompile."""
    torch._dynamo.reset()
    backend = CountingBackend()
    f = torch.compile(lambda x: torch.relu(x.neg()), backend=backend, dynamic=False)
    assert f(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 0.0]
    f(torch.zeros(2))
    f(torch.zeros(3))
    assert backend.graphs == [
        {"operations": ["neg", "relu"], "shapes": [(2,)], "open": 0, "calls": 2},
        {"operations": ["neg", "relu"], "shapes": [(3,)], "open": 0, "calls": 1},
    ]
    assert backend.recompiles == 1
    assert backend.ran() == {"neg": 3, "relu": 3}


def test_CountingBackend_around_another():
    """The backend inside gets the graph, and what it returns is run."""
    torch._dynamo.reset()
    backend = CountingBackend(lambda graph, inputs: lambda *args: [10 * value for value in graph(*args)])
    assert torch.compile(lambda x: x + 1, backend=backend)(torch.tensor([1.0])).tolist() == [20.0]
    assert [record["operations"] for record in backend.graphs] == [["add"]]


def test_launch_spec_of_the_second_node():
    """Node 0 starts two processes and node 1 three: the last one of these is number 4 of 5."""
    spec = launch_spec([2, 3], 1, master="10.0.0.7", env={"SEED": "1"})
    assert len(spec) == 3
    assert spec[2] == {
        "RANK": "4",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "29500",
        "OMP_NUM_THREADS": "1",
        "SEED": "1",
    }


def test_launch_spec_refuses():
    """There is no node 2, and True is no number."""
    for processes, node in (([2, 3], 2), ([True], 0), ([], 0)):
        with pytest.raises(ValueError):
            launch_spec(processes, node)


@needs_tensorboard
def test_log_run_of_two_epochs(tmp_path):
    """Three batches and two: steps 4 to 8, of which the even ones are written. TensorBoard's own reader reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    following = log_run(str(tmp_path / "run"), [[3.0, 2.0, torch.tensor(1.0)], [1.0, 0.5]], [0.5, 0.75], every=2, first_step=4)
    assert following == 9
    assert len(list((tmp_path / "run").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert curves == {
        "loss/batch": [(4, 3.0), (6, 1.0), (8, 0.5)],
        "loss/epoch": [(6, 2.0), (8, 0.75)],
        "accuracy": [(6, 0.5), (8, 0.75)],
    }


@needs_tensorboard
def test_log_run_refuses(tmp_path):
    """An accuracy is missing: nothing is written."""
    with pytest.raises(ValueError):
        log_run(str(tmp_path / "run"), [[1.0], [2.0]], [0.5])
    assert not (tmp_path / "run").exists()


@needs_lightning
def test_lit_classifier_under_a_trainer(quiet):
    """Two epochs of two steps at rate 1, then 1: a network that starts from zero tells the two classes apart."""
    from lightning import Trainer

    net = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(net.weight)
    batches = DataLoader([(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([0]))], batch_size=None)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, **silent)
    trainer.fit(lit_classifier(net, lr=1.0, warmup=1), batches, batches)
    assert trainer.callback_metrics["val_acc"] == 1
    assert trainer.callback_metrics["train_loss"] < math.log(2)
    assert net(torch.eye(2)).argmax(1).tolist() == [0, 1]


@needs_lightning
def test_lit_classifier_by_hand(quiet):
    """Equal logits for two classes: the loss is log 2. Rates grow in two steps to 0.5."""
    net = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(net.weight)
    lit = lit_classifier(net, lr=0.5, warmup=2)
    assert dict(lit.hparams) == {"lr": 0.5, "warmup": 2}
    loss = lit.training_step((torch.ones(4, 3), torch.tensor([0, 1, 1, 0])), 0)
    assert loss.item() == pytest.approx(math.log(2))
    found = lit.configure_optimizers()
    assert found["optimizer"].param_groups[0]["lr"] == 0.25
    assert found["lr_scheduler"]["interval"] == "step"
