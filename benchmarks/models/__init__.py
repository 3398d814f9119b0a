"""Real models with real data. To add one: a file with a `Model`, and its name here."""

from benchmarks.models.crepe import CREPE
from benchmarks.models.digits import DIGITS
from benchmarks.models.effnet_lite0 import EFFNET_LITE0
from benchmarks.models.minilm import MINILM
from benchmarks.models.model import Model
from benchmarks.models.mtcnn_onet import MTCNN_ONET
from benchmarks.models.resnet18 import RESNET18

MODELS: dict[str, Model] = {model.name: model for model in (DIGITS, MINILM, CREPE, EFFNET_LITE0, MTCNN_ONET, RESNET18)}
