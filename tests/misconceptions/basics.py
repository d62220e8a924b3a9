"""Named wrong answers to the tasks of basics. The hidden suite rejects every one of them."""

import os

import torch
import torch.nn.functional as F
from torch import nn

from grader.testing import misconception

# from_rows


@misconception("from_rows", "Leaves the dtype to torch: whole numbers become int64, and networks compute in float32.")
def forgets_the_dtype(rows):
    return torch.tensor(rows)


@misconception("from_rows", "Makes float64, as NumPy and Python do; float32 is due.")
def as_precise_as_python(rows):
    return torch.tensor(rows, dtype=torch.float64)


@misconception("from_rows", "Makes integers of all numbers: what is behind the point is lost.")
def cuts_the_fractions(rows):
    return torch.tensor([[int(entry) for entry in row] for row in rows]).float()


@misconception("from_rows", "Turns the table over: the inner lists are rows, not columns.")
def lists_become_columns(rows):
    return torch.tensor(rows, dtype=torch.float32).T


@misconception("from_rows", "Counts rows up to len − 1, and range leaves out its end already: the last row is missing.")
def forgets_the_last_row(rows):
    out = torch.zeros(len(rows) - 1, len(rows[0]))
    for i in range(len(rows) - 1):
        out[i] = torch.tensor(rows[i])
    return out


@misconception("from_rows", "Puts all numbers into one long row: the shape of the table is lost.")
def one_long_row(rows):
    return torch.tensor([entry for row in rows for entry in row], dtype=torch.float32)


@misconception("from_rows", "Squeezes the result: a table of a single row or column is a table too.")
def squeezes_the_table(rows):
    return torch.tensor(rows, dtype=torch.float32).squeeze()


@misconception("from_rows", "Returns a list of tensors, one for each row, instead of one tensor.")
def a_list_of_tensors(rows):
    return [torch.tensor(row, dtype=torch.float32) for row in rows]


# describe


@misconception("describe", "Takes len(x) for the number of entries: that is the first size only.")
def counts_the_rows(x):
    return {"shape": x.shape, "dtype": x.dtype, "device": str(x.device), "entries": len(x) if x.dim() else 1}


@misconception("describe", "Takes the number of axes for the number of entries.")
def counts_the_axes(x):
    return {"shape": x.shape, "dtype": x.dtype, "device": str(x.device), "entries": x.dim()}


@misconception("describe", "Gives the device as a torch.device; a string is due.")
def device_as_an_object(x):
    return {"shape": x.shape, "dtype": x.dtype, "device": x.device, "entries": x.numel()}


@misconception("describe", "Gives the dtype as a string; the dtype itself is due.")
def dtype_as_a_string(x):
    return {"shape": x.shape, "dtype": str(x.dtype), "device": str(x.device), "entries": x.numel()}


@misconception("describe", "Says type(x), which is torch.Tensor for every tensor, instead of the dtype of the entries.")
def type_for_dtype(x):
    return {"shape": x.shape, "dtype": str(type(x)), "device": str(x.device), "entries": x.numel()}


@misconception("describe", "Says float32 and cpu whatever the tensor is.")
def takes_the_example_for_the_rule(x):
    return {"shape": x.shape, "dtype": torch.float32, "device": "cpu", "entries": x.numel()}


@misconception("describe", "Says cpu without looking: a tensor knows its own device.")
def always_on_the_cpu(x):
    return {"shape": x.shape, "dtype": x.dtype, "device": "cpu", "entries": x.numel()}


@misconception("describe", "Gives the shape as a list; a tuple is due.")
def shape_as_a_list(x):
    return {"shape": list(x.shape), "dtype": x.dtype, "device": str(x.device), "entries": x.numel()}


@misconception("describe", "Multiplies only the first two sizes: a tensor can have any number of axes.")
def every_tensor_is_a_table(x):
    entries = x.shape[0] * x.shape[1] if x.dim() > 1 else x.numel()
    return {"shape": x.shape, "dtype": x.dtype, "device": str(x.device), "entries": entries}


# grid


@misconception("grid", "Counts down the columns instead of along the rows.")
def column_by_column_first(rows, columns):
    return torch.arange(rows * columns).reshape(columns, rows).T


@misconception("grid", "Swaps rows and columns: the number of rows comes first in a shape.")
def swaps_rows_and_columns(rows, columns):
    return torch.arange(rows * columns).reshape(columns, rows)


