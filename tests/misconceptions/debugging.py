"""Named wrong answers to the tasks of debugging: the hidden suite must reject every one.

One of each task is what the stub shows: code as people write it, to be mended. It has to use names that are imported nowhere.
"""
# ruff: noqa: F821

import contextlib
import copy
import random

import torch
import torch.nn.functional as F
from torch import nn

from grader.testing import misconception
from solutions.debugging import feed_linear as reference_feed_linear
from solutions.debugging import import_then_train as reference_import_then_train
from solutions.debugging import inplace_backward as reference_inplace_backward
from solutions.debugging import nan_hunt as reference_nan_hunt
from solutions.debugging import optimizer_first as reference_optimizer_first
from solutions.debugging import same_device as reference_same_device
from solutions.debugging import training_step_order as reference_training_step_order

# import_then_train


@misconception("import_then_train", "Uses the name optim, which no line of the file has imported.", stub=True)
def never_imports_optim(model, inputs, targets, *, epochs=5, lr=0.01):
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


@misconception("import_then_train", "Catches the NameError, and goes on as if there had been an update.")
def catches_the_name_error(model, inputs, targets, *, epochs=5, lr=0.01):
    losses = []
    for _ in range(epochs):
        try:
            optimizer = optim.SGD(model.parameters(), lr=lr)
            loss = nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        except NameError:
            continue
    return losses


@misconception("import_then_train", "Takes the lines with the optimizer out: the error is gone, and so is the training.")
def deletes_the_optimizer(model, inputs, targets, *, epochs=5, lr=0.01):
    losses = []
    for _ in range(epochs):
        loss = nn.functional.mse_loss(model(inputs), targets)
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
    return losses


@misconception("import_then_train", "Imports another optimizer: Adam's steps are not those of gradient descent.")
def imports_adam(model, inputs, targets, *, epochs=5, lr=0.01):
    from torch.optim import Adam

    optimizer = Adam(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("import_then_train", "Leaves zero_grad out in the rewrite: each update adds the gradients of all before it.")
def rewrites_without_zero_grad(model, inputs, targets, *, epochs=5, lr=0.01):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("import_then_train", "Lets the optimizer have its own learning rate, instead of lr.")
def forgets_lr(model, inputs, targets, *, epochs=5, lr=0.01):
    return reference_import_then_train(model, inputs, targets, epochs=epochs, lr=1e-3)


@misconception("import_then_train", "Takes lr=0 and epochs=0 for arguments that were not given.")
def falsy_defaults(model, inputs, targets, *, epochs=5, lr=0.01):
    return reference_import_then_train(model, inputs, targets, epochs=epochs or 5, lr=lr or 0.01)


@misconception("import_then_train", "Trains a copy: the caller's model stays as it was.")
def trains_a_copy(model, inputs, targets, *, epochs=5, lr=0.01):
    return reference_import_then_train(copy.deepcopy(model), inputs, targets, epochs=epochs, lr=lr)


@misconception("import_then_train", "Steps on gradients that p.data was taken from: all steps use the gradient of the first epoch.")
def first_gradient_only(model, inputs, targets, *, epochs=5, lr=0.01):
    losses, grads = [], None
    for _ in range(epochs):
        loss = nn.functional.mse_loss(model(inputs), targets)
        grads = grads or torch.autograd.grad(loss, list(model.parameters()))
        for p, g in zip(model.parameters(), grads, strict=True):
            p.data -= lr * g
        losses.append(loss.item())
    return losses


@misconception("import_then_train", "Adds momentum to the optimizer: that is not plain gradient descent.")
def with_momentum(model, inputs, targets, *, epochs=5, lr=0.01):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(epochs):
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# feed_linear


@misconception("feed_linear", "Feeds a single sample, (D,), to a model that takes batches, (B, D).", stub=True)
def no_batch_axis(model, inputs, labels, *, lr=0.1):
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


@misconception("feed_linear", "Gives the sample a batch axis and the label none: a batch of one needs one label, of shape (1,).")
def scalar_target(model, inputs, labels, *, lr=0.1):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels):
        optimizer.zero_grad()
        loss = criterion(model(x.unsqueeze(0)), y)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(inputs)


@misconception("feed_linear", "Puts the new axis last: a batch of D samples with one feature each.")
def axis_on_the_wrong_side(model, inputs, labels, *, lr=0.1):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels):
        optimizer.zero_grad()
        loss = criterion(model(x.unsqueeze(1)), y.unsqueeze(0))
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(inputs)


