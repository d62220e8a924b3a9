"""Other correct answers to the tasks of basics: the hidden suite must accept every one."""

import math
import pickle
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from grader.testing import alternative

# from_rows


@alternative("from_rows")
def made_float_afterwards(rows):
    return torch.tensor(rows).float()


@alternative("from_rows")
def the_old_constructor(rows):
    return torch.FloatTensor(rows)


@alternative("from_rows")
def through_numpy(rows):
    return torch.from_numpy(np.array(rows, dtype=np.float32))


@alternative("from_rows")
def row_by_row(rows):
    return torch.stack([torch.tensor([float(entry) for entry in row]) for row in rows])


# describe


@alternative("describe")
def with_other_words(x):
    entries = 1
    for size in x.size():
        entries *= size
    return {"entries": entries, "device": f"{x.device}", "dtype": x.dtype, "shape": tuple(x.size())}


@alternative("describe")
def with_math_prod(x):
    info = {}
    info["shape"] = tuple(x.shape)
    info["dtype"] = x.dtype
    info["device"] = str(x.device)
    info["entries"] = math.prod(x.shape)
    return info


# grid


@alternative("grid")
def from_an_outer_sum(rows, columns):
    return columns * torch.arange(rows)[:, None] + torch.arange(columns)


@alternative("grid")
def filled_in_a_loop(rows, columns):
    out = torch.zeros(rows, columns, dtype=torch.int64)
    for i in range(rows):
        for j in range(columns):
            out[i, j] = i * columns + j
    return out


@alternative("grid")
def with_view_and_minus_one(rows, columns):
    return torch.arange(0, rows * columns, 1).view(rows, -1)


# pick


@alternative("pick")
def with_index_select(x, index):
    return torch.index_select(x, 0, index), x.select(1, x.shape[1] - 1), x[range(0, len(x), 2)]


@alternative("pick")
def in_list_comprehensions(x, index):
    rows = torch.stack([x[i] for i in index.tolist()])
    last = torch.stack([row[-1] for row in x])
    return rows, last, torch.stack([x[i] for i in range(len(x)) if i % 2 == 0])


# matrix_product


@alternative("matrix_product")
def as_a_linear_layer(x, w):
    return F.linear(x, w)


@alternative("matrix_product")
def by_einsum(x, w):
    return torch.einsum("nd,md->nm", x, w)


@alternative("matrix_product")
def summed_after_broadcasting(x, w):
    return (x[:, None, :] * w[None, :, :]).sum(-1)


@alternative("matrix_product")
def turned_twice(x, w):
    return torch.mm(w, x.t()).transpose(0, 1)


# add_bias


@alternative("add_bias")
def with_an_axis_of_one(x, b):
    return torch.add(x, b.unsqueeze(0).expand_as(x))


@alternative("add_bias")
def on_a_copy_row_by_row(x, b):
    out = x.clone()
    for i in range(len(out)):
        out[i] += b
    return out


# standardize_columns


@alternative("standardize_columns")
def by_the_formula(x):
    n = x.shape[0]
    mean = x.sum(0, keepdim=True) / n
    centred = x - mean
    return centred / torch.sqrt(centred.pow(2).sum(0, keepdim=True) / (n - 1))


@alternative("standardize_columns")
def column_by_column(x):
    out = torch.empty_like(x)
    for j in range(x.shape[1]):
        std, mean = torch.std_mean(x[:, j])
        out[:, j] = (x[:, j] - mean) / std
    return out


@alternative("standardize_columns")
def in_float64(x):
    z = x.double()
    return ((z - z.mean(0)) / z.var(0).sqrt()).float()


# relu


@alternative("relu")
def with_where(x):
    return torch.where(x > 0, x, torch.zeros_like(x))


@alternative("relu")
def the_larger_of_two(x):
    return torch.maximum(x, torch.tensor(0.0))


@alternative("relu")
def times_a_mask(x):
    return x * (x > 0)