@misconception("grid", "Begins at 1; the first number is 0.")
def begins_at_one(rows, columns):
    return torch.arange(1, rows * columns + 1).reshape(rows, columns)


@misconception("grid", "Makes floats; arange gives int64 by itself, and that is due here.")
def a_grid_of_floats(rows, columns):
    return torch.linspace(0, rows * columns - 1, rows * columns).reshape(rows, columns)


@misconception("grid", "Starts anew in each row instead of counting on.")
def every_row_alike(rows, columns):
    return torch.arange(columns).repeat(rows, 1)


@misconception("grid", "Leaves the numbers in one long row.")
def forgets_the_reshape(rows, columns):
    return torch.arange(rows * columns)


# pick


@misconception("pick", "Takes the last row: x[-1] is a row, x[:, -1] the last column.")
def last_row_for_last_column(x, index):
    return x[index], x[-1], x[::2]


@misconception("pick", "Takes every second column: the slice for rows stands before the comma.")
def every_second_column(x, index):
    return x[index], x[:, -1], x[:, ::2]


@misconception("pick", "Begins with row 1; the first of every second row is row 0.")
def odd_rows(x, index):
    return x[index], x[:, -1], x[1::2]


@misconception("pick", "Keeps the last column as a table of one column: a slice keeps the axis, a number drops it.")
def column_as_a_table(x, index):
    return x[index], x[:, -1:], x[::2]


@misconception("pick", "Takes columns by the index; its numbers are row numbers.")
def index_for_columns(x, index):
    return x[:, index], x[:, -1], x[::2]


@misconception("pick", "Takes all rows between the first and the last of the index, instead of the rows that it names.")
def index_as_a_range(x, index):
    return x[index[0] : index[-1] + 1], x[:, -1], x[::2]


@misconception("pick", "Sorts the index and drops what comes twice: order and repeats are the caller's.")
def index_as_a_set(x, index):
    return x[index.unique()], x[:, -1], x[::2]


@misconception("pick", "Squeezes what was picked: a single row is still a table.")
def squeezes_the_picked_rows(x, index):
    return x[index].squeeze(0), x[:, -1], x[::2]


@misconception("pick", "Stops at half of the rows, rounded down: with an odd number of rows the last one is missing.")
def forgets_the_last_of_an_odd_number(x, index):
    return x[index], x[:, -1], x[: len(x) - len(x) % 2 : 2] if len(x) > 1 else x[::2]


# matrix_product


@misconception("matrix_product", "Multiplies entry by entry: `*` is not the matrix product, which is `@`.")
def entry_by_entry(x, w):
    return x * w


@misconception("matrix_product", "Forgets to transpose w: the sizes agree only by chance.")
def without_the_transpose(x, w):
    return x @ w


@misconception("matrix_product", "Has the result turned over: a row for each row of x is due.")
def the_other_way_round(x, w):
    return w @ x.T


@misconception("matrix_product", "Transposes both: the two D's are not neighbours then.")
def transposes_x(x, w):
    return x.T @ w


@misconception("matrix_product", "A loop that stops one row too early: range leaves out its end already.")
def forgets_the_last_row_of_x(x, w):
    out = torch.zeros(len(x), len(w))
    for i in range(len(x) - 1):
        for j in range(len(w)):
            out[i, j] = (x[i] * w[j]).sum()
    return out


@misconception("matrix_product", "Takes the mean of the products instead of their sum.")
def mean_of_the_products(x, w):
    return (x @ w.T) / x.shape[1]


@misconception("matrix_product", "Multiplies entry by entry after transposing: the result is no sum over d.")
def star_and_transpose(x, w):
    return x * w.T


@misconception("matrix_product", "Squeezes the result: a table with one row or column is still a table.")
def squeezes_the_product(x, w):
    return (x @ w.T).squeeze()


# add_bias


@misconception("add_bias", "Adds in place: += changes the caller's x.")
def changes_x(x, b):
    x += b
    return x


@misconception("add_bias", "Makes a column of b: it belongs to the columns, so it has to be a row.")
def as_a_column(x, b):
    return x + b.unsqueeze(1)


@misconception("add_bias", "Adds b to the first row only.")
def first_row_only(x, b):
    out = x.clone()
    out[0] += b
    return out


@misconception("add_bias", "A loop over range(len(x) − 1): the last row gets nothing.")
def last_row_gets_nothing(x, b):
    out = x.clone()
    for i in range(len(x) - 1):
        out[i] += b
    return out


