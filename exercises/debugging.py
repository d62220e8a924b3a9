"""Debugging: scripts that are broken, to be repaired. First those that stop with an error, then those that say nothing.

Each task has one mistake, and its statement says what the script should do and what somebody saw who ran it. Mend the mistake or write
the script anew: what counts is that it does what the statement says. Every task stands alone.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer


def import_then_train(model: nn.Module, inputs: Tensor, targets: Tensor, *, epochs: int = 5, lr: float = 0.01) -> list[float]:
    """Train a regression model by gradient descent on all samples at once.

    An epoch is one update of the model's parameters: the mean squared error of model(inputs), its gradient, and a step of
    plain SGD (no momentum, no weight decay) with learning rate lr. Gradients from before the call don't count.

    What happens now: NameError: name 'optim' is not defined

    Args:
        model: maps inputs to a tensor of the targets' shape. Trained in place, in the mode (training or eval) in which it is.
        inputs, targets: all samples, any floating dtype.
        epochs: number of updates, 0 or more.
        lr: the learning rate, 0 or more.

    Returns: the loss of each epoch, computed before its step: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    # loss function and optimizer
    criterion = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=lr)

    losses = []
    for _ in range(epochs):
        # forward pass
        outputs = model(inputs)
        loss = criterion(outputs, targets)

        # backward pass and update
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        losses.append(loss.item())
    return losses


def feed_linear(model: nn.Module, inputs: Tensor, labels: Tensor, *, lr: float = 0.1) -> float:
    """Train a classifier on one sample after the other: one pass, in order, with an update after each sample.

    An update is a step of plain SGD with learning rate lr on the negative log-likelihood of one sample. The model takes batches only:
    (B, D) becomes (B, C), the log-probabilities of the classes. Its last layer is nn.LogSoftmax(dim=1). Gradients from before the
    call don't count.

    What happens now: IndexError: Dimension out of range (expected to be in range of [-1, 0], but got 1)

    Args:
        model: as above. Trained in place, in the mode (training or eval) in which it is.
        inputs: (N, D), a floating dtype, with N ≥ 1.
        labels: (N,), int64, 0 … C − 1.

    Returns: the mean over the samples of the loss, each computed before its update: a Python float.
    """
    # TODO: this code has a mistake. Find it and mend it.
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    total_loss = 0.0
    for x, y in zip(inputs, labels):
        # clear the gradients of the last sample
        optimizer.zero_grad()

        # run the forward pass
        log_probs = model(x)

        # compute the loss and update the parameters
        loss = criterion(log_probs, y)
        loss.backward()
        optimizer.step()

        total_loss += loss.item()
    return total_loss / len(inputs)


