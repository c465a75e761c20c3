"""`hf://`: the hub's own client against a hub on this machine; in processes of their own, since it reads its endpoint once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_hub import COMMIT, LocalHub, serving_hub
from tiny_llama import write_tiny_llama

from semipd_engine.model import sources

pytestmark = pytest.mark.slow
OPEN = """
import json, sys
from semipd_core.errors import InvalidSpec
from semipd_engine.model import sources
try:
    model = sources.open_source(sys.argv[1])
    config = model.read_config("FP32", None)
    total = float(model.read("model.norm.weight").sum())
    print(json.dumps({"layers": config.num_layers, "sum": total, "location": model.location}))
except InvalidSpec as error:
    print(json.dumps({"path": error.path, "given": str(error.given), "allowed": error.allowed}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    directory = write_tiny_llama(tmp_path / "model", seed=3)
    (directory / "pytorch_model.bin").write_bytes(b"pickled")
    with serving_hub(LocalHub("org/tiny", directory)) as served:
        yield served


def open_from(hub: LocalHub, uri: str, home: Path, **environment: str) -> dict[str, Any]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, uri],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **told, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("uri", ["hf://org/tiny", "hf://org/tiny@main", f"hf://org/tiny@{COMMIT}"])
def test_a_model_is_downloaded_and_is_the_one_that_the_hub_has(
    uri: str, hub: LocalHub, tmp_path: Path
) -> None:
    found = open_from(hub, uri, tmp_path / "home")
    here = sources.open_source(f"file://{hub.directory}")
    assert found["layers"] == here.read_config("FP32", None).num_layers
    assert found["sum"] == pytest.approx(float(np.sum(here.read("model.norm.weight"))))
    assert not any(path.endswith("pytorch_model.bin") for _, path in hub.seen), (
        "pickles are not even asked for"
    )


def test_what_was_downloaded_serves_without_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    first = open_from(hub, "hf://org/tiny", tmp_path / "home")
    hub.seen.clear()
    assert open_from(hub, "hf://org/tiny", tmp_path / "home", HF_HUB_OFFLINE="1") == first
    assert hub.seen == []


def test_a_gated_model_needs_its_token_and_says_which_field_names_it(hub: LocalHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    refused = open_from(hub, "hf://org/tiny", tmp_path / "home")
    assert refused["path"] == "spec.model.uri"
    assert "gated" in refused["given"]
    assert "spec.model.tokenSecretRef" in refused["allowed"]
    assert "layers" in open_from(hub, "hf://org/tiny", tmp_path / "home", HF_TOKEN=hub.token)


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("hf://org/other", "a public model, or a private one with its token"),
        ("hf://org/tiny@nowhere", "a revision that org/tiny has"),
    ],
)
def test_what_the_hub_does_not_have_is_named(uri: str, allowed: str, hub: LocalHub, tmp_path: Path) -> None:
    refused = open_from(hub, uri, tmp_path / "home")
    assert (refused["path"], allowed in refused["allowed"]) == ("spec.model.uri", True), refused


def test_a_download_that_is_cut_goes_on(hub: LocalHub, tmp_path: Path) -> None:
    hub.cuts = 1
    assert "layers" in open_from(hub, "hf://org/tiny", tmp_path / "home")
    assert hub.cuts == 0