@alternative("relu")
def on_a_copy_by_mask(x):
    out = x.clone()
    out[out < 0] = 0
    return out


@alternative("relu")
def half_of_x_and_its_size(x):
    return (x + x.abs()) / 2


# flatten_images


@alternative("flatten_images")
def with_reshape(images):
    return images.reshape(images.shape[0], -1)


@alternative("flatten_images")
def with_the_layer(images):
    return nn.Flatten()(images)


@alternative("flatten_images")
def stacked_one_by_one(images):
    return torch.stack([image.contiguous().view(-1) for image in images])


# image_to_float


@alternative("image_to_float")
def float_first(image):
    return image.float().div(255.0).permute(2, 0, 1).contiguous()


@alternative("image_to_float")
def colour_by_colour(image):
    return torch.stack([image[:, :, c].to(torch.float32) / 255 for c in range(image.shape[2])])


@alternative("image_to_float")
def with_two_transposes(image):
    return image.transpose(0, 2).transpose(1, 2).type(torch.FloatTensor) * (1 / 255)


@alternative("image_to_float")
def as_numpy_people_do(image):
    return torch.from_numpy(np.ascontiguousarray(image.numpy().transpose(2, 0, 1)).astype(np.float32) / np.float32(255))


# count_correct


@alternative("count_correct")
def with_torch_max(scores, labels):
    _, predicted = torch.max(scores, 1)
    return int(predicted.eq(labels).sum())


@alternative("count_correct")
def sample_by_sample(scores, labels):
    count = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        if row.index(max(row)) == label:
            count += 1
    return count


@alternative("count_correct")
def counted_in_floats(scores, labels):
    return int((F.softmax(scores, dim=-1).argmax(-1) == labels).type(torch.float).sum().item())


# ones_like_column


@alternative("ones_like_column")
def with_new_ones(x):
    return x.new_ones(x.shape[0], 1)


@alternative("ones_like_column")
def like_the_first_column(x):
    return torch.ones_like(x[:, :1])


@alternative("ones_like_column")
def moved_afterwards(x):
    return torch.ones((x.size(0), 1)).to(x) if x.device.type != "meta" else torch.ones(x.size(0), 1, dtype=x.dtype).to("meta")


# slope


