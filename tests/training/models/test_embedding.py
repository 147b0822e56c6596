"""The head on the vectors of a frozen encoder."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.deep
torch = pytest.importorskip("torch", reason="PyTorch (make env-deep) is not installed")

from training.models.embedding import as_layers, fit_head  # noqa: E402 -- once it is known to be there
from training.models.encoder import Classifier  # noqa: E402 -- as above
from training.models.pretrained import load  # noqa: E402 -- as above
from training.parameters import Embedding  # noqa: E402 -- as above


@pytest.mark.parametrize("head", ["mlp", "logistic"])
def test_a_dead_dimension_of_the_encoder_gets_no_huge_weights(head: str) -> None:
    """MiniLM has two that are 1e-33 and one that is 1e-9: scaled to unit variance, they made int8 answer all texts alike."""
    random = np.random.default_rng(0)
    y = random.random(600) < 0.5
    vectors = random.normal(size=(600, 6)) + 2 * y[:, None]
    vectors[:, 2] = random.normal(size=600) * 1e-33
    vectors[:, 4] = random.normal(size=600) * 1e-9
    fitted = fit_head(vectors, y, Embedding(head=head))
    layers = as_layers(fitted)
    first = layers[0]
    assert isinstance(first, torch.nn.Linear)
    assert first.weight.abs().max() < 100
    scores = layers(torch.from_numpy(vectors.astype(np.float32))).detach().numpy()[:, 0]
    assert ((scores > 0) == y).mean() > 0.9
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), fitted.predict_proba(vectors)[:, 1], atol=1e-5)


def test_a_text_without_tokens_has_a_vector(tiny: Path) -> None:
    """Tokenizers that put none around a text leave nothing of an empty one."""
    encoder, _ = load(str(tiny), 8)
    ids = torch.tensor([[5, 6, 7], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    with torch.inference_mode():
        vectors = Classifier(encoder, torch.nn.Identity()).embed(ids, mask)
    assert vectors.isfinite().all()
    assert vectors[0].abs().max() > 0
    assert vectors[1].abs().max() == 0
