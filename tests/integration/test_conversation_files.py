"""Conversation files as others publish them."""

import shutil

from textanchor.data.conversations import read_conversations
from textanchor.data.items import open_image


def test_llava_json_with_several_turns_and_text_only(shared_data):
    conversations = read_conversations(shared_data / "interface_llava" / "llava_format.json")
    assert len(conversations) == 290
    assert sum(len(conversation.turns) == 4 for conversation in conversations) == 30
    assert sum(not conversation.images for conversation in conversations) == 20
    assert all(c.turns[0].question.startswith("<image>") for c in conversations if c.images)
    assert open_image(conversations[0].images[0]).mode == "RGB"


def test_sharegpt_messages_with_several_images(shared_data, tmp_path):
    source = shared_data / "interface_llava"
    # its paths begin with the folder's published name
    shutil.copytree(source / "llamafactory_mllm_demo_data", tmp_path / "mllm_demo_data")
    conversations = read_conversations(source / "llamafactory_mllm_demo.json", tmp_path)
    assert [len(conversation.images) for conversation in conversations] == [2, 1, 1, 2, 1, 1]
    assert conversations[0].turns[1].question == "What are they doing?<image>"
    assert conversations[0].turns[1].answer == "They are celebrating on the soccer field."
