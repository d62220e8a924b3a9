"""First steps: make tensors, look at them, compute with them, find slopes, and train a first network.

For people who know Python and have never used PyTorch. Every task stands alone and takes a few minutes. A shape such as (N, D) means
N rows and D columns. "Look up" names what to search for in PyTorch's documentation, https://docs.pytorch.org/docs/stable.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def from_rows(rows: list[list[float]]) -> Tensor:
    """Make a tensor from a table of numbers.

    Example: [[1, 2, 3], [4, 5, 6]] becomes a tensor of shape (2, 3), with 2 rows and 3 columns, that holds 1.0 to 6.0.
    To know: from whole numbers, torch makes an integer tensor by itself. Networks compute in float32, so ask for that dtype.
    Look up: torch.tensor and its argument dtype.

    Args:
        rows: N lists of D numbers each, ints or floats.

    Returns: (N, D), float32.
    """
    # TODO: about 1 line.
    raise NotImplementedError("from_rows")


def describe(x: Tensor) -> dict[str, object]:
    """Say what a tensor is. These four are the first to look at when something goes wrong.

    Example: for torch.zeros(2, 3) it is {"shape": (2, 3), "dtype": torch.float32, "device": "cpu", "entries": 6}.
    To know: a shape is a torch.Size, which is a tuple of ints. The device says where the numbers are: "cpu", or "cuda:0" for a GPU.
    Look up: the attributes shape, dtype and device of torch.Tensor, and its method numel. Python's str() makes a string of a device.

    Args:
        x: any shape, dtype and device.

    Returns: a dict with these four keys: the shape as a tuple, the dtype itself, the device as a string, the number of entries as an int.
    """
    # TODO: about 1 line.
    raise NotImplementedError("describe")


def grid(rows: int, columns: int) -> Tensor:
    """Lay the numbers 0, 1, 2, … out in a table, row by row.

    Example: grid(2, 3) is [[0, 1, 2], [3, 4, 5]].
    To know: reshape puts the same entries, in the same order, into another shape. The last axis is filled first.
    Look up: torch.arange, torch.Tensor.reshape.

    Args:
        rows, columns: at least 1.

    Returns: (rows, columns), int64, with the numbers 0 … rows · columns − 1.
    """
    # TODO: about 1 line.
    raise NotImplementedError("grid")


def pick(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take three parts of a table: the rows that an index names, the last column, and every second row.

    Example: x = [[1, 2], [3, 4], [5, 6]] and index = [2, 0] give [[5, 6], [1, 2]], then [2, 4, 6], then [[1, 2], [5, 6]].
    To know: x[i] picks along the first axis, x[:, j] along the second. i may be a number, a slice or a tensor of numbers.
    Look up: "indexing" in NumPy's or PyTorch's documentation; slices such as x[a:b:step].

    Args:
        x: (N, D).
        index: (K,), int64, row numbers in any order; one may come twice.

    Returns: (K, D), the rows x[index[0]], x[index[1]], …; (N,), the last column; and rows 0, 2, 4, … of x.
    """
    # TODO: about 1 line.
    raise NotImplementedError("pick")


def matrix_product(x: Tensor, w: Tensor) -> Tensor:
    """Multiply x with the transpose of w: every row of x meets every row of w.

    Example: x = [[1, 2]] and w = [[3, 4], [5, 6], [7, 8]] give [[11, 17, 23]], since 1·3 + 2·4 = 11.
    To know: (N, D) @ (D, M) is (N, M): the two sizes in the middle must agree. w has them the other way round. `*` is another product.
    Look up: the operator @ (torch.matmul), and torch.Tensor.T.

    Args:
        x: (N, D), float32.
        w: (M, D), float32, a row for each output, as in nn.Linear.

    Returns: (N, M), the sum over d of x[n, d] · w[m, d].
    """
    # TODO: about 1 line.
    raise NotImplementedError("matrix_product")


