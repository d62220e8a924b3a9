"""Debugging, solved in full."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def import_then_train(model, inputs, targets, *, epochs=5, lr=0.01):
    import torch.optim as optim

    criterion = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def feed_linear(model, inputs, labels, *, lr=0.1):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels, strict=True):
        optimizer.zero_grad()
        loss = criterion(model(x.unsqueeze(0)), y.unsqueeze(0))
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(inputs)


def flatten_after_pooling(size, *, channels=1, classes=10):
    features = nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(start_dim=1),
    )
    with torch.no_grad():
        n = features(torch.zeros(1, channels, *size)).shape[1]
    return nn.Sequential(*features, nn.Linear(n, 128), nn.ReLU(), nn.Linear(128, classes))


def lstm_batch_first(input_size, hidden_size, num_classes, *, num_layers=1):
    class LSTMClassifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(input_size, hidden_size, num_layers)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            out, (_h_n, _c_n) = self.lstm(x.permute(1, 0, 2))
            return self.fc(out[-1])

    return LSTMClassifier()


def same_device(inputs, labels, weights, device, *, lr=0.1, steps=3):
    class RNN(nn.Module):
        def __init__(self, input_size, hidden_size, num_classes):
            super().__init__()
            self.hidden_size = hidden_size
            self.rnn = nn.RNN(input_size, hidden_size, batch_first=True)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            h0 = torch.zeros(1, x.size(0), self.hidden_size)
            out, _ = self.rnn(x, h0)
            return self.fc(out[:, -1, :])

    num_classes, hidden_size = weights["fc.weight"].shape
    x, y = inputs.to(device), labels.to(device)
    with torch.device(device):
        model = RNN(inputs.size(2), hidden_size, num_classes)
        model.load_state_dict({name: value.to(device).clone() for name, value in weights.items()}, assign=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(steps):
            loss = nn.CrossEntropyLoss()(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


def inplace_backward(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    criterion = nn.MSELoss()
    params = [*fc1.parameters(), *gate.parameters(), *fc2.parameters()]
    optimizer = torch.optim.SGD(params, lr=lr)
    losses = []
    for _ in range(steps):
        h = fc1(x)
        g = torch.sigmoid(gate(h.clone()))
        h = F.relu(h, inplace=True)
        loss = criterion(fc2(g * h), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def optimizer_first(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.fc = head
    optimizer.add_param_group({"params": head.parameters()})
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def training_step_order(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def double_softmax(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(torch.log_softmax(model(inputs), dim=1), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, torch.log_softmax(model(new_inputs), dim=-1).exp()


def validate(model, batches, criterion):
    training = [module for module in model.modules() if module.training]
    losses, hits, count = [], 0, 0
    try:
        model.eval()
        with torch.inference_mode():
            for inputs, labels in batches:
                outputs = model(inputs)
                losses.append(float(criterion(outputs, labels)) * inputs.shape[0])
                hits += int((outputs.max(1).indices == labels).sum())
                count += inputs.shape[0]
    finally:
        for module in training:
            module.training = True
    return math.fsum(losses) / count, hits / count


def broadcast_loss(model, x, y, *, lr=0.1, epochs=50):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        loss = nn.MSELoss()(model(x), y.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(x).detach().flatten()


def paired_shuffle(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        perm = torch.randperm(images.size(0), generator=generator)
        shuffled_images, shuffled_labels = images[perm], labels[perm]
        for i in range(0, len(images), batch_size):
            x, y = shuffled_images[i : i + batch_size], shuffled_labels[i : i + batch_size]
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def nan_hunt(model, x):
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    culprits, stack = [], []

    def bad(tree):
        return any(isinstance(leaf, torch.Tensor) and leaf.isnan().any() for leaf in tree_leaves(tree))

    class Tracer(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            place = (stack[-1], func.__name__)
            had = bad((args, kwargs))
            result = func(*args, **(kwargs or {}))
            if not had and bad(result):
                culprits.append(place)
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                    leaf.grad_fn.register_hook(
                        lambda into, out, place=place: culprits.append(place) if bad(into) and not bad(out) else None,
                    )
            return result

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda module, args, name=name: stack.append(name)))
        hooks.append(module.register_forward_hook(lambda module, args, out: (stack.pop(), None)[1]))
    parameters = [p for p in model.parameters() if p.requires_grad]
    image = x.clone().requires_grad_(True)
    start = image * 1
    try:
        with Tracer():
            y = model(start)
        if not culprits and y.requires_grad:
            torch.autograd.grad(y.sum(), [image, *parameters], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return culprits[0] if culprits else None


def loss_history(model, batches, criterion, optimizer):
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return [loss.item() for loss in history]
