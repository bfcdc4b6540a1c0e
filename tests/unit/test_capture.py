"""What capture streams, on modules small enough to know the answer; and names inside PEFT's wrappers."""

import pytest
import torch
from torch import nn

from textanchor.errors import ModelError
from textanchor.vlm.capture import capture_inputs, capture_outputs, token_mask, visual_token_ids
from textanchor.vlm.names import base_modules, base_parameters, is_within, name_of


class Block(nn.Module):
    """Query and key read one tensor; gate reads it too, but after a change in place; unused is never called."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.gate = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 4)
        self.unused = nn.Linear(3, 1)

    def forward(self, *, x, change=False):
        q, k = self.query(x), self.key(input=x)
        if change:
            x += 1
        return q, k, self.gate(x)


def run_capture(names, mask=None, **arguments):
    block, seen = Block(), []
    x_BLD = torch.arange(12.0).reshape(2, 2, 3)
    with torch.no_grad():
        sources = capture_inputs(
            block,
            names,
            lambda: block(x=x_BLD, **arguments),
            lambda name, states_ND: seen.append((name, states_ND.clone())),
            token_mask=mask,
        )
    return sources, seen


def test_modules_that_receive_one_tensor_share_one_capture():
    sources, seen = run_capture(["gate", "key", "query", "unused"])
    assert sources == {"query": "query", "key": "query", "gate": "query"}
    assert [name for name, _ in seen] == ["query"]
    torch.testing.assert_close(seen[0][1], torch.arange(12.0).reshape(4, 3))


def test_a_change_in_place_ends_the_sharing():
    sources, seen = run_capture(["query", "key", "gate"], change=True)
    assert sources == {"query": "query", "key": "query", "gate": "gate"}
    torch.testing.assert_close(seen[1][1], seen[0][1] + 1)


def test_inference_tensors_are_never_taken_as_shared():
    block, x_BLD = Block(), None
    with torch.inference_mode():
        x_BLD = torch.ones(1, 2, 3)
        sources = capture_inputs(block, ["query", "key"], lambda: block(x=x_BLD), lambda *_: None)
    assert sources == {"query": "query", "key": "key"}


def test_a_new_tensor_at_an_old_address_is_not_shared():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    pair = nn.ModuleDict({"first": first, "second": second})

    def run():
        for module in (first, second):
            x_ND = torch.randn(4, 3)  # the second often takes the address of the first
            module(x_ND)
            del x_ND

    with torch.no_grad():
        assert capture_inputs(pair, ["first", "second"], run, lambda *_: None) == {"first": "first", "second": "second"}


def test_the_mask_selects_tokens_in_order():
    mask_BL = torch.tensor([[True, True], [False, True]])
    _, seen = run_capture(["query"], mask_BL)
    torch.testing.assert_close(seen[0][1], torch.tensor([[0.0, 1, 2], [3, 4, 5], [9, 10, 11]]))


def test_a_mask_that_does_not_fit_is_an_error():
    with pytest.raises(ModelError, match=r"query: its states \(2, 2, 3\) do not fit the token mask \(1, 3\)"):
        run_capture(["query"], torch.ones(1, 3, dtype=torch.bool))


def test_unknown_module_is_an_error():
    with pytest.raises(ModelError, match="no module missing"):
        run_capture(["query", "missing"])


def test_a_module_that_shares_in_one_call_only_is_an_error():
    block = Block()

    def run():
        x = torch.ones(1, 1, 3)
        block(x=x)
        block.key(torch.zeros(1, 1, 3))

    with torch.no_grad(), pytest.raises(ModelError, match="key: its inputs are those of 'query' in one call"):
        capture_inputs(block, ["query", "key"], run, lambda *_: None)


def test_hooks_are_removed_after_success_and_after_an_error():
    block = Block()

    def fail(*_):
        raise RuntimeError("stop")

    for consume in (lambda *_: None, fail):
        for capture in (capture_inputs, capture_outputs):
            try:
                capture(block, ["query", "gate"], lambda: block(x=torch.ones(1, 1, 3)), consume)
            except RuntimeError as error:
                assert str(error) == "stop"
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def test_outputs_are_detached_and_of_several_the_first():
    block, seen = Block(), []
    capture_outputs(block, ["", "query"], lambda: block(x=torch.ones(1, 1, 3)), lambda n, s: seen.append((n, s)))
    assert [(name, tuple(states.shape)) for name, states in seen] == [("query", (1, 2)), ("", (1, 2))]
    assert not any(states.requires_grad for _, states in seen)


def test_token_mask_drops_padding_and_tells_text_from_image():
    inputs = {"input_ids": torch.tensor([[0, 5, 9, 6]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
    assert token_mask(inputs, "all", [9]).tolist() == [[False, True, True, True]]
    assert token_mask(inputs, "text", [9]).tolist() == [[False, True, False, True]]
    assert token_mask(inputs, "visual", [9]).tolist() == [[False, False, True, False]]
    assert token_mask({"input_ids": inputs["input_ids"]}, "text", [9]).tolist() == [[True, True, False, True]]


def test_model_without_image_token_says_what_to_set():
    with pytest.raises(ModelError, match=r"set model.config.image_token_id"):
        visual_token_ids(nn.Linear(1, 1))


def test_names_of_a_plain_model_are_those_of_torch():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    model[1][0].weight = model[0].weight  # tied
    assert list(base_modules(model)) == [name for name, _ in model.named_modules()]
    assert list(base_parameters(model)) == [name for name, _ in model.named_parameters()]
    assert name_of(model, model[1][0]) == "1.0" and name_of(model, nn.ReLU()) is None


def test_paths_end_at_dots():
    assert is_within("model.layers.1.weight", "model.layers.1") and is_within("head", ("other", "head"))
    assert not is_within("model.layers.10.weight", "model.layers.1")
    assert is_within("anything", "")