@misconception("add_bias", "Adds the sum of b to every entry, instead of each number to its own column.")
def adds_the_sum_of_b(x, b):
    return x + b.sum()


@misconception("add_bias", "Puts b below x as one more row, instead of adding it.")
def appends_b(x, b):
    return torch.cat([x, b[None]])


@misconception("add_bias", "Multiplies with b; a bias is added.")
def multiplies_with_b(x, b):
    return x * b


# standardize_columns


@misconception("standardize_columns", "Mean and deviation run along the rows: dim=1 is the wrong axis.")
def along_the_rows(x):
    return (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True)


@misconception("standardize_columns", "Takes one mean and one deviation for the whole table; each column has its own.")
def one_for_all_columns(x):
    return (x - x.mean()) / x.std()


@misconception("standardize_columns", "Forgets the brackets: only the mean is divided.")
def forgets_the_brackets(x):
    return x - x.mean(dim=0) / x.std(dim=0)


@misconception("standardize_columns", "Divides by the variance; the deviation is its square root.")
def divides_by_the_variance(x):
    return (x - x.mean(dim=0)) / x.var(dim=0)


@misconception("standardize_columns", "Takes the deviation that divides by N; torch.std divides by N − 1 by itself.")
def deviation_of_a_population(x):
    return (x - x.mean(dim=0)) / x.std(dim=0, correction=0)


@misconception("standardize_columns", "Only moves the columns to mean 0: their deviations stay as they were.")
def only_moves(x):
    return x - x.mean(dim=0)


@misconception("standardize_columns", "A loop that stops before the last column.")
def forgets_the_last_column(x):
    out = x.clone()
    for j in range(x.shape[1] - 1):
        out[:, j] = (x[:, j] - x[:, j].mean()) / x[:, j].std()
    return out


@misconception("standardize_columns", "Brings the columns to the range 0 … 1, which is another scaling.")
def min_max_scaling(x):
    low, high = x.amin(dim=0), x.amax(dim=0)
    return (x - low) / (high - low)


@misconception("standardize_columns", "Writes into the caller's x: it should stay as it was.")
def standardizes_in_place(x):
    mean, std = x.mean(dim=0), x.std(dim=0)
    x -= mean
    x /= std
    return x


# relu


@misconception("relu", "Sets the negative entries of the caller's own x to 0: make a copy first.")
def relu_in_place(x):
    x[x < 0] = 0
    return x


@misconception("relu", "Takes the size of each number: −2 becomes 2 and not 0.")
def absolute_value(x):
    return x.abs()


@misconception("relu", "Limits the numbers from above too, at 1.")
def limits_above(x):
    return x.clamp(0, 1)


@misconception("relu", "Keeps the negative numbers and drops the others: clamp's min is the lower limit.")
def max_for_min(x):
    return x.clamp(max=0)


@misconception("relu", "Takes the negative entries out: the shape has to stay.")
def drops_the_entries(x):
    return x[x >= 0]


@misconception("relu", "Takes the one largest number of the whole tensor; an answer for each entry is due.")
def largest_of_all(x):
    return max(x.max(), torch.tensor(0.0))


@misconception("relu", "Gives 1 for a positive number: the comparison alone, without the number.")
def only_the_mask(x):
    return (x > 0).float()


@misconception("relu", "Looks at the rows' sums instead of the single entries.")
def whole_rows(x):
    return x * (x.sum(dim=-1, keepdim=True) > 0) if x.dim() else x.clamp(min=0)


# flatten_images


@misconception("flatten_images", "Flattens the batch too: each image should keep a row of its own.")
def flattens_the_batch(images):
    return images.flatten()


@misconception("flatten_images", "Makes columns of the images: a row for each is due.")
def images_become_columns(images):
    return images.flatten(1).T


@misconception("flatten_images", "Puts the pixels into the rows and the images into the columns by reshape: that mixes the images.")
def reshape_for_transpose(images):
    return images.reshape(-1, len(images))


@misconception("flatten_images", "Uses view, which fails on a tensor whose axes were swapped; reshape does not.")
def view_for_reshape(images):
    return images.view(images.shape[0], -1)


@misconception("flatten_images", "Keeps the channels as an axis of their own.")
def keeps_the_channels(images):
    return images.flatten(start_dim=2)


@misconception("flatten_images", "Expects 784 pixels, which is the size of one data set only.")
def always_784(images):
    return images.reshape(-1, 784)


