"""By which product values meet weights that are FP8: pure. `SCALED_TOKENS_MIN` is a guess until a GPU has measured it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SCALED_CAPABILITY = (
    9,
    0,
)  # the only one whose product with scales of rows is known to be a matrix instruction's
SCALED_TOKENS_MIN = 65  # below, reading the weights takes longer than multiplying in bf16
SCALED_MULTIPLE = 16  # of both sizes of the weight, for torch._scaled_mm
WARM_UP_TOKENS = (16, 64)  # with the longest step, all that is launched in another form


class Product(StrEnum):
    WEIGHT_ONLY = "WeightOnly"  # weights are widened as they are read
    SCALED = "Scaled"  # values become FP8 too, with a scale for each token


class ProductReason(StrEnum):
    MANY_TOKENS = "ManyTokens"
    FEW_TOKENS = "FewTokens"  # memory is what is waited for, and values keep their precision
    BLOCK_SCALES = "BlockScales"  # torch's product takes one scale per row
    ODD_SIZE = "OddSize"
    OTHER_CAPABILITY = "OtherCapability"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductChoice:
    product: Product
    reason: ProductReason


def choose_product(
    *, tokens: int, weight: tuple[int, int], has_blocks: bool, capability: tuple[int, int]
) -> ProductChoice:
    """weight: (rows, columns); has_blocks: several scales in a row; capability: of the GPU, (0, 0) for the interpreter."""
    if has_blocks:
        reason = ProductReason.BLOCK_SCALES
    elif capability != SCALED_CAPABILITY:
        reason = ProductReason.OTHER_CAPABILITY
    elif any(size % SCALED_MULTIPLE for size in weight):
        reason = ProductReason.ODD_SIZE
    elif tokens < SCALED_TOKENS_MIN:
        reason = ProductReason.FEW_TOKENS
    else:
        return ProductChoice(product=Product.SCALED, reason=ProductReason.MANY_TOKENS)
    return ProductChoice(product=Product.WEIGHT_ONLY, reason=reason)