def add_bias(x: Tensor, b: Tensor) -> Tensor:
    """Add the same row of numbers to every row of a table.

    Example: x = [[1, 2, 3], [4, 5, 6]] and b = [10, 20, 30] give [[11, 22, 33], [14, 25, 36]].
    To know: shapes are lined up at their last axis, so (D,) meets the columns of (N, D), and is repeated for each row.
    Look up: "broadcasting semantics".

    Args:
        x: (N, D), float32.
        b: (D,), float32.

    Returns: (N, D). x itself stays as it was.
    """
    # TODO: about 1 line.
    raise NotImplementedError("add_bias")


def standardize_columns(x: Tensor) -> Tensor:
    """Bring every column of a table to mean 0 and standard deviation 1.

    Example: the column 1, 2, 3 has mean 2 and deviation 1, and becomes −1, 0, 1. Next to it, 10, 20, 30 becomes −1, 0, 1 too.
    To know: dim says which axis a mean runs over, and which one is gone afterwards. dim=0 runs down a column.
    Look up: torch.mean, torch.std. Use torch.std as it is: it divides by N − 1.

    Args:
        x: (N, D), float32, N ≥ 2, no column of equal numbers.

    Returns: (N, D), (x − mean of its column) / deviation of its column.
    """
    # TODO: about 1 line.
    raise NotImplementedError("standardize_columns")


def relu(x: Tensor) -> Tensor:
    """Replace every negative number by 0: the step between two layers of a network.

    Example: [−2.0, 0.0, 3.5] becomes [0.0, 0.0, 3.5].
    To know: torch's operations work on all entries at once. x may have millions: a Python loop over a tensor takes longer than a test may.
    Look up: torch.clamp, torch.where or torch.maximum (of two tensors): one of them is enough.

    Args:
        x: any shape, float32.

    Returns: the shape of x, float32. x itself stays as it was.
    Not allowed: torch's own relu (torch.relu, nn.functional.relu, nn.ReLU).
    """
    # TODO: about 1 line.
    raise NotImplementedError("relu")


def flatten_images(images: Tensor) -> Tensor:
    """Make one row of numbers of each image.

    Example: 5 images of shape (3, 4, 2), in a tensor of shape (5, 3, 4, 2), become (5, 24).
    To know: the batch comes first and stays. Some images come with swapped axes: reshape works on them too, view fails.
    Look up: torch.Tensor.reshape (a size of −1 means "whatever is left") or torch.flatten and its start_dim.

    Args:
        images: (N, C, H, W): N images, C channels, H rows and W columns of pixels. No size is 0.

    Returns: (N, C·H·W): row n holds image n, channel after channel, each row by row.
    """
    # TODO: about 1 line.
    raise NotImplementedError("flatten_images")


def image_to_float(image: Tensor) -> Tensor:
    """Turn an image as files hold it into one as networks want it.

    Example: an image of 2×3 pixels has shape (2, 3, 3) and becomes (3, 2, 3). Its bytes 0, 51 and 255 become 0.0, 0.2 and 1.0.
    To know: permute gives the axes a new order and takes every entry along. reshape would only cut the same list of numbers anew.
    Look up: torch.Tensor.permute. A tensor of integers divided by 255 is float32.

    Args:
        image: (H, W, C), uint8, 0 … 255: rows, columns, colours.

    Returns: (C, H, W), float32, 0 … 1.
    """
    # TODO: about 1 line.
    raise NotImplementedError("image_to_float")


def count_correct(scores: Tensor, labels: Tensor) -> int:
    """Count for how many samples the class with the highest score is the right one.

    Example: scores [[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]] mean the classes 1, 0, 1. With labels [1, 1, 1], 2 are correct.
    To know: comparing two tensors gives a tensor of True and False, and its sum counts the True.
    Look up: torch.argmax and its argument dim; torch.Tensor.item, which makes a Python number of a tensor with one entry.

    Args:
        scores: (N, C), float32, a row for each sample, a column for each class, no two in a row equal.
        labels: (N,), int64, the right classes, 0 … C − 1.

    Returns: a Python int.
    """
    # TODO: about 1 line.
    raise NotImplementedError("count_correct")


