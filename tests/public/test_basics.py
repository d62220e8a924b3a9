"""Examples for the module basics: read them, run them with `pytest tests/public -k <task>`."""

import math
from pathlib import Path

import pytest
import torch
from basics import (
    accuracy,
    add_bias,
    count_correct,
    describe,
    first_classifier,
    fit_line,
    flatten_images,
    from_rows,
    gradient_step,
    grid,
    image_to_float,
    load_model,
    make_model,
    matrix_product,
    ones_like_column,
    pick,
    relu,
    save_model,
    slope,
    standardize_columns,
    train_step,
)
from torch import nn

RAW = Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw"


def because(why):
    """The message of a comparison: first why something is expected, then what differs."""
    return lambda difference: f"{why}\n{difference}"


# from_rows


def test_from_rows_of_whole_numbers():
    """Two rows of three whole numbers become a float32 tensor of shape (2, 3)."""
    x = from_rows([[1, 2, 3], [4, 5, 6]])
    assert isinstance(x, torch.Tensor), f"expected a tensor, got {x!r}: return what torch.tensor gives"
    assert x.dtype == torch.float32, (
        f"expected float32, got {x.dtype}: whole numbers need the argument dtype, since networks compute in float32"
    )
    torch.testing.assert_close(x, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), msg=because("Each inner list is a row."))


# describe


def test_describe_zeros():
    """torch.zeros(2, 3) has 2 rows and 3 columns, so 6 entries."""
    got = describe(torch.zeros(2, 3))
    expected = {"shape": (2, 3), "dtype": torch.float32, "device": "cpu", "entries": 6}
    assert got == expected, f"expected {expected}, got {got}"
    assert isinstance(got["device"], str), 'the device should be a string, "cpu": put str() around it'


def test_describe_reads_the_dtype():
    """A tensor of whole numbers is int64: the answer is read from the tensor."""
    got = describe(torch.tensor([3, 1, 2, 9]))
    expected = {"shape": (4,), "dtype": torch.int64, "device": "cpu", "entries": 4}
    assert got == expected, f"expected {expected}, got {got}"


# grid


def test_grid_two_by_three():
    """0, 1, 2 are the first row, 3, 4, 5 the second."""
    torch.testing.assert_close(grid(2, 3), torch.tensor([[0, 1, 2], [3, 4, 5]]), msg=because("The numbers run along the rows."))


# pick


def test_pick_three_parts():
    """Rows 2 and 0 in this order; the last column; rows 0 and 2."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    rows, last_column, every_second = pick(x, torch.tensor([2, 0]))
    torch.testing.assert_close(rows, torch.tensor([[5.0, 6.0], [1.0, 2.0]]), msg=because("The index names rows 2 and 0."))
    torch.testing.assert_close(last_column, torch.tensor([2.0, 4.0, 6.0]), msg=because("The last column has one number from each row."))
    torch.testing.assert_close(every_second, torch.tensor([[1.0, 2.0], [5.0, 6.0]]), msg=because("Every second row, from row 0 on."))


# matrix_product


def test_matrix_product_by_hand():
    """1·3 + 2·4 = 11, 1·5 + 2·6 = 17, 1·7 + 2·8 = 23."""
    got = matrix_product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]))
    torch.testing.assert_close(got, torch.tensor([[11.0, 17.0, 23.0]]), msg=because("Each row of x meets each row of w."))


# add_bias


def test_add_bias_to_two_rows():
    """10, 20, 30 are added to each of the two rows."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    got = add_bias(x, torch.tensor([10.0, 20.0, 30.0]))
    torch.testing.assert_close(got, torch.tensor([[11.0, 22.0, 33.0], [14.0, 25.0, 36.0]]), msg=because("Every row gets all of b."))
    assert x[0, 0] == 1, "x itself has changed: use x + b, which makes a new tensor, and not +=, which changes x"


# standardize_columns


def test_standardize_columns_of_three_rows():
    """1, 2, 3 has mean 2 and deviation 1; 10, 20, 30 has mean 20 and deviation 10. Both become −1, 0, 1."""
    got = standardize_columns(torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]))
    expected = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(got, expected, msg=because("Each column has its own mean and its own deviation."))


