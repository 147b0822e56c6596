"""A scikit-learn pipeline as a custom MLServer model.

The runtime ``mlserver-sklearn`` would run the pipeline twice for label and probability.
"""

import joblib
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class SentimentModel(MLModel):
    """Judges reviews."""

    async def load(self) -> bool:
        """Read the pipeline that ``model-settings.json`` names."""
        self.pipeline = joblib.load(await get_model_uri(self._settings))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Judge every review of the first input."""
        probabilities = self.pipeline.predict_proba(StringCodec.decode_input(payload.inputs[0]))
        positive = probabilities[:, 1] >= 0.5
        sentiments = ["positive" if p else "negative" for p in positive]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("sentiment", sentiments),
                NumpyCodec.encode_output("confidence", probabilities.max(axis=1)),
            ],
        )
