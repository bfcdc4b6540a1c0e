"""find_parts and capture on well-known families: what the paths mean is checked by running the model."""

import pytest
import torch

from helpers.tiny_families import TINY
from helpers.tiny_models import IMAGE, tiny_inputs, tiny_vlm
from textanchor.vlm.capture import capture_inputs, capture_outputs, capture_projector, token_mask, visual_token_ids
from textanchor.vlm.names import is_within
from textanchor.vlm.parts import find_parts

TOWER, TEXT, PROJECTOR = "model.vision_tower", "model.language_model", "model.multi_modal_projector"
TWO_LAYERS = {f"{PROJECTOR}.linear_1": (32, 24), f"{PROJECTOR}.linear_2": (32, 32)}
MERGER = "model.visual.merger"

# family -> tower, language model, projector linears (out, in), further projector tensors
EXPECTED = {
    "llava": (TOWER, TEXT, TWO_LAYERS, set()),
    "llava_next": (TOWER, TEXT, TWO_LAYERS, {"model.image_newline"}),
    "llava_onevision": (TOWER, TEXT, TWO_LAYERS, {"model.image_newline"}),
    "vipllava": (
        TOWER,
        TEXT,
        {f"{PROJECTOR}.linear_1": (32, 48), f"{PROJECTOR}.linear_2": (32, 32)},
        {f"{PROJECTOR}.projector_layernorm.weight", f"{PROJECTOR}.projector_layernorm.bias"},
    ),
    "qwen2_vl": (
        "model.visual",
        TEXT,
        {f"{MERGER}.mlp.0": (128, 128), f"{MERGER}.mlp.2": (32, 128)},
        {f"{MERGER}.ln_q.weight", f"{MERGER}.ln_q.bias"},
    ),
    "qwen2_5_vl": (
        "model.visual",
        TEXT,
        {f"{MERGER}.mlp.0": (128, 128), f"{MERGER}.mlp.2": (32, 128)},
        {f"{MERGER}.ln_q.weight"},
    ),
    "qwen3_vl": (
        "model.visual",
        TEXT,
        {
            f"{branch}.linear_{layer}": shape
            for branch in ("model.visual.deepstack_merger_list.0", MERGER)
            for layer, shape in (("fc1", (128, 128)), ("fc2", (32, 128)))
        },
        {
            f"{branch}.norm.{tensor}"
            for branch in ("model.visual.deepstack_merger_list.0", MERGER)
            for tensor in ("weight", "bias")
        },
    ),
    "idefics3": (
        "model.vision_model",
        "model.text_model",
        {"model.connector.modality_projection.proj": (32, 96)},
        set(),
    ),
    "smolvlm": (
        "model.vision_model",
        "model.text_model",
        {"model.connector.modality_projection.proj": (32, 96)},
        set(),
    ),
    "internvl": (
        TOWER,
        TEXT,
        {f"{PROJECTOR}.linear_1": (32, 96), f"{PROJECTOR}.linear_2": (32, 32)},
        {f"{PROJECTOR}.layer_norm.weight", f"{PROJECTOR}.layer_norm.bias"},
    ),
    "paligemma": (TOWER, TEXT, {f"{PROJECTOR}.linear": (32, 24)}, set()),
    "gemma3": (TOWER, TEXT, {}, {f"{PROJECTOR}.mm_input_projection_weight", f"{PROJECTOR}.mm_soft_emb_norm.weight"}),
    "mllama": ("model.vision_model", TEXT, {PROJECTOR: (32, 64)}, set()),
}
families = pytest.mark.parametrize("name", sorted(TINY))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_paths_shapes_and_every_tensor_of_the_projector(name):
    parts = find_parts(tiny_vlm(name))
    tower, text, linears, further = EXPECTED[name]
    assert (parts.vision_tower, parts.language_model, parts.input_embedding) == (tower, text, f"{text}.embed_tokens")
    assert {path: tuple(linear.weight.shape) for path, linear in parts.projector_linears().items()} == linears
    of_linears = {
        f"{path}.{n}" for path, layer in parts.projector_linears().items() for n, _ in layer.named_parameters()
    }
    assert set(parts.projector_tensors) == of_linears | further