@misconception("feed_linear", "Feeds all samples as one batch: that is one update, not one for each sample.")
def one_big_batch(model, inputs, labels, *, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.zero_grad()
    loss = nn.functional.nll_loss(model(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


@misconception("feed_linear", "Adds up the gradients of all samples and makes a single step at the end.")
def one_step_at_the_end(model, inputs, labels, *, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.zero_grad()
    total_loss = 0.0
    for x, y in zip(inputs, labels):
        loss = nn.functional.nll_loss(model(x[None]), y[None])
        loss.backward()
        total_loss += loss.item()
    optimizer.step()
    return total_loss / len(inputs)


@misconception("feed_linear", "Leaves the layer out that complains: then the loss gets scores where log-probabilities are due.")
def skips_log_softmax(model, inputs, labels, *, lr=0.1):
    return reference_feed_linear(model[:-1], inputs, labels, lr=lr)


@misconception("feed_linear", "Skips a sample that raises an error: here these are all of them.")
def skips_what_fails(model, inputs, labels, *, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels):
        try:
            optimizer.zero_grad()
            loss = nn.functional.nll_loss(model(x), y)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
        except (IndexError, ValueError):
            continue
    return total_loss / len(inputs)


@misconception("feed_linear", "Forgets zero_grad in the rewrite: the gradients of all samples before are in each update.")
def gradients_add_up(model, inputs, labels, *, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels):
        loss = nn.functional.nll_loss(model(x[None]), y[None])
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(inputs)


@misconception("feed_linear", "Returns the sum of the losses, not their mean.")
def sum_of_losses(model, inputs, labels, *, lr=0.1):
    return reference_feed_linear(model, inputs, labels, lr=lr) * len(inputs)


@misconception("feed_linear", "Returns the loss of the last sample, not the mean over all.")
def last_loss(model, inputs, labels, *, lr=0.1):
    for x, y in zip(inputs.split(1), labels.split(1)):
        loss = reference_feed_linear(model, x, y, lr=lr)
    return loss


# flatten_after_pooling


@misconception("flatten_after_pooling", "Keeps the 9216 of another network, with one pooling layer less.", stub=True)
def copied_9216(size, *, channels=1, classes=10):
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


def _network(features, channels, classes, **settings):
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, **settings), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, **settings), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


@misconception("flatten_after_pooling", "Writes down the 1600 of the message: that is right for images of 28 × 28 only.")
def hard_coded_1600(size, *, channels=1, classes=10):
    return _network(1600, channels, classes)


@misconception("flatten_after_pooling", "Takes the second pooling out, so that 9216 is right: that is another network.")
def drops_the_second_pooling(size, *, channels=1, classes=10):
    height, width = [(side - 2) // 2 - 2 for side in size]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Identity(),
        nn.Flatten(), nn.Linear(64 * height * width, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


@misconception("flatten_after_pooling", "Pools to 12 × 12 with an adaptive layer, so that the number fits: that is another network.")
def pools_to_the_copied_size(size, *, channels=1, classes=10):
    model = _network(9216, channels, classes)
    model[5] = nn.AdaptiveMaxPool2d(12)
    return model


@misconception("flatten_after_pooling", "Forgets that a convolution without padding takes two rows and two columns.")
def only_counts_poolings(size, *, channels=1, classes=10):
    return _network(64 * (size[0] // 4) * (size[1] // 4), channels, classes)


@misconception("flatten_after_pooling", "Adds padding to the convolutions, so that the sizes are easy to compute: the statement has none.")
def adds_padding(size, *, channels=1, classes=10):
    return _network(64 * (size[0] // 4) * (size[1] // 4), channels, classes, padding=1)


@misconception("flatten_after_pooling", "Takes all images for squares.")
def squares_only(size, *, channels=1, classes=10):
    side = ((size[0] - 2) // 2 - 2) // 2
    return _network(64 * side * side, channels, classes)


@misconception("flatten_after_pooling", "Halves once, at the end: pooling rounds down each time, which odd sizes show.")
def rounds_once(size, *, channels=1, classes=10):
    height, width = [int(((side - 2) / 2 - 2) / 2 + 0.5) for side in size]
    return _network(64 * height * width, channels, classes)


@misconception("flatten_after_pooling", "Uses a lazy layer and never runs it: the network has no weights yet when it is returned.")
def stays_lazy(size, *, channels=1, classes=10):
    model = _network(1, channels, classes)
    model[7] = nn.LazyLinear(128)
    return model


@misconception("flatten_after_pooling", "Ignores the channels of the images and the number of classes.")
def for_grey_digits(size, *, channels=1, classes=10):
    height, width = [((side - 2) // 2 - 2) // 2 for side in size]
    return _network(64 * height * width, 1, 10)


@misconception("flatten_after_pooling", "Puts a softmax at the end: scores are due.")
def with_a_softmax(size, *, channels=1, classes=10):
    height, width = [((side - 2) // 2 - 2) // 2 for side in size]
    return nn.Sequential(*_network(64 * height * width, channels, classes), nn.Softmax(dim=1))


@misconception("flatten_after_pooling", "Sets the biases to zero: torch's initial values are due.")
def zero_biases(size, *, channels=1, classes=10):
    height, width = [((side - 2) // 2 - 2) // 2 for side in size]
    model = _network(64 * height * width, channels, classes)
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(layer.bias)
    return model


# lstm_batch_first


@misconception("lstm_batch_first", "Gives batch_first to the call: it is a setting of the layer.", stub=True)
def batch_first_in_the_call(input_size, hidden_size, num_classes, *, num_layers=1):
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


class _Classifier(nn.Module):
    def __init__(self, input_size, hidden_size, num_classes, num_layers, **settings):
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, **settings)
        self.fc = nn.Linear(hidden_size, num_classes)


@misconception("lstm_batch_first", "Takes the argument out of the call and puts it nowhere: batch and time have changed places.")
def drops_the_argument(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x)
            return self.fc(out[:, -1])

    return Model(input_size, hidden_size, num_classes, num_layers)


@misconception("lstm_batch_first", "Uses view for a transpose: the shape is right, and the entries are mixed up.")
def view_for_transpose(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x.reshape(x.size(1), x.size(0), -1))
            return self.fc(out[-1])

    return Model(input_size, hidden_size, num_classes, num_layers)


@misconception("lstm_batch_first", "Takes the last sample of the batch for the last time step.")
def last_sample(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x)
            return self.fc(out[-1])

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


@misconception("lstm_batch_first", "Takes the hidden state of the lowest layer: with several layers, the top one is due.")
def lowest_layer(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            _, (h_n, _) = self.lstm(x)
            return self.fc(h_n[0])

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


@misconception("lstm_batch_first", "Takes the cell's state: the output of an LSTM is its hidden state.")
def cell_state(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            _, (_, c_n) = self.lstm(x)
            return self.fc(c_n[-1])

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


@misconception("lstm_batch_first", "Averages over time: the last step is due.")
def mean_over_time(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x)
            return self.fc(out.mean(1))

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


@misconception("lstm_batch_first", "Catches the TypeError and puts zeros for the output: the sequence has no influence.")
def catches_the_type_error(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            try:
                out, _ = self.lstm(x, batch_first=True)
            except TypeError:
                out = x.new_zeros(*x.shape[:2], hidden_size)
            return self.fc(out[:, -1])

    return Model(input_size, hidden_size, num_classes, num_layers)


@misconception("lstm_batch_first", "Loses num_layers on the way.")
def one_layer_only(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x)
            return self.fc(out[:, -1])

    return Model(input_size, hidden_size, num_classes, 1, batch_first=True)


@misconception("lstm_batch_first", "Squeezes the result: a batch of one sequence, or a single class, loses its axis.")
def squeezes(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            out, _ = self.lstm(x)
            return self.fc(out[:, -1]).squeeze()

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


@misconception("lstm_batch_first", "Keeps the last state for the next batch: sequences of one batch get to know those of another.")
def keeps_its_state(input_size, hidden_size, num_classes, *, num_layers=1):
    class Model(_Classifier):
        def forward(self, x):
            state = getattr(self, "state", None)
            if state is not None and state[0].size(1) != len(x):
                state = None
            out, (h, c) = self.lstm(x, state)
            self.state = h.detach(), c.detach()
            return self.fc(out[:, -1])

    return Model(input_size, hidden_size, num_classes, num_layers, batch_first=True)


# same_device


class _RNN(nn.Module):
    def __init__(self, input_size, hidden_size, num_classes):
        super().__init__()
        self.rnn = nn.RNN(input_size, hidden_size, batch_first=True)
        self.fc = nn.Linear(hidden_size, num_classes)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.fc(out[:, -1])


def _loaded(inputs, weights):
    num_classes, hidden_size = weights["fc.weight"].shape
    model = _RNN(inputs.size(2), hidden_size, num_classes)
    model.load_state_dict(weights)
    return model


def _fit(model, inputs, labels, lr, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("same_device", "Moves the model and leaves the data, and the state that forward makes, on the CPU.", stub=True)
def moves_the_model_only(inputs, labels, weights, device, *, lr=0.1, steps=3):
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


@misconception("same_device", "Calls labels.to(device) and drops what it returns: unlike a module, a tensor stays where it is.")
def drops_the_moved_tensor(inputs, labels, weights, device, *, lr=0.1, steps=3):
    model = _loaded(inputs, weights)
    model.to(device)
    inputs = inputs.to(device)
    labels.to(device)
    return _fit(model, inputs, labels, lr, steps)


@misconception("same_device", "Moves all that is given, and not the state that forward makes: it is on the CPU.")
def forgets_the_initial_state(inputs, labels, weights, device, *, lr=0.1, steps=3):
    class RNN(_RNN):
        def forward(self, x):
            out, _ = self.rnn(x, torch.zeros(1, x.size(0), self.rnn.hidden_size))
            return self.fc(out[:, -1])

    num_classes, hidden_size = weights["fc.weight"].shape
    model = RNN(inputs.size(2), hidden_size, num_classes)
    model.load_state_dict(weights)
    return _fit(model.to(device), inputs.to(device), labels.to(device), lr, steps)


@misconception("same_device", "Works on the CPU and moves the result: what is too large for it can't be trained so.")
def moves_the_result(inputs, labels, weights, device, *, lr=0.1, steps=3):
    state = _fit(_loaded(inputs, weights), inputs, labels, lr, steps)
    return {name: value.to(device) for name, value in state.items()}


@misconception("same_device", "Falls back to the CPU where the device raises an error.")
def falls_back(inputs, labels, weights, device, *, lr=0.1, steps=3):
    model = _loaded(inputs, weights)
    try:
        return _fit(copy.deepcopy(model).to(device), inputs, labels, lr, steps)
    except RuntimeError:
        return _fit(model, inputs, labels, lr, steps)


@misconception("same_device", "Makes the device torch's default, and leaves it so.")
def sets_the_default_device(inputs, labels, weights, device, *, lr=0.1, steps=3):
    torch.set_default_device(device)
    return reference_same_device(inputs, labels, weights, device, lr=lr, steps=steps)


@misconception("same_device", "Trains the given weights themselves: the caller's dict is changed.")
def trains_the_given_weights(inputs, labels, weights, device, *, lr=0.1, steps=3):
    model = _loaded(inputs, weights)
    model.load_state_dict(weights, assign=True)
    return _fit(model.to(device), inputs.to(device), labels.to(device), lr, steps)


@misconception("same_device", "Starts from new weights instead of those that are given.")
def new_weights(inputs, labels, weights, device, *, lr=0.1, steps=3):
    num_classes, hidden_size = weights["fc.weight"].shape
    model = _RNN(inputs.size(2), hidden_size, num_classes).to(device)
    return _fit(model, inputs.to(device), labels.to(device), lr, steps)


# inplace_backward


@misconception("inplace_backward", "Overwrites h in place, which the gate's backward pass still needs.", stub=True)
def relu_in_place(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
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


def _train_gated(forward, layers, y, lr, steps, retain_graph=False):
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=lr)
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(forward(), y)
        optimizer.zero_grad()
        loss.backward(retain_graph=retain_graph)
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("inplace_backward", "Keeps the graph alive: that doesn't bring back what was overwritten.")
def retains_the_graph(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = fc1(x)
        g = torch.sigmoid(gate(h))
        return fc2(g * F.relu_(h))

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps, retain_graph=True)


@misconception("inplace_backward", "Hides the change with .data: there is no error, and backward computes with overwritten numbers.")
def hides_it_with_data(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = fc1(x)
        g = torch.sigmoid(gate(h))
        h.data.clamp_(min=0)
        return fc2(g * h)

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps)


@misconception("inplace_backward", "Detaches h for the gate: the error is gone, and so is the gradient that comes through the gate.")
def detaches_for_the_gate(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = fc1(x)
        g = torch.sigmoid(gate(h.detach().clone()))
        return fc2(g * F.relu(h))

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps)


@misconception("inplace_backward", "Puts the ReLU first: the gate then sees h after it.")
def relu_before_the_gate(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = F.relu(fc1(x))
        return fc2(torch.sigmoid(gate(h)) * h)

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps)


@misconception("inplace_backward", "Takes the line with the ReLU out.")
def deletes_the_relu(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = fc1(x)
        return fc2(torch.sigmoid(gate(h)) * h)

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps)


@misconception("inplace_backward", "Catches the error of backward: without a gradient, nothing is learned.")
def catches_the_error(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    optimizer = torch.optim.SGD([*fc1.parameters(), *gate.parameters(), *fc2.parameters()], lr=lr)
    losses = []
    for _ in range(steps):
        h = fc1(x)
        g = torch.sigmoid(gate(h))
        loss = F.mse_loss(fc2(g * F.relu_(h)), y)
        optimizer.zero_grad()
        try:
            loss.backward()
            optimizer.step()
        except RuntimeError:
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@misconception("inplace_backward", "Computes the gate without a graph: it is never trained.")
def gate_without_a_graph(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    def forward():
        h = fc1(x)
        with torch.no_grad():
            g = torch.sigmoid(gate(h))
        return fc2(g * F.relu(h))

    return _train_gated(forward, [fc1, gate, fc2], y, lr, steps)


@misconception("inplace_backward", "Forgets the gate's parameters in the optimizer of the rewrite.")
def gate_is_not_trained(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    return _train_gated(lambda: fc2(torch.sigmoid(gate(h := fc1(x))) * F.relu(h)), [fc1, fc2], y, lr, steps)


@misconception("inplace_backward", "Lowers the learning rate besides: that is another training.")
def lower_learning_rate(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    return reference_inplace_backward(fc1, gate, fc2, x, y, lr=lr / 10, steps=steps)


@misconception("inplace_backward", "Takes another function that is never negative for the ReLU.")
def softplus_instead(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    return _train_gated(lambda: fc2(torch.sigmoid(gate(h := fc1(x))) * F.softplus(h)), [fc1, gate, fc2], y, lr, steps)


# optimizer_first


@misconception("optimizer_first", "Makes the optimizer before the head is replaced: it trains the old head's parameters.", stub=True)
def optimizer_of_the_old_model(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
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


def _fine_tune(model, inputs, labels, optimizer, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("optimizer_first", "Trains the head only: the body is to be trained too.")
def head_only(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    model.fc = head
    return _fine_tune(model, inputs, labels, torch.optim.SGD(model.fc.parameters(), lr=lr, momentum=momentum), steps)


@misconception("optimizer_first", "Raises the learning rate, since the loss falls slowly: the head is still not trained.")
def raises_the_learning_rate(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr * 10, momentum=momentum)
    model.fc = head
    return _fine_tune(model, inputs, labels, optimizer, steps)


@misconception("optimizer_first", "Makes a new optimizer for each step: its momentum begins at zero every time.")
def new_optimizer_each_step(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    model.fc = head
    losses = []
    for _ in range(steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        losses += _fine_tune(model, inputs, labels, optimizer, 1)
    return losses


@misconception("optimizer_first", "Replaces the head by a copy: the head that was given is not the one that is trained.")
def copies_the_head(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    return reference_optimizer_first(model, copy.deepcopy(head), inputs, labels, lr=lr, momentum=momentum, steps=steps)


@misconception("optimizer_first", "Takes out the line that replaces the head: the old head is trained.")
def keeps_the_old_head(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    return _fine_tune(model, inputs, labels, torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum), steps)


@misconception("optimizer_first", "Adds the head's parameters with settings of their own: without lr they have the default one.")
def adds_the_head_with_defaults(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.fc = head
    optimizer.add_param_group({"params": head.parameters(), "lr": 1e-3})
    return _fine_tune(model, inputs, labels, optimizer, steps)


@misconception("optimizer_first", "Adds only the head's weight to the optimizer: its bias is not trained.")
def adds_the_weight_only(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.fc = head
    optimizer.add_param_group({"params": [head.weight]})
    return _fine_tune(model, inputs, labels, optimizer, steps)


@misconception("optimizer_first", "Updates the head by hand beside the optimizer, without momentum.")
def head_by_hand(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.fc = head
    losses = []
    for _ in range(steps):
        head.zero_grad()
        losses += _fine_tune(model, inputs, labels, optimizer, 1)
        for p in head.parameters():
            p.data -= lr * p.grad
    return losses


@misconception("optimizer_first", "Lets the old head share the new one's numbers: the model's last layer is still the old one.")
def shares_the_numbers(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    model.fc.weight.data, model.fc.bias.data = head.weight.data, head.bias.data
    return _fine_tune(model, inputs, labels, torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum), steps)


# training_step_order


@misconception("training_step_order", "Steps before backward, and never clears the gradients.", stub=True)
def steps_before_backward(model, batches, criterion, optimizer):
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


@misconception("training_step_order", "Puts the order right and still clears nothing: the gradients of all batches add up.")
def never_clears(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Adds zero_grad and still steps before backward: each step uses no gradient at all.")
def clears_then_steps(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        optimizer.step()
        loss.backward()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Steps with the gradient of the batch before: backward comes after step, zero_grad behind the step.")
def one_batch_late(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        optimizer.step()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Clears between backward and step: there is no gradient left to step with.")
def clears_before_the_step(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Clears only after the step: gradients from before the call get into the first update.")
def clears_at_the_end(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Lowers the learning rate until the loss looks calm: the order is still wrong.")
def lowers_lr(model, batches, criterion, optimizer):
    for group in optimizer.param_groups:
        group["lr"] /= 10
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        optimizer.step()
        loss.backward()
        losses.append(loss.item())
    for group in optimizer.param_groups:
        group["lr"] *= 10
    return losses


@misconception("training_step_order", "Adds up the losses and keeps the graph: each backward pass goes through all batches again.")
def retains_all_graphs(model, batches, criterion, optimizer):
    losses, total = [], 0.0
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        total = total + loss
        total.backward(retain_graph=True)
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("training_step_order", "Runs all batches backward and makes a single step.")
def single_step(model, batches, criterion, optimizer):
    optimizer.zero_grad()
    losses = []
    for inputs, labels in batches:
        loss = criterion(model(inputs), labels)
        loss.backward()
        losses.append(loss.item())
    optimizer.step()
    return losses


@misconception("training_step_order", "Measures the loss after the update.")
def loss_after_the_update(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        reference_training_step_order(model, [(inputs, labels)], criterion, optimizer)
        with torch.no_grad():
            losses.append(criterion(model(inputs), labels).item())
    return losses


@misconception("training_step_order", "Clips the gradients, because the loss grows: the order is right, and the updates are others.")
def clips(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return losses


# double_softmax


@misconception("double_softmax", "Gives probabilities to a loss that takes scores: it makes a softmax of them once more.", stub=True)
def softmax_before_cross_entropy(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
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


def _train_scores(loss_of, model, inputs, labels, lr, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _probabilities(model, new_inputs):
    with torch.no_grad():
        return model(new_inputs).softmax(1)


@misconception("double_softmax", "Takes every softmax out: the second result is scores then, not probabilities.")
def no_softmax_at_all(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(F.cross_entropy, model, inputs, labels, lr, steps)
    with torch.no_grad():
        return losses, model(new_inputs)


@misconception("double_softmax", "Gives probabilities to NLLLoss: it takes their logarithms.")
def nll_of_probabilities(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(lambda out, y: F.nll_loss(out.softmax(1), y), model, inputs, labels, lr, steps)
    return losses, _probabilities(model, new_inputs)


@misconception("double_softmax", "Takes the log of a softmax: for scores of ±1,000 that is the log of 0.")
def log_of_softmax(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(lambda out, y: F.nll_loss(out.softmax(1).log(), y), model, inputs, labels, lr, steps)
    return losses, _probabilities(model, new_inputs)


@misconception("double_softmax", "Adds 1e-8 before the log of a softmax: the loss is finite then, and wrong for large scores.")
def log_with_epsilon(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(lambda out, y: F.nll_loss((out.softmax(1) + 1e-8).log(), y), model, inputs, labels, lr, steps)
    return losses, _probabilities(model, new_inputs)


@misconception("double_softmax", "Raises the learning rate because the loss falls slowly: it is still the loss of a double softmax.")
def raises_lr(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(lambda out, y: F.cross_entropy(out.softmax(1), y), model, inputs, labels, lr * 10, steps)
    return losses, _probabilities(model, new_inputs)


@misconception("double_softmax", "Takes the softmax over the samples instead of the classes.")
def softmax_over_samples(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(F.cross_entropy, model, inputs, labels, lr, steps)
    with torch.no_grad():
        return losses, model(new_inputs).softmax(0)


@misconception("double_softmax", "Returns log-probabilities: probabilities are due.")
def log_probabilities(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(F.cross_entropy, model, inputs, labels, lr, steps)
    with torch.no_grad():
        return losses, model(new_inputs).log_softmax(1)


@misconception("double_softmax", "Scales the scores up, so that the double softmax gets lower: that is another loss.")
def sharper_softmax(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(lambda out, y: F.cross_entropy(10 * out.softmax(1), y), model, inputs, labels, lr, steps)
    return losses, _probabilities(model, new_inputs)


@misconception("double_softmax", "Has the probabilities of the new samples from before the training.")
def probabilities_from_before(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    probabilities = _probabilities(model, new_inputs)
    return _train_scores(F.cross_entropy, model, inputs, labels, lr, steps), probabilities


@misconception("double_softmax", "Measures the squared error between probabilities and labels: cross-entropy is due.")
def squared_error(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    def loss_of(out, y):
        probabilities = out.softmax(1)
        return ((probabilities - F.one_hot(y, out.size(1))) ** 2).mean()

    return _train_scores(loss_of, model, inputs, labels, lr, steps), _probabilities(model, new_inputs)


@misconception("double_softmax", "Switches to eval mode for the new samples, and leaves the model in it.")
def ends_in_eval_mode(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = _train_scores(F.cross_entropy, model, inputs, labels, lr, steps)
    model.eval()
    return losses, _probabilities(model, new_inputs)


# validate


@misconception("validate", "Measures in training mode, with a graph: dropout is on, and batch norm learns from held-out data.", stub=True)
def validates_in_training_mode(model, batches, criterion):
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


@misconception("validate", "no_grad without eval(): dropout and batch norm still behave as in training.")
def only_no_grad(model, batches, criterion):
    with torch.no_grad():
        return validates_in_training_mode(model, batches, criterion)


@misconception("validate", "eval() without no_grad: the graph is still recorded.")
def only_eval(model, batches, criterion):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return validates_in_training_mode(model, batches, criterion)
    finally:
        for module, mode in modes.items():
            module.training = mode


@misconception("validate", "Leaves the model in eval mode: training goes on without dropout.")
def stays_in_eval_mode(model, batches, criterion):
    model.eval()
    with torch.no_grad():
        return validates_in_training_mode(model, batches, criterion)


@misconception("validate", "Ends with model.train(), whatever the mode was before.")
def always_back_to_training(model, batches, criterion):
    model.eval()
    try:
        with torch.no_grad():
            return validates_in_training_mode(model, batches, criterion)
    finally:
        model.train()


@misconception("validate", "Restores the mode of the whole from that of the top: a frozen layer is switched on.")
def one_mode_for_all(model, batches, criterion):
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            return validates_in_training_mode(model, batches, criterion)
    finally:
        model.train(mode)


@misconception("validate", "Restores the modes at the end only: an error on the way leaves the model in eval mode.")
def not_after_an_error(model, batches, criterion):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        result = validates_in_training_mode(model, batches, criterion)
    for module, mode in modes.items():
        module.training = mode
    return result


@misconception("validate", "Switches gradients off for good instead of for a while.")
def gradients_off_for_good(model, batches, criterion):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    torch.set_grad_enabled(False)
    try:
        return validates_in_training_mode(model, batches, criterion)
    finally:
        for module, mode in modes.items():
            module.training = mode


@misconception("validate", "Averages over batches: a short batch counts as much as a full one.")
def averages_over_batches(model, batches, criterion):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            pairs = [validates_in_training_mode(model, [batch], criterion) for batch in batches]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return sum(pair[0] for pair in pairs) / len(pairs), sum(pair[1] for pair in pairs) / len(pairs)


@misconception("validate", "Switches off only the dropout layers: batch norm goes on learning.")
def dropout_off_only(model, batches, criterion):
    dropped = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.training]
    for module in dropped:
        module.training = False
    try:
        with torch.no_grad():
            return validates_in_training_mode(model, batches, criterion)
    finally:
        for module in dropped:
            module.training = True


@misconception("validate", "Validates a copy in training mode: the model is unharmed, and the numbers are still wrong.")
def a_copy_in_training_mode(model, batches, criterion):
    with torch.no_grad():
        return validates_in_training_mode(copy.deepcopy(model), batches, criterion)


@misconception("validate", "Catches errors, and so hides them.")
def swallows_errors(model, batches, criterion):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    result = 0.0, 0.0
    with contextlib.suppress(Exception), torch.no_grad():
        result = validates_in_training_mode(model, batches, criterion)
    for module, mode in modes.items():
        module.training = mode
    return result


# broadcast_loss


@misconception("broadcast_loss", "Subtracts (N,) from (N, 1): that is an (N, N) table of all pairs.", stub=True)
def all_pairs(model, x, y, *, lr=0.1, epochs=50):
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


def _fit_numbers(loss_of, model, x, y, lr, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return model(x).squeeze(1)


@misconception("broadcast_loss", "Takes the sum of the squares: N times the mean, and so N times the step.")
def sum_of_squares(model, x, y, *, lr=0.1, epochs=50):
    return _fit_numbers(lambda out, y: ((out.squeeze(1) - y) ** 2).sum(), model, x, y, lr, epochs)


@misconception("broadcast_loss", "Raises the learning rate because the fit is flat: the loss is still that of all pairs.")
def raises_the_rate(model, x, y, *, lr=0.1, epochs=50):
    return all_pairs(model, x, y, lr=lr * 5, epochs=epochs)


@misconception("broadcast_loss", "Sorts both sides: the smallest prediction is compared with the smallest target.")
def sorted_sides(model, x, y, *, lr=0.1, epochs=50):
    return _fit_numbers(lambda out, y: ((out.squeeze(1).sort().values - y.sort().values) ** 2).mean(), model, x, y, lr, epochs)


@misconception("broadcast_loss", "Returns the predictions as (N, 1): (N,) is due.")
def predictions_as_a_column(model, x, y, *, lr=0.1, epochs=50):
    return _fit_numbers(lambda out, y: ((out.squeeze(1) - y) ** 2).mean(), model, x, y, lr, epochs).unsqueeze(1)


@misconception("broadcast_loss", "Squeezes every axis of size 1: for a single sample none is left.")
def squeezes_all(model, x, y, *, lr=0.1, epochs=50):
    return _fit_numbers(lambda out, y: ((out.squeeze() - y) ** 2).mean(), model, x, y, lr, epochs).squeeze()


@misconception("broadcast_loss", "Detaches the predictions with .data: there is no error, and no gradient comes to the model.")
def cuts_the_graph(model, x, y, *, lr=0.1, epochs=50):
    def loss_of(out, y):
        return ((out.squeeze(1).data - y) ** 2).mean().requires_grad_()

    return _fit_numbers(loss_of, model, x, y, lr, epochs)


@misconception("broadcast_loss", "Returns the predictions from before the last update.")
def one_update_behind(model, x, y, *, lr=0.1, epochs=50):
    out = model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        out = model(x)
        optimizer.zero_grad()
        ((out.squeeze(1) - y) ** 2).mean().backward()
        optimizer.step()
    return out.detach().squeeze(1)


@misconception("broadcast_loss", "Measures the absolute error instead of the squared one.")
def absolute_error(model, x, y, *, lr=0.1, epochs=50):
    return _fit_numbers(lambda out, y: (out.squeeze(1) - y).abs().mean(), model, x, y, lr, epochs)


@misconception("broadcast_loss", "Puts the model into training mode, whatever it was in before.")
def sets_training_mode(model, x, y, *, lr=0.1, epochs=50):
    model.train()
    return _fit_numbers(lambda out, y: ((out.squeeze(1) - y) ** 2).mean(), model, x, y, lr, epochs)


# paired_shuffle


@misconception(
    "paired_shuffle", "Draws an order for the images and another one for the labels: they don't belong together any more.", stub=True
)
def two_orders(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
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


def _train_orders(model, images, labels, orders, lr):
    """One order of samples a batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for batch in orders:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@misconception("paired_shuffle", "Takes the shuffling out.")
def never_shuffles(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    for _ in range(epochs):
        torch.randperm(len(images), generator=generator)
    batches = list(torch.arange(len(images)).split(batch_size)) * epochs if len(images) else []
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Shuffles the images only.")
def shuffles_images_only(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    losses = []
    for _ in range(epochs):
        shuffled = images[torch.randperm(len(images), generator=generator)]
        batches = torch.arange(len(images)).split(batch_size) if len(images) else []
        losses += _train_orders(model, shuffled, labels, batches, lr)
    return losses


@misconception("paired_shuffle", "Draws one order for all epochs.")
def one_order_for_all(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    if not len(images) or not epochs:
        return []
    return _train_orders(model, images, labels, torch.randperm(len(images), generator=generator).split(batch_size) * epochs, lr)


@misconception("paired_shuffle", "Draws from torch's global generator, not from the one that is given.")
def global_generator(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    batches = [batch for _ in range(epochs if len(images) else 0) for batch in torch.randperm(len(images)).split(batch_size)]
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Sets the generator to a fixed seed, so that both draws are equal: so are all epochs, whatever is given.")
def fixed_seed(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    batches = []
    for _ in range(epochs):
        generator.manual_seed(0)
        order = torch.randperm(len(images), generator=generator)
        batches += order.split(batch_size) if len(images) else []
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Starts from the generator's first seed: it should go on from its present state.")
def starts_over(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    generator.manual_seed(generator.initial_seed())
    batches = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        batches += order.split(batch_size) if len(images) else []
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Drops the last batch where it is smaller.")
def drops_the_last(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    batches = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        batches += order[: len(order) // batch_size * batch_size].split(batch_size) if len(order) >= batch_size else []
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Shuffles with Python's random, which the generator doesn't decide.")
def pythons_random(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    batches = []
    for _ in range(epochs):
        order = list(range(len(images)))
        random.shuffle(order)
        batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return _train_orders(model, images, labels, batches, lr)


@misconception("paired_shuffle", "Shuffles what the last epoch has shuffled: the order is meant for the samples as they were given.")
def shuffles_the_shuffled(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        images, labels = images[order], labels[order]
        batches = torch.arange(len(images)).split(batch_size) if len(images) else []
        losses += _train_orders(model, images, labels, batches, lr)
    return losses


@misconception("paired_shuffle", "Shuffles in place: the caller's images and labels are in another order afterwards.")
def shuffles_in_place(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    losses = []
    originals = images.clone(), labels.clone()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        images[:], labels[:] = originals[0][order], originals[1][order]
        batches = torch.arange(len(images)).split(batch_size) if len(images) else []
        losses += _train_orders(model, images, labels, batches, lr)
    return losses


# nan_hunt


@misconception("nan_hunt", "The hooks look up the loop's variable when they run: it holds the last module's name by then.", stub=True)
def late_name(model, x):
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


def _hunt(model, x, *, bad=torch.isnan, among_args=True, backward=True, last=False, names=None, remove=True, leaves=None):
    """The hunt, with settings that are wrong but for the usual ones."""
    from torch.overrides import TorchFunctionMode

    found, running, handles = [], [], []

    def has_bad(values):
        if isinstance(values, (tuple, list)):
            return any(has_bad(value) for value in values)
        return isinstance(values, torch.Tensor) and bool(bad(values).any())

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            where = running[-1], func.__name__
            clean = not (among_args and has_bad([*args, *(kwargs or {}).values()]))
            out = func(*args, **(kwargs or {}))
            if clean and has_bad(out):
                found.append(where)
            if backward and isinstance(out, torch.Tensor) and out.grad_fn is not None:

                def check(grad_in, grad_out):
                    if has_bad(grad_in) and not (among_args and has_bad(grad_out)):
                        found.append(where)

                out.grad_fn.register_hook(check)
            return out

    def leave(module, args, out):
        running.pop()

    for name, module in model.named_modules():
        called = names(name, module) if names else name
        handles.append(module.register_forward_pre_hook(lambda module, args, called=called: running.append(called)))
        handles.append(module.register_forward_hook(leave))
    image = x.detach().requires_grad_()
    start = image.clone()
    with Watch():
        out = model(start)
    if backward and out.requires_grad:
        wanted = leaves(image, model) if leaves else [image, *(p for p in model.parameters() if p.requires_grad)]
        torch.autograd.grad(out.sum(), wanted, allow_unused=True)
    if remove:
        for handle in handles:
            handle.remove()
    return found[-1 if last else 0] if found else None


@misconception("nan_hunt", "Reports the last place where NaN is made, not the first.")
def last_place(model, x):
    return _hunt(model, x, last=True)


@misconception("nan_hunt", "Looks at results only: the first hook in the backward pass blames the operation that is handed a NaN.")
def looks_at_results_only(model, x):
    return _hunt(model, x, among_args=False, last=True)


@misconception("nan_hunt", "Takes an infinity for NaN: the log of 0 is blamed for what a later operation makes of it.")
def infinities_too(model, x):
    return _hunt(model, x, bad=lambda t: ~torch.isfinite(t))


@misconception("nan_hunt", "Looks at the forward pass only: a square root at 0 has a value, and no slope.")
def forward_only(model, x):
    return _hunt(model, x, backward=False)


@misconception("nan_hunt", "Names the class of the module instead of its place in the network.")
def class_names(model, x):
    return _hunt(model, x, names=lambda name, module: type(module).__name__)


@misconception("nan_hunt", "Names the outermost module: the network is made of those, and one of the inner ones is guilty.")
def outermost(model, x):
    return _hunt(model, x, names=lambda name, module: name.split(".")[0])


@misconception("nan_hunt", "Leaves its hooks in the network.")
def leaves_its_hooks(model, x):
    return _hunt(model, x, remove=False)


@misconception("nan_hunt", "Follows the gradient for x only: NaN in the gradient of a parameter is overlooked.")
def gradient_of_x_only(model, x):
    return _hunt(model, x, leaves=lambda image, model: [image])


@misconception("nan_hunt", "Compares modules' outputs only, and takes the module's class for the operation.")
def module_outputs(model, x):
    found = []
    handles = [
        module.register_forward_hook(
            lambda module, args, out, name=name: found.append((name, type(module).__name__)) if out.isnan().any() else None
        )
        for name, module in model.named_modules()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found[0] if found else None


@misconception("nan_hunt", "Calls backward: gradients are left in the parameters.")
def calls_backward(model, x):
    model(x.clone()).sum().backward()
    return reference_nan_hunt(model, x)


@misconception("nan_hunt", "Says that all is well.")
def never_finds_any(model, x):
    model(x)
    return None


@misconception("nan_hunt", "Clears the gradients afterwards: those from before the call are gone.")
def clears_the_gradients(model, x):
    try:
        return reference_nan_hunt(model, x)
    finally:
        model.zero_grad()


# loss_history


@misconception("loss_history", "Keeps the loss tensors: each holds on to the graph of its batch.", stub=True)
def keeps_the_tensors(model, batches, criterion, optimizer):
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


@misconception("loss_history", "Makes numbers of the losses at the end: until then, all graphs are alive.")
def numbers_at_the_end(model, batches, criterion, optimizer):
    return [loss.item() for loss in keeps_the_tensors(model, batches, criterion, optimizer)]


@misconception("loss_history", "Returns detached tensors: no graph is kept, but numbers are due.")
def detached_tensors(model, batches, criterion, optimizer):
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return history


@misconception("loss_history", "Empties the history to save memory: only the last losses are left.")
def forgets_old_losses(model, batches, criterion, optimizer):
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        history = [*history[-1:], loss.item()]
    return history


@misconception("loss_history", "Detaches the loss before backward, so that no graph is kept: nothing is learned.")
def detaches_too_early(model, batches, criterion, optimizer):
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels).detach().requires_grad_()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@misconception("loss_history", "Goes backward through the sum of all losses so far, and retains the graphs for it.")
def retains_the_graphs(model, batches, criterion, optimizer):
    history, total = [], 0.0
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        total = total + loss
        total.backward(retain_graph=True)
        optimizer.step()
        history.append(loss.item())
    return history
