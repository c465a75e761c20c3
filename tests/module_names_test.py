"""What tests import by its bare name has one home: of two modules with one name, whoever asks later gets the other's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
BARE = ("tests/fixtures", "tests/*/fakes", "tests/*/checks", "e2e/fixtures", "bench/gpu")


def test_no_two_folders_that_are_put_on_the_path_have_a_module_of_one_name():
    homes = [folder for pattern in BARE for folder in ROOT.glob(pattern)]
    modules = Counter(
        found.stem
        for folder in homes
        for found in folder.iterdir()
        if found.suffix == ".py" or found.is_dir()
    )
    del modules["__pycache__"]
    assert [name for name, count in modules.items() if count > 1] == []
    assert modules["api_server"] == 1, "the folders are there"
