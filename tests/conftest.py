"""Fixtures of every part's tests. Modules in `fixtures/` can be imported by name (`pythonpath` in pyproject.toml)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tiny_llama import write_tiny_llama

# Properties are about values: how long a machine under load takes for one is no finding. Equal code draws equal values, so that
# a change is judged by what it changes; SEMIPD_EXPLORE=1 draws new ones.
settings.register_profile(
    "untimed",
    deadline=None,
    derandomize="SEMIPD_EXPLORE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers, 512 tokens of context and 384 tokens of vocabulary, in Hugging Face layout."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama") / "model")
