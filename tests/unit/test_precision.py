"""The number format follows what the device computes faster; what is asked for is obeyed, and what is kept is kept."""

import logging

import pytest
import torch
from torch import nn

from textanchor.vlm import precision
from textanchor.vlm.precision import choose_precision, computing_in, linear_shapes, product_speeds


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the machine is said to do; changed by a test."""
    found = {"float32": 100.0, "bfloat16": 400.0}
    monkeypatch.setattr(precision, "product_speeds", lambda device, shapes: dict(found))
    return found


@pytest.mark.parametrize(
    ("bfloat16", "used"),
    [(400.0, "bfloat16"), (126.0, "bfloat16"), (125.0, "float32"), (100.0, "float32"), (12.0, "float32")],
)
def test_auto_takes_bfloat16_where_it_pays(speeds: dict[str, float], bfloat16: float, used: str) -> None:
    speeds["bfloat16"] = bfloat16
    assert choose_precision(nn.Linear(3, 2), "auto").used == used


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_used_and_a_slow_choice_is_told(
    speeds: dict[str, float], asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    speeds["bfloat16"] = 12.5
    with caplog.at_level(logging.INFO):
        chosen = choose_precision(nn.Linear(3, 2), asked)  # pyright: ignore[reportArgumentType]
    assert chosen.used == asked and chosen.bfloat16 == (asked == "bfloat16")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == (asked == "bfloat16")
    assert all("8.0 times as long as in float32" in text for text in warned)
    assert "float32 100, bfloat16 12" in caplog.records[0].getMessage()


def test_auto_keeps_to_what_it_is_compared_with(speeds: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    speeds["bfloat16"] = 20.0
    assert choose_precision(nn.Linear(3, 2), "auto", keep="bfloat16").used == "bfloat16"
    assert "bfloat16 is kept to, in which products on this cpu take 5.0 times as long" in caplog.text
    assert choose_precision(nn.Linear(3, 2), "float32", keep="bfloat16").used == "float32"


def test_the_record_says_what_was_chosen_and_why(speeds: dict[str, float]) -> None:
    record = choose_precision(nn.Linear(3, 2), "auto").record()
    assert record == {"asked": "auto", "used": "bfloat16", "device": "cpu", "gflops": speeds}


def test_real_products_of_the_largest_shapes_are_timed_once() -> None:
    model = nn.Sequential(*[nn.Linear(8, 64) for _ in range(2)], nn.Linear(30, 30), nn.Linear(4, 4), nn.Linear(5, 5))
    shapes = linear_shapes(model)
    assert shapes == ((64, 8), (30, 30), (5, 5))
    product_speeds.cache_clear()
    found = product_speeds("cpu", shapes)
    assert set(found) == {"float32", "bfloat16"} and all(speed > 0 for speed in found.values())
    assert product_speeds("cpu", shapes) is found and product_speeds.cache_info().hits == 1


def test_a_model_without_linears_has_shapes_to_time() -> None:
    assert linear_shapes(nn.Conv2d(3, 4, 1)) == ((256, 256),)


def test_computing_in_a_format_rounds_only_under_bfloat16() -> None:
    linear, x = nn.Linear(3, 2), torch.randn(4, 3)
    with computing_in("float32", x.device):
        assert linear(x).dtype == torch.float32
    with computing_in("bfloat16", x.device):
        assert linear(x).dtype == torch.bfloat16
