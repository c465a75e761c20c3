"""The operator's image, which the proxies run from too, is small: it has none of what computes."""

from __future__ import annotations

import pytest
from cluster_under_test import ClusterUnderTest
from image_archive import paths_of_package, read_layers

from semipd_cluster.build import cache_directory

LARGEST_BYTES = 120_000_000  # over its base, which is its first layer


def test_the_operators_image_has_no_torch_and_is_small(cluster: ClusterUnderTest) -> None:
    if not cluster.is_ours:
        pytest.skip("a foreign cluster's images are no archives here")
    target, _, key = cluster.operator_image.rpartition("/")[2].partition(":")
    layers = read_layers(cache_directory() / "images" / f"{target}-{key}.tar")
    size = sum(layer.size for layer in layers[1:])
    print(f"the operator's image is {size / 1e6:.0f} MB over its base")
    assert paths_of_package(layers, "semipd_operator")
    assert not paths_of_package(layers, "torch")
    assert size < LARGEST_BYTES
