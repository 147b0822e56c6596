"""The model ``transformer``: a pretrained encoder, fine-tuned end to end.

One training row in sixteen is left out, by the hash of its text: for early stopping, calibration and the choice of
int8. What is registered has seen neither these rows nor the held-out ones, so that the held-out figures are its own.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from sentiment_model.encoder import TOKENIZER, Tokens
from training.models.base import Trained
from training.models.encoder import PACKAGES, Classifier, Network, export
from training.models.fine_tuning import FineTuning, checkpoint
from training.models.pretrained import load
from training.models.validation import judge, validation_rows
from training.parameters import Transformer
from training.steps import step

DROPOUT = 0.1


def train(table: pd.DataFrame, parameters: Transformer) -> Trained:
    """Fine-tune, export to ONNX, calibrate; judge what is exported on the rows that were not fitted on."""
    left_out = validation_rows(table)
    network = fine_tune(table, left_out, parameters)
    trained = judge(network.scorer, network.folder, network.recipe, PACKAGES, table, left_out)
    return replace(trained, weights=network.weights)


def fine_tune(table: pd.DataFrame, left_out: np.ndarray, parameters: Transformer) -> Network:
    """Fine-tune on the training rows but those of validation; export to ONNX, calibrate.

    Parameters
    ----------
    table : DataFrame
    left_out : ndarray of bool of shape (n_rows,)
        Its :func:`training.models.validation.validation_rows`.
    parameters : Transformer
    """
    with step("features", f"tokens of {len(table):,} reviews, weights {parameters.weights}"):
        seen = (table["split"] == "train").to_numpy() & ~left_out
        encoder, tokenizer = load(parameters.weights, parameters.max_tokens)
        made = TemporaryDirectory(prefix="transformer-")
        tokenizer.backend_tokenizer.save(str(Path(made.name, TOKENIZER)))
        tokens = Tokens(Path(made.name, TOKENIZER), parameters.max_tokens)
        rows, unseen = tokens(table["review"][seen]), tokens(table["review"][left_out])
    y = (table["sentiment"] == "positive").to_numpy()
    classifier = classifier_of(encoder, parameters.seed)
    size = sum(parameter.numel() for parameter in classifier.parameters()) / 1e6
    with checkpoint(table, parameters) as kept:  # until it is exported
        with step("fit", f"fine-tuning {size:.1f} million parameters on {seen.sum():,} reviews"):
            tuning = FineTuning(classifier, tokens, parameters, kept)
            tuning.run(rows, y[seen], list(map(tokens.cut, unseen)), y[left_out])
        with step("export", "ONNX, calibration, int8"):
            exported = export(
                classifier, parameters.max_tokens, table[left_out], parameters.precision, Path(made.name)
            )
    weights = TemporaryDirectory(prefix="weights-")
    encoder.save_pretrained(weights.name)
    tokenizer.save_pretrained(weights.name)
    return Network(
        folder=made,
        scorer=exported.scorer,
        recipe=recipe(parameters, size, tuning.steps, exported.precision),
        weights=weights,
    )


def recipe(parameters: Transformer, size: float, steps: int, precision: str) -> str:
    """Return what the model is, in a sentence."""
    return (
        f"A pretrained encoder of {size:.1f} million parameters (weights {parameters.weights}) with a linear classifier on the mean "
        f"of its last hidden states, fine-tuned end to end: {steps:,} steps of {parameters.batch_size} texts, AdamW with "
        f"learning rate {parameters.learning_rate:g}, at most {parameters.max_tokens} tokens of a text, a quarter of its head and "
        f"the rest of its tail; {precision} in ONNX Runtime; calibration by length on rows left out of "
        f"fitting; seed {parameters.seed}."
    )


def classifier_of(encoder: PreTrainedModel, seed: int) -> Classifier:
    """Return an encoder with a linear head on top, drawn at random."""
    torch.manual_seed(seed)
    linear = nn.Linear(encoder.config.hidden_size, 1)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return Classifier(encoder, nn.Sequential(nn.Dropout(DROPOUT), linear))
