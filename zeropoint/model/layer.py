"""A layer of a source: a module that owns parameters, and a real `nn` module if it can be quantized."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zeropoint.files.block_reader import StoredTensor
from zeropoint.files.mapped import MappedFile
from zeropoint.model.weight_holder import Layout, WeightHolder
from zeropoint.schema.layer_names import free_name
from zeropoint.schema.recipe import WeightSettings
from zeropoint.schema.report import SkipReason

LayerKind = Literal[
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "LSTM",
    "GRU",
    "RNN",
    "LSTMCell",
    "GRUCell",
    "RNNCell",
    "Matmul",
    "Bilinear",
    "EmbeddingBag",
]
"""What a layer computes. From LSTM on, an operator reads the weight that a `WeightHolder` returns: Matmul is every
product with a weight for each expert, head or sample."""
CHANNEL_AXES: Mapping[LayerKind, int] = {
    "Linear": -1,
    "Conv1d": -2,
    "Conv2d": -3,
    "Conv3d": -4,
    "ConvTranspose1d": -2,
    "ConvTranspose2d": -3,
    "ConvTranspose3d": -4,
}
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")

Part = Literal[
    "scale",
    "zero_point",
    "input_scale",
    "input_zero_point",
    "pre_quant_scale",
    "outlier_channels",
    "outlier_weight",
    "bias",
]
"""A tensor that a quantized layer may store beside its integers."""
PARTS: tuple[Part, ...] = get_args(Part)


StoredAlike = Literal["experts", "packed", "packed_asymmetric"]


def always(_: WeightSettings) -> bool:
    """Return True."""
    return True


@dataclass(frozen=True)
class Layer:
    """A module of the user's source that owns parameters.

    `module` is the `nn.Linear` or `nn.ConvNd` that runs in the source's graph when the layer can be quantized (`kind`);
    if not, `reason` says why.
    """

    name: str
    type: str
    bytes: int
    kind: LayerKind | None = None
    module: nn.Module | None = None
    weight_name: str | None = None
    """The weight's name in the state dict, `encoder.0.weight`."""
    bias_name: str | None = None
    """The bias's name, where it has one."""
    has_own_bias: bool = True
    """Whether nothing but the layer's calls reads its bias."""
    reason: SkipReason | None = None
    scale_dtype: torch.dtype = torch.float32
    """What the scales of the weight and the input are stored in."""
    fused_output: nn.Module | None = None
    """The module that a convolution's output goes through first (see `fused_outputs`); programs alone have it."""
    stored: StoredTensor | None = None
    """Where the weight lies, if it lies in a file: it can be read block by block."""
    parameters: tuple[str, ...] = ()
    """The names of the uploaded tensors that the layer owns or computes with; each of them means this layer."""
    transposed: bool = False
    """Whether the weight is stored as [in, out]; `weight` is [out, in] nevertheless."""
    computed: bool = False
    """Whether the weight is computed from uploaded tensors, and so is stored in no layout of the user's."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names for the tensors of `stored_name` where the model has a tensor of the usual name."""
    file: MappedFile | None = None
    """That file, mapped: its pages can be released."""
    input_in_float: bool = False
    """Whether whatever opens the saved model computes with dequantized weights, so that inputs stay in float."""
    can_store: Callable[[WeightSettings], bool] = always
    """Whether the saved model has a place for a weight with these settings."""
    stored_alike: StoredAlike | None = None
    """The layers of a model with the same word here must have the same settings: what opens it knows one for all.

    experts: always. packed: if one of them has packed weights. packed_asymmetric: if these have zero points.
    """

    @property
    def output_axis(self) -> int:
        """The dimension of the weight that counts outputs: transposed convolutions have [in, out / groups, ...]."""
        return 1 if self.kind in TRANSPOSED else 0

    @property
    def channel_axis(self) -> int | None:
        """The dimension of the input that counts its channels, from the end; None where the input holds indices."""
        return CHANNEL_AXES.get(self.kind) if self.kind is not None else None

    def stored_name(self, part: Part) -> str:
        """Return the name under which a quantized layer stores a tensor beside its integers."""
        usual = self.usual_name(part)
        return self.renamed.get(usual, usual)

    def usual_name(self, part: Part) -> str:
        """Return the name of `stored_name` in a model that has no tensor of this name."""
        if part == "bias":
            return self.bias_name or f"{self.name}.bias"
        return f"{self.weight_name}_{part}" if part in ("scale", "zero_point") else f"{self.name}.{part}"

    @property
    def is_held(self) -> bool:
        """Whether an operator reads the weight that a holder returns, so that weights alone can be quantized."""
        return isinstance(self.module, WeightHolder)

    @property
    def layout(self) -> Layout | None:
        """How the stored weight becomes `weight`, where it is no [out, in] itself."""
        layout = self.module.layout if isinstance(self.module, WeightHolder) else None
        return None if layout is None or layout.is_matrix else layout

    def has_axis(self, axis: int | None) -> bool:
        """Return whether scales can lie along a recipe's `axis` of the stored weight."""
        if self.layout is not None:
            return axis is None or axis in self.layout.outputs
        return (axis or 0) < self.weight.dim()

    def scale_axis(self, axis: int | None) -> int:
        """Return the dimension of `weight` for which a recipe's `axis` of the stored weight asks; None: the outputs."""
        if axis is None or self.layout is not None:
            return self.output_axis
        return 1 - axis if self.transposed else axis

    def stored_axis(self, axis: int | None) -> int | None:
        """Return the dimension of the stored weight that corresponds to one of `weight`."""
        if self.layout is not None:
            return None if axis is None else self.layout.outputs[-1]
        return 1 - axis if self.transposed and axis is not None else axis

    def stored_shape(self, shape: Iterable[int]) -> list[int]:
        """Return the shape of the stored weight, given that of `weight`."""
        if self.layout is not None:
            return [*self.layout.shape]
        return [*shape][::-1] if self.transposed else [*shape]

    @property
    def weight(self) -> Tensor:
        """The float weight [out, in / groups, *kernel] of a quantizable layer."""
        assert self.module is not None, self.name
        if isinstance(self.module, WeightHolder):
            return self.module.matrix
        weight = self.module.get_parameter("weight").detach()
        if self.reads_transposed:
            return weight.t()
        return weight.contiguous() if self.computed else weight

    @property
    def reads_transposed(self) -> bool:
        """Whether the module reads a weight [in, out]: transformers' Conv1D does; the leaves of a program never."""
        return self.transposed and not isinstance(self.module, nn.Linear)

    @property
    def bias(self) -> Tensor | None:
        """The float bias [out], which stays in float."""
        return getattr(self.module, "bias", None)


def distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors; a storage that several of them share counts once."""
    sizes = {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors if t.numel()}
    return sum(sizes.values())


def with_free_names(layers: Iterable[Layer], tensors: Iterable[str]) -> Iterator[Layer]:
    """Yield layers whose stored names differ from those of the model's tensors and of all other layers.

    Layers that share a weight share its scale, and so the scale's name.
    """
    taken, chosen = set(tensors), dict[tuple[str | None, Part], str]()
    for layer in layers:
        renamed: dict[str, str] = {}
        for part in PARTS if layer.module is not None else ():
            owner = layer.weight_name if part in ("scale", "zero_point") else layer.name
            usual = layer.usual_name(part)
            below, _, leaf = usual.rpartition(".")
            if part == "bias" and layer.bias_name is not None:
                continue
            if (owner, part) not in chosen:
                # a program can hold no tensor below a tensor; scales of inputs are none there
                beside = below == layer.weight_name and part not in ("input_scale", "input_zero_point")
                chosen[owner, part] = free_name(f"{below}_{leaf}" if beside else usual, taken)
                taken.add(chosen[owner, part])
            if chosen[owner, part] != usual:
                renamed[usual] = chosen[owner, part]
        yield replace(layer, renamed=renamed) if renamed else layer