@misconception("flatten_images", "Puts the channels last before it flattens: they come first, each row by row.")
def channels_last(images):
    return images.permute(0, 2, 3, 1).flatten(1)


@misconception("flatten_images", "Makes a row of each channel of each image.")
def a_row_for_each_channel(images):
    return images.reshape(images.shape[0] * images.shape[1], -1)


@misconception("flatten_images", "Squeezes away the batch of a single image.")
def squeezes_a_single_image(images):
    return images.flatten(1).squeeze(0)


# image_to_float


@misconception(
    "image_to_float", "Uses reshape to bring the colours to the front: it cuts the same list of numbers anew, and mixes the pixels."
)
def reshape_for_permute(image):
    h, w, c = image.shape
    return image.reshape(c, h, w) / 255


@misconception("image_to_float", "Swaps rows and columns on the way: the image lies on its side.")
def on_its_side(image):
    return image.permute(2, 1, 0) / 255


@misconception("image_to_float", "Makes integers of the quotients, by // or by a cast back to uint8: everything below 255 becomes 0.")
def divides_integers(image):
    return (image.permute(2, 0, 1) // 255).float()


@misconception("image_to_float", "Divides by 256: white does not become 1.")
def divides_by_256(image):
    return image.permute(2, 0, 1) / 256


@misconception("image_to_float", "Divides by the brightest pixel, so that a dark image is bright afterwards.")
def divides_by_the_brightest(image):
    return image.permute(2, 0, 1) / image.max()


@misconception("image_to_float", "Forgets to divide: the numbers run up to 255.")
def forgets_to_divide(image):
    return image.permute(2, 0, 1).float()


@misconception("image_to_float", "Leaves the colours last.")
def forgets_to_permute(image):
    return image / 255


@misconception("image_to_float", "Makes float64: float32 is due.")
def image_in_float64(image):
    return image.permute(2, 0, 1).double() / 255


# count_correct


@misconception("count_correct", "Returns a tensor: item() makes a Python number of it.")
def count_as_a_tensor(scores, labels):
    return (scores.argmax(dim=1) == labels).sum()


@misconception("count_correct", "Takes the best sample of each class: argmax runs along the wrong axis.")
def best_sample_of_a_class(scores, labels):
    best = scores.argmax(dim=0)
    n = min(len(best), len(labels))
    return (best[:n] == labels[:n]).sum().item()


@misconception("count_correct", "Gives the share, a number between 0 and 1; the count is due.")
def share_for_count(scores, labels):
    return (scores.argmax(dim=1) == labels).float().mean().item()


@misconception("count_correct", "Compares the highest scores themselves with the labels, not the classes that they belong to.")
def scores_for_classes(scores, labels):
    return (scores.max(dim=1).values == labels).sum().item()


@misconception("count_correct", "argmax without dim looks for the one highest score of the whole table.")
def argmax_of_the_whole_table(scores, labels):
    return (scores.argmax() == labels).sum().item()


@misconception("count_correct", "Counts the wrong ones.")
def counts_the_wrong_ones(scores, labels):
    return (scores.argmax(dim=1) != labels).sum().item()


@misconception("count_correct", "Takes a score above 0.5 for a yes: scores are no probabilities, and the highest one decides.")
def above_a_half(scores, labels):
    rows = torch.arange(len(labels))
    return (scores[rows, labels] > 0.5).sum().item()


@misconception("count_correct", "The count is a float: say int.")
def count_as_a_float(scores, labels):
    return (scores.argmax(dim=1) == labels).float().sum().item()


@misconception("count_correct", "A loop over range(len − 1): the last sample is not looked at.")
def forgets_the_last_sample(scores, labels):
    return sum(int(scores[i].argmax() == labels[i]) for i in range(len(labels) - 1))


@misconception("count_correct", "Compares classes in uint8: 256 becomes 0 there.")
def classes_in_bytes(scores, labels):
    return (scores.argmax(dim=1).to(torch.uint8) == labels.to(torch.uint8)).sum().item()


# ones_like_column


@misconception("ones_like_column", "Makes float32 whatever x is.")
def always_float32(x):
    return torch.ones(len(x), 1, device=x.device)


@misconception("ones_like_column", "Leaves the ones on the CPU, wherever x is.")
def ones_on_the_cpu(x):
    return torch.ones(len(x), 1, dtype=x.dtype)


@misconception("ones_like_column", "Makes a flat row of N ones, not a column of shape (N, 1).")
def ones_without_a_column(x):
    return torch.ones(len(x), dtype=x.dtype, device=x.device)


@misconception("ones_like_column", "Makes a table as large as x: one column is due.")
def ones_as_large_as_x(x):
    return torch.ones_like(x)


@misconception("ones_like_column", "Makes a single row of ones.")
def a_row_of_ones(x):
    return torch.ones(1, x.shape[0], dtype=x.dtype, device=x.device)


@misconception("ones_like_column", "Makes as many ones as x has columns, instead of rows.")
def as_many_as_columns(x):
    return torch.ones(x.shape[1], 1, dtype=x.dtype, device=x.device)


@misconception("ones_like_column", "Makes zeros.")
def a_column_of_zeros(x):
    return torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)


