"""The embedded model, for real: built from packages, works as any VLM, exact round trip, answers as recorded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textanchor.data.tasks import load_items
from textanchor.errors import ModelError
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.vlm.embedded import alignment_record, embedded_folder, load_embedded

CONTENT = [{"type": "image"}, {"type": "text", "text": "How many objects are in the image?"}]
QUESTION = [{"role": "user", "content": CONTENT}]


@pytest.fixture(scope="module")
def embedded():
    return load_embedded()


def inputs_of(processor):
    item = load_items("count", split="test", num_items=1)[0]
    text = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    return processor(images=item.image, text=text, return_tensors="pt"), item


def test_processor_and_generate_work_as_for_any_vlm(embedded):
    model, processor = embedded
    inputs, item = inputs_of(processor)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 16
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(answer, skip_special_tokens=True).strip() == item.answer


def test_the_processor_normalises_as_the_tower_was_trained(embedded):
    _, processor = embedded
    inputs, item = inputs_of(processor)
    pixels = torch.tensor(list(item.image.tobytes())).view(224, 224, 3).permute(2, 0, 1)
    torch.testing.assert_close(inputs["pixel_values"][0], (pixels - 127) / 128, rtol=0, atol=1e-5)


def test_round_trip_is_exact_in_a_new_process(embedded, tmp_path: Path):
    model, processor = embedded
    inputs, _ = inputs_of(processor)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    script = (
        "import sys, json, torch, textanchor.vlm.efficientnet_tower\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "from textanchor.data.tasks import load_items\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1])\n"
        "text = processor.apply_chat_template(json.loads(sys.argv[2]), add_generation_prompt=True)\n"
        "image = load_items('count', split='test', num_items=1)[0].image\n"
        "with torch.no_grad():\n"
        "    logits = model(**processor(images=image, text=text, return_tensors='pt')).logits[0, -1]\n"
        "torch.save(logits, sys.argv[3])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(QUESTION), str(tmp_path / "logits.pt")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), logits)


def test_a_damaged_cache_is_named_with_the_way_out(embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = embedded_folder()
    shutil.copytree(folder, tmp_path / folder.name, copy_function=shutil.copy2)
    monkeypatch.setenv("TEXTANCHOR_CACHE", str(tmp_path))
    with (tmp_path / folder.name / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged.*delete"):
        load_embedded()


@pytest.mark.parametrize("task", ["existence", "shape", "color", "position", "count"])
def test_the_shipped_alignment_answers_as_its_record_says(embedded, task: str):
    model, processor = embedded
    items = load_items(task, split="test", num_items=60)
    scores = score_candidates(model, processor, items)
    accuracy = sum(score.best == item.answer for score, item in zip(scores, items, strict=True)) / len(items)
    recorded = alignment_record()["scores"]["tasks"][task]["accuracy"]["estimate"]
    assert abs(accuracy - recorded) < 0.15  # three standard errors of 60 items around .85
