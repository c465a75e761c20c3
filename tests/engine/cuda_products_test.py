"""By which product values meet weights in FP8."""

from __future__ import annotations

import importlib.util

import pytest

from semipd_engine.cuda_model.product_choice import (
    SCALED_TOKENS_MIN,
    WARM_UP_TOKENS,
    Product,
    ProductReason,
    choose_product,
)

HOPPER = (9, 0)


@pytest.mark.parametrize(
    ("tokens", "weight", "has_blocks", "capability", "product", "reason"),
    [
        pytest.param(64, (64, 32), False, HOPPER, Product.WEIGHT_ONLY, ProductReason.FEW_TOKENS, id="decode"),
        pytest.param(65, (64, 32), False, HOPPER, Product.SCALED, ProductReason.MANY_TOKENS, id="a prompt"),
        pytest.param(
            2048,
            (64, 32),
            True,
            HOPPER,
            Product.WEIGHT_ONLY,
            ProductReason.BLOCK_SCALES,
            id="scales of blocks",
        ),
        pytest.param(
            2048, (72, 32), False, HOPPER, Product.WEIGHT_ONLY, ProductReason.ODD_SIZE, id="rows by 8"
        ),
        pytest.param(
            2048, (64, 40), False, HOPPER, Product.WEIGHT_ONLY, ProductReason.ODD_SIZE, id="columns by 8"
        ),
        pytest.param(
            2048, (64, 32), False, (8, 9), Product.WEIGHT_ONLY, ProductReason.OTHER_CAPABILITY, id="Ada"
        ),
        pytest.param(
            2048,
            (64, 32),
            False,
            (0, 0),
            Product.WEIGHT_ONLY,
            ProductReason.OTHER_CAPABILITY,
            id="interpreted",
        ),
    ],
)
def test_the_product_follows_from_scales_sizes_and_gpu(
    tokens: int,
    weight: tuple[int, int],
    has_blocks: bool,
    capability: tuple[int, int],
    product: Product,
    reason: ProductReason,
) -> None:
    choice = choose_product(tokens=tokens, weight=weight, has_blocks=has_blocks, capability=capability)
    assert (choice.product, choice.reason) == (product, reason)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only")
def test_warming_up_runs_every_form_of_a_product() -> None:
    from semipd_engine.kernels.tiles import BY_CAPABILITY

    for tiles in BY_CAPABILITY.values():
        lasts = {size.tokens for size in tiles.weight_only[:-1]} | {SCALED_TOKENS_MIN - 1}
        assert lasts <= set(WARM_UP_TOKENS)