@misconception("ones_like_column", "Takes a column of x and sets it to 1: that is the caller's own table.")
def overwrites_a_column(x):
    column = x[:, :1]
    column.fill_(1)
    return column


# slope


@misconception("slope", "Makes an integer tensor of an int, and only floats can have gradients.")
def integers_have_no_slope(f, x):
    place = torch.tensor(x, requires_grad=True)
    f(place).backward()
    return place.grad.item()


@misconception("slope", "Takes the difference of two values: (f(x + h) − f(x)) / h loses digits.")
def difference_of_two_values(f, x):
    h = 1e-3
    return ((f(torch.tensor(x + h)) - f(torch.tensor(float(x)))) / h).item()


@misconception("slope", "Takes a symmetric difference in float64: nearer, but where f is large nothing is left of it.")
def symmetric_difference(f, x):
    h = 1e-5
    up, down = (torch.tensor(x + d, dtype=torch.float64) for d in (h, -h))
    return ((f(up) - f(down)) / (2 * h)).item()


@misconception("slope", "Returns the gradient as a tensor: a Python float is due.")
def slope_as_a_tensor(f, x):
    place = torch.tensor(float(x), requires_grad=True)
    f(place).backward()
    return place.grad


@misconception("slope", "Returns the value of f, not its slope.")
def value_for_slope(f, x):
    return f(torch.tensor(float(x))).item()


@misconception("slope", "Knows the slope of the example, x² + 2x, and gives it for every f.")
def slope_of_the_example(f, x):
    return 2.0 * x + 2.0


@misconception("slope", "Calls backward twice, so that the second gradient adds to the first.")
def gradients_add_up(f, x):
    place = torch.tensor(float(x), requires_grad=True)
    f(place).backward()
    f(place).backward()
    return place.grad.item()


@misconception("slope", "Forgets requires_grad=True: torch writes nothing down, and backward fails.")
def forgets_requires_grad(f, x):
    place = torch.tensor(float(x))
    f(place).backward()
    return place.grad.item()


@misconception("slope", "Rounds the place to a whole number to find the slope there.")
def slope_at_a_rounded_place(f, x):
    place = torch.tensor(float(int(x)), requires_grad=True)
    f(place).backward()
    return place.grad.item()


# gradient_step


@misconception("gradient_step", "w = w − … gives the name w to a new tensor: the caller's tensor stays as it was.")
def new_tensor_same_name(w, lr):
    w = w - lr * w.grad
    w.grad = None


@misconception("gradient_step", "Changes w in place while autograd records, which torch refuses.")
def without_no_grad(w, lr):
    w -= lr * w.grad
    w.grad = None


@misconception("gradient_step", "Leaves the gradient there: the next backward adds to it.")
def leaves_the_gradient(w, lr):
    with torch.no_grad():
        w -= lr * w.grad


@misconception("gradient_step", "Goes uphill: the gradient has to be subtracted.")
def goes_uphill(w, lr):
    with torch.no_grad():
        w += lr * w.grad
    w.grad = None


@misconception("gradient_step", "Fills the gradient with zeros; None is due.")
def zeros_for_none(w, lr):
    with torch.no_grad():
        w -= lr * w.grad
    w.grad.zero_()


@misconception("gradient_step", "Clears the gradient before it is used.")
def clears_too_early(w, lr):
    w.grad = None
    with torch.no_grad():
        w -= lr * (w.grad if w.grad is not None else 0)


@misconception("gradient_step", "Forgets the learning rate.")
def forgets_the_rate(w, lr):
    with torch.no_grad():
        w -= w.grad
    w.grad = None


@misconception("gradient_step", "Puts other memory under w: whoever holds the old numbers does not see the step.")
def other_memory(w, lr):
    w.data = w.data - lr * w.grad
    w.grad = None


