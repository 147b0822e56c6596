"""What the tests of training share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a transformer of two small layers, as `save_pretrained` writes them, and the tokenizer of MiniLM."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from training.encoder import find_weights

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(small).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_weights("minilm")).save_pretrained(folder)
    return folder