# relu


def test_relu_of_three_numbers():
    """Only −2 is below 0."""
    x = torch.tensor([-2.0, 0.0, 3.5])
    torch.testing.assert_close(relu(x), torch.tensor([0.0, 0.0, 3.5]), msg=because("A negative number becomes 0, others stay."))
    assert x[0] == -2, "x itself has changed: make a new tensor"


# flatten_images


def test_flatten_images_keeps_the_batch():
    """5 images of 3·4·2 numbers: 5 rows of 24."""
    images = torch.arange(120.0).reshape(5, 3, 4, 2)
    got = flatten_images(images)
    assert got.shape == (5, 24), f"expected shape (5, 24), one row for each image; got {tuple(got.shape)}"
    torch.testing.assert_close(got[1], torch.arange(24.0, 48.0), msg=because("Row 1 holds the numbers of image 1, in their order."))


# image_to_float


def test_image_to_float_of_two_pixels():
    """A pixel of (0, 51, 255) beside one of (255, 0, 102), red first: three tables, one for each colour."""
    image = torch.tensor([[[0, 51, 255], [255, 0, 102]]], dtype=torch.uint8)  # 1 row, 2 columns, 3 colours
    got = image_to_float(image)
    expected = torch.tensor([[[0.0, 1.0]], [[0.2, 0.0]], [[1.0, 0.4]]])
    torch.testing.assert_close(got, expected, msg=because("The colours come first, and 255 becomes 1: shape (3, 1, 2), float32."))


# count_correct


def test_count_correct_two_of_three():
    """The highest scores are in the columns 1, 0, 1, and the labels are 1, 1, 1."""
    got = count_correct(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([1, 1, 1]))
    assert got == 2, f"expected 2, because the first and the third sample are correct; got {got}"
    assert isinstance(got, int), f"expected a Python int, got {got!r}: item() makes one of a tensor"


# ones_like_column


def test_ones_like_column_in_float64():
    """Three rows give three ones, in a column, in float64 as x is."""
    got = ones_like_column(torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(
        got, torch.tensor([[1.0], [1.0], [1.0]], dtype=torch.float64), msg=because("One column, three rows, and the dtype of x.")
    )


# slope


def test_slope_of_a_square():
    """The derivative of x² + 2x is 2x + 2: 8 at 3."""
    got = slope(lambda x: x**2 + 2 * x, 3.0)
    assert isinstance(got, float), f"expected a Python float, got {got!r}: item() makes one of a tensor"
    assert got == pytest.approx(8.0), f"expected 8, because 2·3 + 2 = 8; got {got}"


def test_slope_at_a_whole_number():
    """The place may be an int: the slope of x³ at 2 is 3·2² = 12."""
    got = slope(lambda x: x**3, 2)
    assert got == pytest.approx(12.0), f"expected 12, because 3·2² = 12; got {got}"


# gradient_step


def test_gradient_step_from_one():
    """1 − 0.1 · 3 = 0.7, and then the gradient is gone."""
    w = torch.tensor(1.0, requires_grad=True)
    (3 * w).backward()  # the gradient of 3w is 3
    gradient_step(w, 0.1)
    torch.testing.assert_close(w.detach(), torch.tensor(0.7), msg=because("w itself has to change, to 1 − 0.1 · 3."))
    assert w.grad is None, f"expected w.grad to be None, so that the next gradient doesn't add to this one; got {w.grad}"


# fit_line


def test_fit_line_one_step():
    """At a = b = 0 the errors are −1 and −3: the gradients are −3 (for a) and −4 (for b), and lr is 0.5."""
    got = fit_line(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]), steps=1, lr=0.5)
    assert got == pytest.approx((1.5, 2.0)), f"expected (1.5, 2.0), which is 0 − 0.5 · (−3) and 0 − 0.5 · (−4); got {got}"


def test_fit_line_many_steps():
    """Both points lie on y = 2x + 1."""
    got = fit_line(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]), steps=200, lr=0.5)
    assert got == pytest.approx((2.0, 1.0), abs=1e-3), f"expected (2.0, 1.0), the line through both points; got {got}"


# make_model


