"""One interpreter for all tests of kernels, in a process of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from kernel_process import KernelProcess


@pytest.fixture(scope="session", autouse=True)
def _triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton comes with torch on Linux only")


@pytest.fixture(scope="session")
def interpreter() -> Iterator[KernelProcess]:
    process = KernelProcess(TRITON_INTERPRET="1")
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