@alternative("slope")
def with_autograd_grad(f, x):
    point = torch.tensor(x, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(f(point), point)
    return float(gradient)


@alternative("slope")
def with_torch_func(f, x):
    return torch.func.grad(f)(torch.tensor(float(x))).item()


@alternative("slope")
def in_double(f, x):
    t = torch.tensor(x * 1.0, dtype=torch.float64, requires_grad=True)
    y = f(t)
    y.backward()
    return t.grad.tolist()


# gradient_step


@alternative("gradient_step")
@torch.no_grad()
def decorated(w, lr):
    w.sub_(w.grad, alpha=lr)
    w.grad = None


@alternative("gradient_step")
def copied_back(w, lr):
    new = w.detach() - lr * w.grad
    with torch.no_grad():
        w.copy_(new)
    w.grad = None


@alternative("gradient_step")
def by_an_optimizer(w, lr):
    optimizer = torch.optim.SGD([w], lr=lr)
    optimizer.step()
    optimizer.zero_grad()


@alternative("gradient_step")
def through_data(w, lr):
    w.data -= lr * w.grad.data
    w.grad = None


# fit_line


@alternative("fit_line")
def both_in_one_tensor(x, y, *, steps, lr):
    ab = torch.zeros(2, requires_grad=True)
    inputs = torch.stack([x, torch.ones_like(x)], dim=1)
    for _ in range(steps):
        torch.mean((inputs @ ab - y).pow(2)).backward()
        with torch.no_grad():
            ab -= lr * ab.grad
            ab.grad.zero_()
    a, b = ab.tolist()
    return a, b


@alternative("fit_line")
def with_layer_and_optimizer(x, y, *, steps, lr):
    layer = nn.Linear(1, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer, loss_fn = torch.optim.SGD(layer.parameters(), lr=lr), nn.MSELoss()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(layer(x[:, None]).squeeze(1), y).backward()
        optimizer.step()
    return layer.weight.item(), layer.bias.item()


@alternative("fit_line")
def gradients_by_hand(x, y, *, steps, lr):
    a = b = 0.0
    for _ in range(steps):
        error = a * x + b - y
        grad_a, grad_b = 2 * (error * x).mean().item(), 2 * error.mean().item()
        a, b = a - lr * grad_a, b - lr * grad_b
    return float(a), float(b)


# make_model


@alternative("make_model")
def with_named_layers(inputs=784, hidden=64, classes=10):
    return nn.Sequential(
        OrderedDict([("fc1", nn.Linear(inputs, hidden)), ("act", nn.ReLU(inplace=True)), ("fc2", nn.Linear(hidden, classes))])
    )


@alternative("make_model")
def appended(inputs=784, hidden=64, classes=10):
    model = nn.Sequential()
    model.append(nn.Linear(in_features=inputs, out_features=hidden))
    model.append(nn.ReLU())
    model.append(nn.Linear(in_features=hidden, out_features=classes))
    return model


# train_step


@alternative("train_step")
def with_the_loss_module(model, optimizer, x, y):
    criterion = nn.CrossEntropyLoss()
    pred = model(x)
    loss = criterion(pred, y)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return float(loss)


@alternative("train_step")
def with_log_softmax(model, optimizer, x, y):
    model.zero_grad()
    loss = F.nll_loss(F.log_softmax(model(x), dim=1), y)
    value = loss.detach().item()
    loss.backward()
    optimizer.step()
    return value


# accuracy


@alternative("accuracy")
def in_a_try_block(model, x, y):
    mode = model.training
    try:
        model.train(False)
        with torch.no_grad():
            return (model(x).max(1).indices == y).float().mean().item()
    finally:
        model.train(mode)


@alternative("accuracy")
@torch.no_grad()
def as_a_decorator(model, x, y):
    training = model.training
    model.eval()
    predicted = torch.argmax(model(x), dim=-1)
    if training:
        model.train()
    return float((predicted == y).sum()) / y.shape[0]


@alternative("accuracy")
def in_inference_mode(model, x, y):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.inference_mode():
        hits = sum(int(row.argmax()) == int(label) for row, label in zip(model(x), y, strict=True))
    for module, mode in modes.items():
        module.training = mode
    return hits / len(x)


# save_model


@alternative("save_model")
def into_an_open_file(model, path):
    with open(path, "wb") as file:
        torch.save(model.state_dict(), file)


@alternative("save_model")
def copies_on_the_cpu(model, path):
    torch.save({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}, str(path))


# load_model


@alternative("load_model")
def spelt_out(model, path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=True)


@alternative("load_model")
def from_an_open_file(model, path):
    with open(path, "rb") as file:
        state = torch.load(file)
    model.load_state_dict(OrderedDict(state))
    return model


@alternative("load_model")
def copied_name_by_name(model, path):
    try:
        state = torch.load(path)
    except pickle.UnpicklingError as error:
        raise RuntimeError("not a state") from error
    mine = model.state_dict()
    if mine.keys() != state.keys() or any(mine[name].shape != state[name].shape for name in mine):
        raise RuntimeError("the file doesn't fit the model")
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(state[name])


# first_classifier


@alternative("first_classifier")
def in_shuffled_batches(images, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(10):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@alternative("first_classifier")
def with_a_data_loader(images, labels):
    model = nn.Sequential(nn.Linear(images.size(1), 64), nn.ReLU(), nn.Linear(64, 10))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=100, shuffle=True)
    optimizer, loss_fn = torch.optim.AdamW(model.parameters(), lr=1e-2), nn.CrossEntropyLoss()
    model.train()
    for _ in range(8):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    return model.state_dict()