def flatten_after_pooling(size: tuple[int, int], *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Make a small convolutional network for images of any size.

    The network is one nn.Sequential of these ten layers, all with torch's usual settings and initial values:

        0  convolution to 32 channels, kernel 3, no padding     5  max pooling by 2
        1  ReLU                                                 6  flatten all but the batch
        2  max pooling by 2                                     7  linear, to 128 features
        3  convolution to 64 channels, kernel 3, no padding     8  ReLU
        4  ReLU                                                 9  linear, to one score a class

    What happens now, for images of 28 × 28: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x1600 and 9216x128)

    Args:
        size: (H, W) of the images, each at least 10.
        channels: channels of the images.
        classes: number of classes.

    Returns: the network. It maps (B, channels, H, W) to (B, classes), and has all its parameters already.
    """
    # TODO: this code has a mistake. Find it and mend it.
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),  # 64 * 12 * 12
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def lstm_batch_first(input_size: int, hidden_size: int, num_classes: int, *, num_layers: int = 1) -> nn.Module:
    """Make a classifier of sequences: an LSTM, and a linear layer on what its top layer gives at the last time step.

    The model has two attributes with parameters, which are torch's own layers with torch's initial values: `lstm`
    (an nn.LSTM of num_layers layers) and `fc` (an nn.Linear). Sequences of one batch know nothing of each other.

    What happens now: TypeError: LSTM.forward() got an unexpected keyword argument 'batch_first'

    Returns: a model that maps (B, T, input_size) to the scores (B, num_classes).
    """
    # TODO: this code has a mistake. Find it and mend it.
    class LSTMClassifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(input_size, hidden_size, num_layers)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            # x: (batch, time, features)
            out, _ = self.lstm(x, batch_first=True)
            # decode the hidden state of the last time step
            out = self.fc(out[:, -1, :])
            return out

    return LSTMClassifier()


def same_device(
    inputs: Tensor, labels: Tensor, weights: dict[str, Tensor], device: torch.device | str, *, lr: float = 0.1, steps: int = 3
) -> dict[str, Tensor]:
    """Train a recurrent classifier on another device than the one on which the data lie.

    The network is the class RNN in the code: nn.RNN `rnn` with an initial state of zeros, and nn.Linear `fc` on the last time step. It
    starts from the given weights and makes `steps` updates on the whole batch: a step of plain SGD with learning rate lr on the mean
    cross-entropy. All of this is computed on `device`. (The data may be an expanded view, far too large to be worked on where it lies.)

    What happens now: on a laptop all is well. On a GPU: RuntimeError: Expected all tensors to be on the same device. A machine
    without one has torch's device "meta", which knows shapes and no values: it complains in the same places.

    Args:
        inputs: (B, T, D), float32, on the CPU.
        labels: (B,), int64, on the CPU.
        weights: the state_dict() of such a network, float32, on the CPU: "rnn.weight_ih_l0" and so on.
        device: where to work.
        steps: 0 or more.

    Returns: the network's state_dict() after training, on `device`.
    """
    # TODO: this code has a mistake. Find it and mend it.
    class RNN(nn.Module):
        def __init__(self, input_size, hidden_size, num_classes):
            super().__init__()
            self.hidden_size = hidden_size
            self.rnn = nn.RNN(input_size, hidden_size, batch_first=True)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            # set the initial hidden state
            h0 = torch.zeros(1, x.size(0), self.hidden_size)
            out, _ = self.rnn(x, h0)
            # decode the hidden state of the last time step
            return self.fc(out[:, -1, :])

    num_classes, hidden_size = weights["fc.weight"].shape
    model = RNN(inputs.size(2), hidden_size, num_classes)
    model.load_state_dict(weights)
    model.to(device)

    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        # forward pass
        outputs = model(inputs)
        loss = criterion(outputs, labels)

        # backward and optimize
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def inplace_backward(
    fc1: nn.Linear, gate: nn.Linear, fc2: nn.Linear, x: Tensor, y: Tensor, *, lr: float = 0.1, steps: int = 3
) -> list[float]:
    """Train a network with a gate: three linear layers, whose weights change in place.

        h = fc1(x)
        out = fc2(sigmoid(gate(h)) · relu(h))

    So the gate sees h as it is before the ReLU. Each of the `steps` updates is a step of plain SGD with learning rate lr on the mean
    squared error between out and y, for the parameters of all three layers. Gradients from before the call don't count.

    What happens now, with 4 samples and 5 features in h: RuntimeError: one of the variables needed for gradient computation has been
    modified by an inplace operation: [torch.FloatTensor [4, 5]], which is output 0 of Relu, is at version 1; expected version 0 instead.

    Args:
        fc1, gate, fc2: D → H, H → H and H → K features.
        x: (N, D); y: (N, K); one floating dtype for all.
        steps: 0 or more.

    Returns: the loss before each update: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    criterion = nn.MSELoss()
    params = [*fc1.parameters(), *gate.parameters(), *fc2.parameters()]
    optimizer = torch.optim.SGD(params, lr=lr)

    losses = []
    for _ in range(steps):
        # forward pass
        h = fc1(x)
        g = torch.sigmoid(gate(h))
        h = F.relu(h, inplace=True)  # in place, to save memory
        out = fc2(g * h)
        loss = criterion(out, y)

        # backward pass and update
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        losses.append(loss.item())
    return losses


def optimizer_first(
    model: nn.Module, head: nn.Linear, inputs: Tensor, labels: Tensor, *, lr: float = 0.01, momentum: float = 0.9, steps: int = 5
) -> list[float]:
    """Fine-tune a network: put a new head on it, and train all of it.

    First model.fc, the old head, gives way to `head`. Then there are `steps` updates on the whole batch, each a step of
    torch's SGD with this learning rate and momentum on the mean cross-entropy, for all parameters of the model as it is then: those of
    its body and those of the new head. Gradients from before the call don't count.

    What happens now: no error. The loss falls much too slowly, and the weights of the new head are the same after training as before.

    Args:
        model: has an attribute `fc`, the last layer. Changed in place, and trained in the mode (training or eval) in which it is.
        head: takes what model.fc takes, and gives a score for each class.
        inputs: what the model takes, N samples.
        labels: (N,), int64.
        steps: 0 or more.

    Returns: the loss before each update: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)

    # replace the last layer with one for our classes
    model.fc = head

    losses = []
    for _ in range(steps):
        # zero the parameter gradients
        optimizer.zero_grad()

        # forward + backward + optimize
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        losses.append(loss.item())
    return losses


def training_step_order(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], criterion: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
) -> list[float]:
    """Train for one pass over the batches: one update for each, in order, from the gradient of that batch alone.

    The loss of a batch is criterion(model(inputs), labels). Neither the gradients of other batches nor those from before the
    call have any influence.

    What happens now, with a model of one linear layer: no error. The loss falls and rises in waves, and grows in the end. With more
    layers: RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation

    Args:
        model: trained in place, in the mode (training or eval) in which it is.
        batches: any iterable of (inputs, labels), also a generator; it may be empty.
        criterion: gives a 0-d tensor.
        optimizer: one of torch's whose step needs no closure, for the model's parameters. Its settings, such as lr, stay as they are.

    Returns: the loss of each batch, computed before its update: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    losses = []
    for inputs, labels in batches:
        # forward pass
        outputs = model(inputs)
        loss = criterion(outputs, labels)

        # backward and optimize
        optimizer.step()
        loss.backward()

        losses.append(loss.item())
    return losses