@pytest.mark.parametrize("name", ["blip_2", "instructblip"])
def test_language_model_is_the_whole_one_also_where_the_lookup_gives_its_decoder(name):
    parts = find_parts(tiny_vlm(name))
    assert (parts.language_model, parts.output_head) == ("language_model", "language_model.lm_head")
    assert parts.input_embedding == "language_model.model.decoder.embed_tokens"


@families
def test_every_parameter_belongs_to_exactly_one_part_and_the_rest_is_listed(name):
    model = tiny_vlm(name)
    parts = find_parts(model)
    members = [parts.parameters_of(part) for part in ("vision_tower", "projector", "language_model", "other")]
    names = [name for part in members for name in part]
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _ in model.named_parameters()}
    assert tuple(members[3]) == parts.other_tensors
    assert bool(parts.other_tensors) == (name == "janus")  # the one that also generates images


@families
def test_freezing_the_tower_leaves_every_tensor_of_the_projector_in_training(name):
    model = tiny_vlm(name)
    parts = find_parts(model)
    for parameter in parts.parameters_of("vision_tower").values():
        parameter.requires_grad_(False)
    model(**tiny_inputs(name)).logits.square().sum().backward()
    assert [path for path, parameter in parts.parameters_of("projector").items() if parameter.grad is None] == []


@families
def test_what_leaves_the_projector_is_what_the_language_model_reads_at_the_image(name):
    if name in ("mllama", "florence2"):
        pytest.skip("visual tokens enter by cross-attention, not among the input embeddings")
    model, inputs = tiny_vlm(name), tiny_inputs(name)
    parts = find_parts(model)
    embeddings, visual = [], []
    language_model = parts.module(parts.language_model)
    handle = language_model.register_forward_pre_hook(
        lambda _, args, kwargs: embeddings.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    with torch.no_grad():
        capture_outputs(
            model, [parts.projector_output], lambda: model(**inputs), lambda _, states: visual.append(states)
        )
    handle.remove()
    at_image_ND, visual_MD = embeddings[0][inputs["input_ids"] == IMAGE], torch.cat(visual)
    # tiling models add their newline between the rows, so: every visual token is found at some image position
    distance_M = (at_image_ND[:, None] - visual_MD).abs().amax(dim=-1).amin(dim=0)
    assert distance_M.max() < 1e-6


@families
def test_linears_of_the_projector_are_listed_in_the_order_they_run(name):
    model, inputs = tiny_vlm(name), tiny_inputs(name)
    parts, order = find_parts(model), []
    handles = [
        linear.register_forward_pre_hook(lambda _, args, path=path: order.append(path))
        for path, linear in parts.projector_linears().items()
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    listed = list(parts.projector_linears())
    if name == "instructblip":  # question and queries pass through two branches side by side
        assert (sorted(order), order[-1]) == (sorted(listed), listed[-1])
    else:
        assert order == listed


@families
def test_what_enters_and_leaves_the_projector_is_streamed(name):
    model, inputs, widths = tiny_vlm(name), tiny_inputs(name), {}
    parts = find_parts(model)
    with torch.no_grad():
        capture_projector(parts, lambda: model(**inputs), lambda side, states: widths.update({side: states.shape[1]}))
    assert widths["outputs"] == parts.embedding_width()
    entry = parts.module(parts.projector_input)
    assert widths["inputs"] == getattr(entry, "in_features", widths["inputs"])


@families
def test_text_states_of_every_linear_of_the_language_model(name):
    model, inputs = tiny_vlm(name), tiny_inputs(name)
    parts, shapes = find_parts(model), {}
    linears = parts.text_linears()
    if name in ("mllama", "florence2"):  # layers that read visual tokens or another sequence: no mask fits these
        linears = {
            path: linear for path, linear in linears.items() if "cross_attn" not in path and "decoder" not in path
        }
    mask_BL = token_mask(inputs, "text", visual_token_ids(model))
    with torch.no_grad():
        sources = capture_inputs(
            model,
            linears,
            lambda: model(**inputs),
            lambda path, states: shapes.update({path: tuple(states.shape)}),
            token_mask=mask_BL,
        )
    assert set(sources) == set(linears) and all(is_within(path, parts.language_model) for path in linears)
    assert {path: shapes[source] for path, source in sources.items()} == {
        path: (int(mask_BL.sum()), linear.in_features) for path, linear in linears.items()
    }
    assert len(shapes) < len(linears)  # query, key and value share one capture at least
