"""The CustomResourceDefinitions against the wire types. Modules in `checks/` can be imported by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "checks"))