def double_softmax(
    model: nn.Module, inputs: Tensor, labels: Tensor, new_inputs: Tensor, *, lr: float = 0.5, steps: int = 20
) -> tuple[list[float], Tensor]:
    """Train a classifier, and say what it makes of new samples.

    The model gives a score for each class, any real numbers. Each of the `steps` updates on the whole batch is a step of plain SGD
    with learning rate lr on the mean cross-entropy between the softmax of the scores and the labels. Scores of ±1,000 give a finite
    loss and the right gradient too. Gradients from before the call don't count.

    What happens now: no error. With ten classes the loss never gets below 1.46, however long one trains.

    Args:
        model: (B, …) becomes (B, C). Trained in place; trained and used in the mode (training or eval) in which it is.
        inputs, labels: N samples, and their classes, (N,) int64.
        new_inputs: M samples.
        steps: 0 or more.

    Returns: (losses, probabilities)
        losses: the loss before each update: Python floats.
        probabilities: (M, C), of the classes of new_inputs after the training.
    """
    # TODO: this code has a mistake. Find it and mend it.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    losses = []
    for _ in range(steps):
        optimizer.zero_grad()

        # the probabilities of the classes, and how far they are from the labels
        probabilities = torch.softmax(model(inputs), dim=1)
        loss = criterion(probabilities, labels)

        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    with torch.no_grad():
        probabilities = torch.softmax(model(new_inputs), dim=1)
    return losses, probabilities


def validate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], criterion: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Measure a classifier on held-out data, in eval mode and without a graph.

    The model isn't changed by it: parameters, gradients and buffers keep their values. Afterwards each of its submodules is in the
    mode (training or eval) in which it was before. This also holds where the model, criterion or batches raise an error, which
    is passed on.

    What happens now: no error. Two calls in a row give two different losses, training goes on otherwise than without
    the call, and the call needs as much memory as training.

    Args:
        model: inputs become the scores (n, C).
        batches: any iterable of (inputs, labels), at least one; n samples each, and n may differ.
        criterion: criterion(scores, labels) is the mean loss of a batch, a 0-d tensor.

    Returns: (loss, accuracy): the mean loss over all samples, and the share of those whose largest score is at their label.
        Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    total_loss, correct, total = 0.0, 0, 0
    for inputs, labels in batches:
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        total_loss += loss.item() * len(labels)

        # the class with the highest score is the prediction
        _, predicted = torch.max(outputs, 1)
        correct += (predicted == labels).sum().item()
        total += len(labels)

    return total_loss / total, correct / total


def broadcast_loss(model: nn.Module, x: Tensor, y: Tensor, *, lr: float = 0.1, epochs: int = 50) -> Tensor:
    """Fit a model with one output to numbers.

    An epoch is one update on all samples: a step of plain SGD with learning rate lr on the mean squared error,
    (1/N) · Σ_n (model(x)[n, 0] − y[n])². Gradients from before the call don't count.

    What happens now: no error. The predictions are nearly the same for all samples, about the mean of y.

    Args:
        model: (N, D) becomes (N, 1). Trained in place; trained and used in the mode (training or eval) in which it is.
        x: (N, D); y: (N,). One floating dtype, N ≥ 1.
        epochs: 0 or more.

    Returns: (N,), the predictions for x after the training.
    """
    # TODO: this code has a mistake. Find it and mend it.
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    for _ in range(epochs):
        # predict and compute the mean squared error
        predictions = model(x)
        loss = ((predictions - y) ** 2).mean()

        # update the weights
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        return model(x).squeeze(1)


