"""Another way, from the stubs alone."""

import torch
from torch import nn
from torch.nn import functional as F


def from_rows(rows):
    table = torch.empty(len(rows), len(rows[0]), dtype=torch.float32)
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            table[i, j] = entry
    return table


def describe(x):
    shape = tuple(int(size) for size in x.size())
    return {"entries": x.nelement(), "device": str(x.device), "shape": shape, "dtype": x.dtype}


def grid(rows, columns):
    return torch.stack([torch.arange(i * columns, (i + 1) * columns) for i in range(rows)])


def pick(x, index):
    even = torch.arange(len(x)) % 2 == 0
    return x[index, :], x.T[-1], x[even]


def matrix_product(x, w):
    out = x.new_zeros(x.shape[0], w.shape[0])
    for d in range(x.shape[1]):
        out += torch.outer(x[:, d], w[:, d])
    return out


def add_bias(x, b):
    return torch.stack([row + b for row in x])


def standardize_columns(x):
    columns = []
    for column in x.T:
        centred = column - column.mean()
        columns.append(centred / (centred @ centred / (len(column) - 1)) ** 0.5)
    return torch.stack(columns, dim=1)


def relu(x):
    return x.masked_fill(x < 0, 0.0)


def flatten_images(images):
    n, c, h, w = images.shape
    return images.contiguous().view(n, c * h * w)


def image_to_float(image):
    return torch.einsum("hwc->chw", image.to(torch.float32)) / 255.0


def count_correct(scores, labels):
    best = scores.sort(dim=1, descending=True).indices[:, 0]
    return len(torch.nonzero(best == labels))


def ones_like_column(x):
    return torch.full((x.shape[0], 1), 1, dtype=x.dtype, device=x.device)


def slope(f, x):
    at = torch.zeros(()) + x
    at.requires_grad = True
    y = f(at)
    y.backward()
    return float(at.grad)


def gradient_step(w, lr):
    with torch.no_grad():
        w.add_(w.grad * -lr)
    w.grad = None


def fit_line(x, y, *, steps, lr):
    a = torch.tensor(0.0, requires_grad=True)
    b = torch.tensor(0.0, requires_grad=True)
    for _ in range(steps):
        error = a * x + b - y
        da, db = torch.autograd.grad((error * error).sum() / len(x), [a, b])
        a, b = (a - lr * da).detach().requires_grad_(), (b - lr * db).detach().requires_grad_()
    return float(a), float(b)


def make_model(inputs=784, hidden=64, classes=10):
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def train_step(model, optimizer, x, y):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None
    log_p = model(x).log_softmax(-1)
    loss = -log_p[torch.arange(len(y)), y].mean()
    loss.backward()
    optimizer.step()
    return loss.tolist()


def accuracy(model, x, y):
    training = model.training
    model.eval()
    with torch.no_grad():
        scores = model(x)
    model.train(mode=training)
    return sum(int(s.argmax()) == int(c) for s, c in zip(scores, y)) / len(y)


def save_model(model, path):
    state = dict(model.state_dict())
    torch.save(state, path)


def load_model(model, path):
    weights = torch.load(path, map_location="cpu", weights_only=True)
    print(model.load_state_dict(weights))


def first_classifier(images, labels):
    torch.manual_seed(3)
    model = make_model(images.shape[1], 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(12):
        order = torch.randperm(len(images))
        for i in range(0, len(images), 50):
            train_step(model, optimizer, images[order[i : i + 50]], labels[order[i : i + 50]])
    return model.state_dict()
