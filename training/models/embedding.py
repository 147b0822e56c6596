"""The model ``embedding``: a frozen sentence encoder, and a small classifier of scikit-learn on its vectors.

The classifier becomes the head of the network: what is exported is one ONNX graph, as that of a fine-tuned encoder.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from sentiment_model.encoder import TOKENIZER, Tokens
from training.models.base import Trained
from training.models.encoder import PACKAGES, Classifier, device, embeddings, export, failures_told
from training.models.pretrained import load
from training.models.validation import judge, validation_rows
from training.parameters import Embedding
from training.steps import step

HIDDEN, ALPHA, ITERATIONS = 64, 3.0, 100  # of the deep head: units, L2 penalty, most passes
DEAD = 1e-6
STRENGTHS = np.logspace(-4, 1, 6)  # of which cross-validation chooses, for logistic regression


def train(table: pd.DataFrame, parameters: Embedding) -> Trained:
    """Embed the training rows but those of validation, fit the head, export to ONNX, calibrate; judge what is exported."""
    left_out = validation_rows(table)
    seen = (table["split"] == "train").to_numpy() & ~left_out
    made = TemporaryDirectory(prefix="embedding-")
    with step("features", f"vectors of {seen.sum():,} reviews, weights {parameters.weights}"):
        encoder, tokenizer = load(parameters.weights, parameters.max_tokens)
        tokenizer.backend_tokenizer.save(str(Path(made.name, TOKENIZER)))
        tokens = Tokens(Path(made.name, TOKENIZER), parameters.max_tokens)
        rows = [tokens.cut(ids) for ids in tokens(table["review"][seen])]
        with failures_told(f"texts of {parameters.max_tokens} tokens", "max_tokens"):
            vectors = embeddings(Classifier(encoder, nn.Identity()).to(device()), rows)
    with (
        step("fit", f"head {parameters.head} on vectors of {vectors.shape[1]} numbers"),
        threadpool_limits(1),
    ):
        head = fit_head(vectors, (table["sentiment"][seen] == "positive").to_numpy(), parameters)
    with step("export", "ONNX, calibration, int8"):
        exported = export(
            Classifier(encoder, as_layers(head)),
            parameters.max_tokens,
            table[left_out],
            parameters.precision,
            Path(made.name),
        )
    deep = f"a network of {HIDDEN} hidden units" if parameters.head == "mlp" else "logistic regression"
    recipe = (
        f"A frozen sentence encoder (weights {parameters.weights}), at most {parameters.max_tokens} tokens of a text, a quarter of its "
        f"head and the rest of its tail, and {deep} on the mean of its last hidden states; {exported.precision} in ONNX Runtime; "
        f"calibration by length on rows left out of fitting; seed {parameters.seed}."
    )
    return judge(exported.scorer, made, recipe, PACKAGES, table, left_out)


def fit_head(vectors: np.ndarray, y: np.ndarray, parameters: Embedding) -> Pipeline:
    """Return a scaler and a classifier, fitted on vectors of shape (n_rows, n_dimensions)."""
    # what an encoder leaves of a dead dimension is rounding errors: a scaler would blow them up to numbers that int8 cannot hold
    vectors = np.where(np.abs(vectors) < DEAD, 0.0, vectors)
    if parameters.head == "mlp":
        classifier = MLPClassifier(
            (HIDDEN,), alpha=ALPHA, early_stopping=True, max_iter=ITERATIONS, random_state=parameters.seed
        )
    else:
        classifier = LogisticRegressionCV(
            Cs=STRENGTHS,
            scoring="neg_log_loss",
            use_legacy_attributes=False,
            l1_ratios=(0,),
            random_state=parameters.seed,
        )
    return make_pipeline(StandardScaler(), classifier).fit(vectors, y)


def as_layers(head: Pipeline) -> nn.Sequential:
    """Return a fitted scaler and classifier as layers from vectors to log-odds of *positive*."""
    scaler, classifier = head[0], head[-1]
    if isinstance(classifier, MLPClassifier):
        weights, biases = classifier.coefs_, classifier.intercepts_
    else:
        weights, biases = [classifier.coef_.reshape(1, -1).T], [classifier.intercept_.reshape(-1)]
    layers: list[nn.Module] = []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if number == 0:  # the scaler is a part of the first layer
            weight = weight / scaler.scale_[:, None]
            bias = bias - scaler.mean_ @ weight
        else:
            layers.append(nn.ReLU())
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
        layers.append(layer)
    return nn.Sequential(*layers)