def test_make_model_sizes():
    """784·64 + 64 + 64·10 + 10 = 50,890 parameters."""
    model = make_model()
    assert isinstance(model, nn.Sequential), f"expected an nn.Sequential, got {model!r}"
    names = [type(layer).__name__ for layer in model]
    assert names == ["Linear", "ReLU", "Linear"], f"expected the layers Linear, ReLU and Linear, got {names}"
    count = sum(p.numel() for p in model.parameters())
    assert count == 50_890, f"expected 50,890 parameters, got {count:,}: look at the sizes of the two linear layers"
    shape = tuple(model(torch.zeros(5, 784)).shape)
    assert shape == (5, 10), f"expected scores of shape (5, 10) for five images, got {shape}"


# train_step


def test_train_step_brings_the_loss_down():
    """A layer of zeros gives both classes the same score: the loss is log 2. The step makes it less."""
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    first = train_step(model, optimizer, x, y)
    assert isinstance(first, float), f"expected a Python float, got {first!r}: item() makes one of a tensor"
    assert first == pytest.approx(math.log(2)), f"expected log 2 ≈ 0.693 at first, as two equal scores give; got {first}"
    second = train_step(model, optimizer, x, y)
    assert second == pytest.approx(0.5759, abs=1e-3), f"expected 0.576 after one step, less than before; got {second}"


# accuracy


def test_accuracy_three_of_four():
    """The model hands its input on, so the inputs are the scores; only the last label is wrong."""
    model = nn.Identity()
    x = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    got = accuracy(model, x, torch.tensor([0, 1, 0, 1]))
    assert got == pytest.approx(0.75), f"expected 0.75, because 3 of 4 are right; got {got}"
    assert isinstance(got, float), f"expected a Python float, got {got!r}"


def test_accuracy_puts_the_mode_back():
    """A model in training mode is in training mode afterwards, and one in eval mode in eval mode."""
    for training in (True, False):
        model = nn.Sequential(nn.Dropout(0.5), nn.Identity()).train(training)
        got = accuracy(model, torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        assert got == pytest.approx(0.5), f"expected 0.5, because the first of two is right and dropout is off in eval mode; got {got}"
        assert model.training is training, f"expected training = {training} afterwards, as before; got {model.training}"


# save_model


def test_save_model_writes_a_dict(tmp_path):
    """The file of a linear layer holds its weight and its bias."""
    model, path = nn.Linear(2, 1), tmp_path / "line.pt"
    save_model(model, path)
    assert path.exists(), f"expected a file at {path}, because that is the path that was given"
    state = torch.load(path)
    assert list(state) == ["weight", "bias"], f"expected the keys weight and bias, got {list(state)}"
    torch.testing.assert_close(state["weight"], model.weight.detach(), msg=because("The file holds the model's own numbers."))


# load_model


def test_load_model_copies_the_numbers(tmp_path):
    """A layer with the weights 2 and 3 and the bias 1 gives 2·10 + 3·100 + 1 = 321 for (10, 100)."""
    path = tmp_path / "line.pt"
    torch.save({"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([1.0])}, path)
    model = nn.Linear(2, 1)
    load_model(model, path)
    got = model(torch.tensor([10.0, 100.0])).item()
    assert got == pytest.approx(321.0), f"expected 321, because the model now has the file's numbers; got {got}"


# first_classifier


def test_first_classifier_reads_new_digits():
    """Trained on the first 1,000 of the digits in data/, the network reads at least 85 % of 200 others."""
    pixels = torch.frombuffer(bytearray((RAW / "train-images-idx3-ubyte").read_bytes()[16:]), dtype=torch.uint8)
    labels = torch.frombuffer(bytearray((RAW / "train-labels-idx1-ubyte").read_bytes()[8:]), dtype=torch.uint8).long()
    images = pixels.reshape(len(labels), -1) / 255
    state = first_classifier(images[:1000], labels[:1000])
    model = nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    model.load_state_dict(state)
    with torch.no_grad():
        share = (model(images[1000:1200]).argmax(dim=1) == labels[1000:1200]).float().mean().item()
    assert share >= 0.85, f"expected at least 85 % of 200 new images to be read correctly, got {share:.1%}"