def paired_shuffle(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    batch_size: int = 32,
    epochs: int = 3,
    lr: float = 0.1,
) -> list[float]:
    """Train a classifier on mini-batches, in a new random order in each epoch.

    At the start of each epoch, torch.randperm(N, generator=generator) is drawn, once, and nothing else is drawn. It is the order of
    the samples as they were given. The first batch_size of them are the first batch, and so on; the last batch may be smaller.
    Each batch gives a step of plain SGD with learning rate lr on its mean cross-entropy. Gradients from before the call don't count.

    What happens now: no error. The loss stays where it is for a model that guesses.

    Args:
        model: gives the scores (n, C). Trained in place, in the mode (training or eval) in which it is.
        images: (N, …); labels: (N,), int64. N may be 0.
        generator: decides the orders. It goes on from its present state.
        batch_size: 1 or more.
        epochs: 0 or more.

    Returns: the loss of each batch, computed before its update: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    losses = []
    for _ in range(epochs):
        # shuffle the training set
        shuffled_images = images[torch.randperm(len(images), generator=generator)]
        shuffled_labels = labels[torch.randperm(len(labels), generator=generator)]

        # go through it in mini-batches
        for i in range(0, len(images), batch_size):
            x = shuffled_images[i : i + batch_size]
            y = shuffled_labels[i : i + batch_size]

            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    return losses


def nan_hunt(model: nn.Module, x: Tensor) -> tuple[str, str] | None:
    """Find out where the first NaN of a network is made: in which module, and by which operation.

    Runs model(x), and then the backward pass of the sum of its output. The operation sought is the first one that makes NaN from
    numbers that are not NaN: its result holds NaN, and none of its tensor arguments does. An infinity is a number here: the
    logarithm of 0 is innocent, and the product that makes NaN of it and 0 isn't. If the forward pass is free of NaN, it is the first
    operation, in the order of the backward pass, that makes a gradient with NaN from one without: such as a square root at 0,
    whose slope is infinite, where the gradient that arrives is 0. Gradients for x and for the parameters count.

    What happens now: the operation is right, but whatever the network, the same module is blamed: its last one.

    Args:
        model: takes x, and gives one floating-point tensor. It is run once; its gradients and hooks are left as they are.
        x: a floating-point tensor without NaN.

    Returns: (module, operation), or None if no NaN is made.
        module: its name in model.named_modules(). It is the innermost one in whose forward the operation is called.
        operation: __name__ of torch's function, as torch.overrides.TorchFunctionMode sees it: "sqrt", "log", "sub", "mul", "div".
    """
    # TODO: this code has a mistake. Find it and mend it.
    from torch.overrides import TorchFunctionMode

    found = []  # (module, operation) of every NaN that is made
    running = []  # the names of the modules whose forward is running

    def has_nan(values):
        if isinstance(values, (tuple, list)):
            return any(has_nan(value) for value in values)
        return isinstance(values, Tensor) and values.isnan().any()

    class Watch(TorchFunctionMode):
        """Sees every operation of the forward pass."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            where = running[-1], func.__name__
            clean = not has_nan([*args, *kwargs.values()])
            out = func(*args, **kwargs)
            if clean and has_nan(out):
                found.append(where)
            # look at the gradients when they come back through this operation
            if isinstance(out, Tensor) and out.grad_fn is not None:
                out.grad_fn.register_hook(lambda grad_in, grad_out: check(where, grad_in, grad_out))
            return out

    def check(where, grad_in, grad_out):
        if has_nan(grad_in) and not has_nan(grad_out):
            found.append(where)

    def leave(module, args, out):
        running.pop()

    # keep track of the module that is running
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda module, args: running.append(name)))
        handles.append(module.register_forward_hook(leave))

    leaves = [x.detach().requires_grad_(), *(p for p in model.parameters() if p.requires_grad)]
    try:
        start = leaves[0].clone()
        with Watch():
            out = model(start)
        if out.requires_grad:
            torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def loss_history(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], criterion: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
) -> list[float]:
    """Train for one pass over the batches, and keep the loss of each for a plot.

    For each batch, in order: clear the gradients, compute criterion(model(inputs), labels), go backward, let the optimizer make a step.
    What is kept of a batch is one number: when the model gets a batch, the graph of the last batch may still be alive,
    but no graph of an earlier one.

    What happens now: no error. The process needs more memory with every batch, until it is killed in the end.

    Args:
        model: trained in place, in the mode (training or eval) in which it is.
        batches: any iterable of (inputs, labels), also a generator; it may be empty.
        criterion: gives a 0-d tensor.
        optimizer: one of torch's whose step needs no closure, for the model's parameters.

    Returns: the loss of each batch, computed before its update: Python floats.
    """
    # TODO: this code has a mistake. Find it and mend it.
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        # for the plot
        history.append(loss)

    return history
