"""How texts reach a network: without one, which would need PyTorch to make."""

import numpy as np
import pytest

encoder = pytest.importorskip(
    "sentiment_model.encoder", reason="ONNX Runtime is not installed (make env-onnx)"
)


class Network:
    """Stands in for ONNX Runtime: scores a text by its tokens, and remembers how many it was given at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(given["ids"]))
        return [(given["ids"] * given["mask"]).sum(axis=1).astype(float)]


class Tokens:
    """Stands in for a tokenizer: a token for each letter."""

    def __call__(self, texts) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]

    def cut(self, ids: list[int]) -> list[int]:
        return ids


@pytest.mark.parametrize("batched", [True, False])
def test_a_quantized_network_is_asked_about_one_text_at_a_time(batched: bool) -> None:
    calibration = {"scale": 1.0, "saturating": 0.0, "growing": 0.0, "intercept": 0.0}
    scorer = encoder.EncoderScorer.__new__(encoder.EncoderScorer)
    scorer.settings = encoder.Settings(**calibration, max_tokens=8, batched=batched)
    scorer._session, scorer._tokens = Network(), Tokens()
    texts = ["ccc", "a", "bb", "a"]
    scores, tokens = scorer.scores(texts)
    assert scores.tolist() == [sum(map(ord, text)) for text in texts]
    assert tokens.tolist() == [3, 1, 2, 1]
    assert scorer._session.sizes == ([4] if batched else [1, 1, 1, 1])
