"""Examples for the module quantize_and_serve. Run one task's with `pytest tests/public -k pack_model`."""

import base64
import json

import pytest
import safetensors
import safetensors.torch
import torch
from quantize_and_serve import RequestHandler, TicketBatcher, pack_model, quantize_weights, train_sparse_digits
from torch.testing import assert_close


def bars(n):
    """Pictures of 4×4 pixels with a bright row, and which row it is."""
    labels = torch.arange(n) % 4
    images = 0.3 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(n))
    images[torch.arange(n), 0, labels] += 0.6
    return images, labels


def test_train_sparse_digits_learns_with_few_weights():
    """160 of 640 weights are enough to tell which row of a picture is bright."""
    weights = train_sparse_digits(*bars(200), classes=4, keep=160, seed=0)
    assert list(weights) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert sum(int((weights[name] != 0).sum()) for name in ("1.weight", "3.weight")) <= 160
    images, labels = bars(80)
    h = torch.relu(images.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
    predicted = (h @ weights["3.weight"].T + weights["3.bias"]).argmax(1)
    assert (predicted == labels).float().mean() > 0.9


def test_quantize_weights_of_two_rows():
    """The scales are 12.7 / 127 = 0.1 and 1 / 127; a row of zeros has the scale 1; the bias stays as it is."""
    weight = torch.tensor([[12.7, -3.3, 0.0], [0.5, 1.0, -0.25], [0.0, 0.0, 0.0]])
    quantized = quantize_weights({"fc.weight": weight, "fc.bias": torch.tensor([1.5, -2.5, 3.5])})
    assert sorted(quantized) == ["fc.bias", "fc.weight", "fc.weight.scale"]
    assert_close(quantized["fc.weight"], torch.tensor([[127, -33, 0], [64, 127, -32], [0, 0, 0]], dtype=torch.int8))
    assert_close(quantized["fc.weight.scale"], torch.tensor([0.1, 1 / 127, 1.0]))
    assert_close(quantized["fc.bias"], torch.tensor([1.5, -2.5, 3.5]))


def test_pack_model_leaves_zeros_out(tmp_path):
    """The example of the statement, next to a tensor that is written as it is."""
    weight = torch.tensor([[0, 5, 0, 0], [0, 0, 0, -3]], dtype=torch.int8)
    pack_model(tmp_path / "model", {"w": weight, "b": torch.tensor([0.0, 1.0])}, ["no", "yes"])
    tensors = safetensors.torch.load_file(tmp_path / "model")
    assert sorted(tensors) == ["b", "w.bits", "w.values"]
    assert tensors["w.bits"].tolist() == [130]
    assert tensors["w.values"].tolist() == [5, -3]
    with safetensors.safe_open(tmp_path / "model", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "sparse-int8"
    assert json.loads(metadata["labels"]) == ["no", "yes"]
    assert json.loads(metadata["shapes"]) == {"w": [2, 4]}


def test_pack_model_keeps_the_folder_clean(tmp_path):
    """A tensor with NaN is refused, and leaves no file; afterwards, there is one."""
    with pytest.raises(ValueError):
        pack_model(tmp_path / "model", {"w": torch.tensor([float("nan")])}, ["a"])
    assert list(tmp_path.iterdir()) == []
    pack_model(tmp_path / "model", {"w": torch.ones(3, 2).T}, ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def tiny_handler(folder):
    """One layer without zeros: the logit of "dark" is 0, that of "bright" x₀ + x₁ − 1."""
    tensors = {
        "1.weight.bits": torch.tensor([0b1100], dtype=torch.uint8),
        "1.weight.values": torch.tensor([100, 100], dtype=torch.int8),
        "1.weight.scale": torch.tensor([1.0, 0.01]),
        "1.bias": torch.tensor([0.0, -1.0]),
    }
    metadata = {"format": "sparse-int8", "labels": '["dark", "bright"]', "shapes": '{"1.weight": [2, 2]}'}
    safetensors.torch.save_file(tensors, folder / "model", metadata)
    return RequestHandler(folder / "model")


def request(name, *pixels):
    """A good request."""
    return json.dumps({"id": name, "pixels": base64.b64encode(bytes(pixels)).decode()}).encode()


def test_RequestHandler_answers(tmp_path):
    """Pixels 255 and 255 make the logits 0 and 1; black makes 0 and −1."""
    white, black = tiny_handler(tmp_path).handle([request("a", 255, 255), request("b", 0, 0)])
    assert (white["id"], white["label"], black["id"], black["label"]) == ("a", "bright", "b", "dark")
    assert abs(white["probability"] - 0.731059) < 1e-5
    assert abs(black["probability"] - 0.731059) < 1e-5


def test_RequestHandler_survives_bad_requests(tmp_path):
    """Each bad request gets an answer at its place, and the good one its own."""
    requests = [b"hello", request("few", 1), request("good", 255, 255), b'{"pixels": "AAA="}']
    answers = tiny_handler(tmp_path).handle(requests)
    assert answers[0] == {"id": None, "error": "json"}
    assert answers[1] == {"id": "few", "error": "pixels"}
    assert answers[2]["label"] == "bright"
    assert answers[3] == {"id": None, "error": "id"}


def squares(requests):
    """The square of each request, and how many there are."""
    return [(x * x, len(requests)) for x in requests]


def test_TicketBatcher_fills_batches():
    """The third request completes a batch of three; the fourth waits until its time is over."""
    now = [0]
    batcher = TicketBatcher(squares, max_size=3, max_wait=10, clock=lambda: now[0])
    tickets = [batcher.submit(x) for x in (2, 3, 4, 5)]
    assert tickets == [0, 1, 2, 3]
    assert [batcher.result(ticket) for ticket in (2, 0, 1)] == [(16, 3), (4, 3), (9, 3)]
    assert batcher.deadline() == 10
    with pytest.raises(RuntimeError):
        batcher.result(3)
    now[0] = 9
    assert batcher.poll() == 0
    now[0] = 10
    assert batcher.poll() == 1
    assert batcher.result(3) == (25, 1)
    assert batcher.deadline() is None


def test_TicketBatcher_isolates_errors():
    """A request that can't be squared fails alone."""
    batcher = TicketBatcher(squares, max_size=3, max_wait=10, clock=lambda: 0)
    for x in (2, "two", 4):
        batcher.submit(x)
    assert (batcher.result(0), batcher.result(2)) == ((4, 1), (16, 1))
    with pytest.raises(TypeError):
        batcher.result(1)