@misconception("gradient_step", "Switches requires_grad off for the step and not on again: w can't learn any more.")
def freezes_w(w, lr):
    w.requires_grad_(False)
    w -= lr * w.grad
    w.grad = None


@misconception("gradient_step", "Takes `lr or 0.01`: a rate of 0 is a rate.")
def zero_is_no_rate(w, lr):
    with torch.no_grad():
        w -= (lr or 0.01) * w.grad
    w.grad = None


# fit_line


def _descend(x, y, steps, lr, *, clear=True, loss_of=lambda error: (error**2).mean(), start=0.0):
    a = torch.tensor(start, requires_grad=True)
    b = torch.tensor(start, requires_grad=True)
    for _ in range(steps):
        loss_of(a * x + b - y).backward()
        with torch.no_grad():
            a -= lr * a.grad
            b -= lr * b.grad
        if clear:
            a.grad = b.grad = None
    return a.item(), b.item()


@misconception("fit_line", "Never clears the gradients: those of all steps add up.")
def gradients_of_all_steps(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, clear=False)


@misconception("fit_line", "Takes the sum of the squares: the loss is their mean.")
def sum_of_squares(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, loss_of=lambda error: (error**2).sum())


@misconception("fit_line", "Forgets to square the errors.")
def mean_error(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, loss_of=lambda error: error.mean())


@misconception("fit_line", "Takes the errors' absolute values; the loss squares them.")
def absolute_errors(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, loss_of=lambda error: error.abs().mean())


@misconception("fit_line", "Halves the loss, as some books do: every step is half as long.")
def half_the_loss(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, loss_of=lambda error: 0.5 * (error**2).mean())


@misconception("fit_line", "Makes one step too few: range(1, steps) has steps − 1 numbers.")
def one_step_too_few(x, y, *, steps, lr):
    return _descend(x, y, steps - 1, lr)


@misconception("fit_line", "Makes one step too many.")
def one_step_too_many(x, y, *, steps, lr):
    return _descend(x, y, steps + 1, lr)


@misconception("fit_line", "Leaves b out: the line goes through 0 then.")
def line_through_zero(x, y, *, steps, lr):
    a = torch.tensor(0.0, requires_grad=True)
    for _ in range(steps):
        ((a * x - y) ** 2).mean().backward()
        with torch.no_grad():
            a -= lr * a.grad
        a.grad = None
    return a.item(), 0.0


@misconception("fit_line", "Begins at 1; both begin at 0.")
def begins_at_a_one(x, y, *, steps, lr):
    return _descend(x, y, steps, lr, start=1.0)


@misconception("fit_line", "Changes a first, and computes b's gradient from the new a.")
def one_after_the_other(x, y, *, steps, lr):
    a = b = 0.0
    for _ in range(steps):
        a -= lr * (2 * (a * x + b - y) * x).mean().item()
        b -= lr * (2 * (a * x + b - y)).mean().item()
    return a, b


@misconception("fit_line", "Returns tensors that still hang on the graph; two Python floats are due.")
def returns_tensors(x, y, *, steps, lr):
    a, b = _descend(x, y, steps, lr)
    return torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)


@misconception("fit_line", "Gives the exact solution, not the place that gradient descent has reached after these steps.")
def solves_exactly(x, y, *, steps, lr):
    centred = x - x.mean()
    a = ((centred * y).sum() / (centred * x).sum().clamp(min=1e-6)).item()
    return a, (y.mean() - a * x.mean()).item()


@misconception("fit_line", "Returns b before a.")
def b_before_a(x, y, *, steps, lr):
    a, b = _descend(x, y, steps, lr)
    return b, a


# make_model


@misconception("make_model", "Ends with a softmax: the loss function takes scores.")
def softmax_at_the_end(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes), nn.Softmax(dim=1))


@misconception("make_model", "Has no ReLU between the layers: two linear layers in a row are one.")
def two_linear_layers(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, classes))


@misconception("make_model", "Has a ReLU at the end too: no score could be negative.")
def relu_at_the_end(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes), nn.ReLU())


@misconception("make_model", "Has a sigmoid between the layers; a ReLU is due.")
def sigmoid_for_relu(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Sigmoid(), nn.Linear(hidden, classes))


@misconception("make_model", "Leaves the biases out.")
def without_biases(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, classes, bias=False))