def ones_like_column(x: Tensor) -> Tensor:
    """Make a column of ones that fits x, so that the two can be used together.

    Example: for x of shape (3, 2) and dtype float64 it is [[1], [1], [1]], of shape (3, 1) and dtype float64.
    To know: a new tensor is float32 and on the CPU, unless you say otherwise. Tensors on different devices can't be used together.
    Look up: torch.ones and its arguments dtype and device, or torch.Tensor.new_ones.

    Args:
        x: (N, D), any dtype, on any device.

    Returns: (N, 1), ones, with the dtype and on the device of x.
    """
    # TODO: about 1 line.
    raise NotImplementedError("ones_like_column")


def slope(f: Callable[[Tensor], Tensor], x: float) -> float:
    """Find the slope of a function at a place: let autograd differentiate it.

    Example: with f = lambda x: x**2 + 2 * x, slope(f, 3) is 8.0, since the derivative is 2x + 2.
    To know: torch writes down what is computed from a tensor with requires_grad=True, and backward() walks back through it. Only a float
    tensor can have a gradient, so make x a float first. (f(x + h) − f(x)) / h is not exact enough here.
    Look up: "autograd tutorial"; torch.tensor's requires_grad, torch.Tensor.backward, torch.Tensor.grad, torch.Tensor.item.

    Args:
        f: takes a tensor of shape () and returns one, computed with torch's operations.
        x: where; a Python float or int.

    Returns: a Python float, f′(x).
    """
    # TODO: about 3 lines.
    raise NotImplementedError("slope")


def gradient_step(w: Tensor, lr: float) -> None:
    """Make one step of gradient descent: w ← w − lr · w.grad, in place; then set w.grad to None.

    Example: w = 1.0 with the gradient 3.0 and lr = 0.1 becomes 0.7.
    To know: the step itself must not be recorded for autograd: make it inside `with torch.no_grad():`. `w = w - …` would only give the
    name w to a new tensor; `w -= …` changes the tensor. The next backward() adds to w.grad, unless that is None.
    Look up: torch.no_grad.

    Args:
        w: any shape, float32, requires_grad=True; backward() has been called, so w.grad is there.
        lr: learning rate.

    Returns: None; w is changed.
    """
    # TODO: about 3 lines.
    raise NotImplementedError("gradient_step")


