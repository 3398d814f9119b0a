"""How far a weight moved: the largest distance between a value and what it became, in steps of its grid."""

import math

import torch
from torch import Tensor

from zeropoint.layers.weights import decode
from zeropoint.primitives.qparams import Affine, step_sizes
from zeropoint.schema.recipe import WeightSettings


def largest_move(weight: Tensor, numbers: Tensor, affine: Affine | None, settings: WeightSettings) -> float:
    """Largest |w − ŵ| of a float weight [out, ...], in steps of the grid at that place; 0 for a cast.

    Infinite when a scale or a number is not valid. What an observer clips on purpose does not count.
    """
    exact, dequantized = weight.float(), decode(numbers, affine)
    if affine is None:
        return 0.0 if bool(torch.isfinite(dequantized).all()) else math.inf
    grid, on_grid = affine.grid, numbers.float()
    inside = bool(((on_grid >= grid.quant_min) & (on_grid <= grid.quant_max)).all())
    if not inside or not bool((torch.isfinite(affine.scale) & (affine.scale > 0)).all()):
        return math.inf
    moved = (exact - dequantized).abs()
    if settings.observer.kind != "minmax":  # the others clip on purpose: what lies beyond the grid's ends
        beyond_top = (on_grid == grid.quant_max) & (exact > dequantized)
        beyond_bottom = (on_grid == grid.quant_min) & (exact < dequantized)
        moved = moved.masked_fill(beyond_top | beyond_bottom, 0)
    return float((moved / step_sizes(numbers, affine)).max())