@misconception("make_model", "Writes the sizes 784, 64 and 10 into the layers, whatever the caller asks for.")
def fixed_sizes(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


@misconception("make_model", "Is a single layer, from the inputs to the classes.")
def a_single_layer(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, classes))


@misconception("make_model", "Has one hidden layer too many.")
def three_layers(inputs=784, hidden=64, classes=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@misconception("make_model", "Starts with weights of 0: all hidden numbers would stay alike for ever.")
def starts_at_zero(inputs=784, hidden=64, classes=10):
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


# train_step


@misconception("train_step", "Never clears the gradients: those of earlier batches add up.")
def never_clears(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@misconception("train_step", "Makes the step before backward: with the gradients of the batch before, or with none.")
def step_before_backward(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()
    return loss.item()


@misconception("train_step", "Learns nothing: the step is missing, or the gradients are cleared before it.")
def clears_before_the_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@misconception("train_step", "Applies softmax before cross-entropy, which has one inside: it learns slowly and badly.")
def softmax_before_the_loss(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(torch.softmax(model(x), dim=1), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@misconception("train_step", "Returns the loss as a tensor, which keeps its graph in memory.")
def loss_kept_as_a_tensor(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@misconception("train_step", "Returns the loss from after the step.")
def loss_after_the_step(model, optimizer, x, y):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


@misconception("train_step", "Sums the losses of the batch: their mean is due, and the step grows with the batch.")
def sums_the_losses(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    loss.backward()
    optimizer.step()
    return loss.item()


@misconception("train_step", "Clears the gradients after the step only: what is there before the first one counts.")
def clears_afterwards(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@misconception("train_step", "Makes the step by hand with a rate of 0.1, instead of asking the optimizer.")
def step_by_hand(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return loss.item()


@misconception("train_step", "Takes the squared distance to the classes' numbers: cross-entropy is due.")
def squared_distance(model, optimizer, x, y):
    optimizer.zero_grad()
    scores = model(x)
    loss = F.mse_loss(scores, F.one_hot(y, scores.shape[1]).float())
    loss.backward()
    optimizer.step()
    return loss.item()


@misconception("train_step", "Switches to eval mode, in which batch norm and dropout don't train.")
def trains_in_eval_mode(model, optimizer, x, y):
    model.eval()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


# accuracy


@misconception(
    "accuracy", "Forgets eval mode, or sets it for the outermost module only: dropout drops inputs, and batch norm looks at the batch."
)
def without_eval_mode(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).sum().item() / len(y)


@misconception("accuracy", "Records a graph: .data only hides it, torch.no_grad() prevents it.")
def data_for_no_grad(model, x, y):
    was_training = model.training
    model.eval()
    correct = (model(x).data.argmax(dim=1) == y).sum().item()
    model.train(was_training)
    return correct / len(y)


@misconception("accuracy", "Leaves the model in eval mode: remember its mode before you switch, and put that back.")
def stays_in_eval_mode(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).sum().item() / len(y)


@misconception("accuracy", "Switches to training mode at the end, also for a model that was in eval mode.")
def always_back_to_training(model, x, y):
    model.eval()
    with torch.no_grad():
        correct = (model(x).argmax(dim=1) == y).sum().item()
    model.train()
    return correct / len(y)


@misconception("accuracy", "Gives the number of hits; the share is due.")
def count_for_share(model, x, y):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        correct = (model(x).argmax(dim=1) == y).sum().item()
    model.train(was_training)
    return float(correct)


@misconception("accuracy", "Returns a tensor; a Python float is due.")
def accuracy_as_a_tensor(model, x, y):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        share = (model(x).argmax(dim=1) == y).float().mean()
    model.train(was_training)
    return share


@misconception("accuracy", "Gives percent: a number between 0 and 1 is due.")
def in_percent(model, x, y):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        share = 100 * (model(x).argmax(dim=1) == y).float().mean().item()
    model.train(was_training)
    return share


@misconception("accuracy", "Switches recording off for good with torch.set_grad_enabled(False).")
def recording_stays_off(model, x, y):
    was_training = model.training
    model.eval()
    torch.set_grad_enabled(False)
    correct = (model(x).argmax(dim=1) == y).sum().item()
    model.train(was_training)
    return correct / len(y)


# save_model


@misconception("save_model", "Saves the model object, or the method state_dict without its brackets: torch.load refuses such a file.")
def saves_the_object(model, path):
    torch.save(model, path)


@misconception("save_model", "Saves the parameters only: what batch norm has counted is missing.")
def parameters_only(model, path):
    torch.save({name: p.detach() for name, p in model.named_parameters()}, path)


@misconception("save_model", "Saves a list of the parameters: without names nobody knows which is which.")
def a_list_of_parameters(model, path):
    torch.save(list(model.parameters()), path)


@misconception("save_model", "Adds .pt to the path: the file is not where it was asked for.")
def adds_an_ending(model, path):
    torch.save(model.state_dict(), f"{path}.pt")


@misconception("save_model", "Keeps a file that is already there, instead of overwriting it.")
def spares_an_old_file(model, path):
    if not os.path.exists(path):
        torch.save(model.state_dict(), path)


@misconception("save_model", "Always writes to model.pt in the same folder.")
def always_the_same_name(model, path):
    torch.save(model.state_dict(), os.path.join(os.path.dirname(path), "model.pt"))


@misconception("save_model", "Packs the state into another dict: its own keys are due at the top.")
def packs_the_state(model, path):
    torch.save({"model": model.state_dict()}, path)


# load_model


@misconception("load_model", "Only gives a name or a dict what torch.load returns: the caller's model stays as it was.")
def renames_only(model, path):
    model = torch.load(path)
    return model


@misconception("load_model", "Hands the path to load_state_dict, which wants a dict.")
def hands_over_the_path(model, path):
    model.load_state_dict(path)


@misconception("load_model", "Switches the checks off with strict=False: a file of another model is loaded in silence.")
def without_checks(model, path):
    model.load_state_dict(torch.load(path), strict=False)


@misconception("load_model", "Copies the parameters only: what batch norm has counted stays as it was.")
def loads_parameters_only(model, path):
    state = torch.load(path)
    names = dict(model.named_parameters())
    if any(name not in state for name in names) or any(name not in model.state_dict() for name in state):
        raise RuntimeError("does not fit")
    with torch.no_grad():
        for name, p in names.items():
            p.copy_(state[name])


@misconception("load_model", "Swallows the error of a file that doesn't fit.")
def swallows_the_error(model, path):
    try:
        model.load_state_dict(torch.load(path))
    except RuntimeError:
        pass


@misconception("load_model", "Reads the file and copies the first tensor only.")
def the_first_tensor_only(model, path):
    state = torch.load(path)
    if state.keys() != model.state_dict().keys():
        raise RuntimeError("does not fit")
    name = next(iter(state))
    with torch.no_grad():
        model.state_dict()[name].copy_(state[name])


@misconception("load_model", "Switches to eval mode after loading: nobody asked for it, and training would go on without dropout.")
def evaluates_after_loading(model, path):
    model.load_state_dict(torch.load(path))
    model.eval()


# first_classifier


def _fit(images, labels, *, steps=100):
    model = nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("first_classifier", "Shuffles the images and leaves the labels in their order: no image has its own label any more.")
def shuffles_images_alone(images, labels):
    return _fit(images[torch.randperm(len(images))], labels)


@misconception("first_classifier", "Makes a new network and a new optimizer in every step: nothing is kept.")
def begins_anew_in_each_step(images, labels):
    for _ in range(20):
        state = _fit(images, labels, steps=1)
    return state


@misconception("first_classifier", "Returns the model, or a list of its parameters; its state_dict() is due.")
def returns_the_model(images, labels):
    model = nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    model.load_state_dict(_fit(images, labels))
    return model


@misconception("first_classifier", "Builds the network with 128 hidden numbers instead of 64: the weights don't fit.")
def another_network(images, labels):
    model = nn.Sequential(nn.Linear(images.shape[1], 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("first_classifier", "Learns with plain SGD and a rate of 0.01: a hundred such steps lead nowhere.")
def creeps(images, labels):
    model = nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("first_classifier", "Gives the optimizer the parameters of another network.")
def optimizer_of_another_network(images, labels):
    model, other = (nn.Sequential(nn.Linear(images.shape[1], 64), nn.ReLU(), nn.Linear(64, 10)) for _ in range(2))
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("first_classifier", "Expects images of 8×8 pixels.")
def always_64_pixels(images, labels):
    return _fit(images.reshape(-1, 64), labels)


@misconception("first_classifier", "Has an nn.Flatten in front: the layers' numbers, and so the keys, are others then.")
def flattens_first(images, labels):
    return {f"{int(name[0]) + 1}{name[1:]}": value for name, value in _fit(images, labels).items()}