def fit_line(x: Tensor, y: Tensor, *, steps: int, lr: float) -> tuple[float, float]:
    """Fit the line a · x + b to points by gradient descent: your first training loop.

    Begin with a = b = 0. In every step, loss = mean((a · x + b − y)²), then a ← a − lr · ∂loss/∂a and b ← b − lr · ∂loss/∂b, both with
    gradients from before the step.
    Example: x = [0, 1], y = [1, 3], lr = 0.5: one step gives (1.5, 2.0), 200 steps give (2.0, 1.0), the line through both points.
    To know: backward() adds to gradients that are there, so clear them in each step: a.grad = None.
    Look up: torch.zeros(1, requires_grad=True), torch.no_grad, torch.Tensor.item.

    Args: x, y: (N,), float32. steps: how many, at least 1. lr: learning rate.
    Returns: (a, b), two Python floats.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("fit_line")


def make_model(inputs: int = 784, hidden: int = 64, classes: int = 10) -> nn.Sequential:
    """Build a network of two layers: numbers of an image in, a score for each class out.

    The layers are linear (inputs → hidden), ReLU, linear (hidden → classes), in this order and nothing else.
    Example: make_model() has 784·64 + 64 + 64·10 + 10 = 50,890 parameters; a batch of shape (5, 784) gives scores of shape (5, 10).
    To know: there is no softmax at the end, because the loss function nn.CrossEntropyLoss takes scores.
    Look up: nn.Sequential, nn.Linear, nn.ReLU.

    Args:
        inputs, hidden, classes: sizes, at least 1.

    Returns: an nn.Sequential with torch's own starting weights.
    """
    # TODO: about 1 line.
    raise NotImplementedError("make_model")


def train_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    """Train a model on one batch: the five lines in the middle of every training loop.

    Clear the gradients, compute the scores model(x), compute their cross-entropy loss, call backward, let the optimizer make its step.
    Example: if the model gives two classes the same score, the loss is log 2 ≈ 0.693, and after the step it is less.
    To know: cross-entropy takes scores, not probabilities: no softmax. Return the loss as a number, or its graph stays in memory.
    The model stays in the mode, training or eval, in which it is.
    Look up: torch.optim.Optimizer.zero_grad, nn.functional.cross_entropy, torch.Tensor.item.

    Args:
        model, optimizer: the optimizer holds the model's parameters.
        x, y: a batch of N inputs, and their classes (N,), int64.

    Returns: the mean loss over the batch, from before the step, a Python float.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("train_step")


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Measure which share of samples a model gets right: highest score at the right class.

    Example: 3 right out of 4 are 0.75.
    To know: dropout and batch norm behave differently in eval mode, so switch it on for this, and then back to the mode that the model
    was in. And call the model inside torch.no_grad(): nothing needs to be recorded here.
    Look up: nn.Module.eval, nn.Module.train, the attribute nn.Module.training, torch.no_grad.

    Args:
        model: gives scores (N, C), no two in a row equal; all its layers are in the same mode, which model.train(flag) sets.
        x, y: N ≥ 1 inputs, and their classes (N,), int64.

    Returns: a Python float in 0 … 1.
    """
    # TODO: about 6 lines.
    raise NotImplementedError("accuracy")


def save_model(model: nn.Module, path: str | Path) -> None:
    """Write what a model has learnt into a file.

    Example: after save_model(nn.Linear(2, 1), "line.pt"), torch.load("line.pt") gives a dict with the keys "weight" and "bias".
    To know: save the state_dict, a dict of all tensors that the model has learnt or counted. The model object would drag its code along.
    Look up: nn.Module.state_dict, torch.save.

    Args:
        model: any model.
        path: where to write, exactly there; a file that is there already is overwritten.
    """
    # TODO: about 1 line.
    raise NotImplementedError("save_model")


def load_model(model: nn.Module, path: str | Path) -> None:
    """Put what a file holds back into a model of the same form.

    Example: if line.pt holds {"weight": [[2.0, 3.0]], "bias": [1.0]}, load_model(nn.Linear(2, 1), "line.pt") gives the layer these numbers.
    To know: torch.load only returns a dict. The model's own load_state_dict copies it into the model, and complains where it doesn't fit.
    Look up: torch.load, nn.Module.load_state_dict.

    Args:
        model: is changed: afterwards it holds the file's tensors.
        path: a file made by torch.save(other_model.state_dict(), path).

    Raises: RuntimeError (from load_state_dict) if a name or a shape in the file doesn't fit the model.
    """
    # TODO: about 1 line.
    raise NotImplementedError("load_model")


def first_classifier(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Train a network that reads handwritten digits, and return its weights. Here you may seed torch and draw from it.

    The network is nn.Sequential(nn.Linear(D, 64), nn.ReLU(), nn.Linear(64, 10)). From about 1,200 images it must learn to read at least
    85 % of 600 others, which you don't get. The test shuffles which label stands for which digit, so learn from the labels.
    Example: 40 steps of torch.optim.Adam with lr=0.01, each on all images at once, read about 95 % and take a tenth of a second.
    To know: this is train_step in a loop. One optimizer for all steps: Adam remembers.
    Look up: torch.optim.Adam, nn.functional.cross_entropy.

    Args: images: (N, D), float32, 0 … 1, a row of D pixels for each image. labels: (N,), int64, 0 … 9.
    Returns: the trained network's state_dict(), with the keys "0.weight", "0.bias", "2.weight" and "2.bias".
    """
    # TODO: about 7 lines.
    raise NotImplementedError("first_classifier")
