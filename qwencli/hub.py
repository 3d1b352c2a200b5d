"""Names of models on a hub, and how huggingface_hub's environment says to reach it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen35.errors import NetworkError
from qwen35.weights.catalogue import find_release
from qwen35.weights.recipe import QUANTS, Quant
from qwencli.errors import UsageError

DEFAULT_QUANT: Quant = "q4"

_SITES = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class Access:
    """`token` None: nobody is logged in."""

    endpoint: str
    token: str | None
    is_offline: bool

    @classmethod
    def locate(cls) -> "Access":
        """As HF_ENDPOINT, HF_TOKEN, the token file and HF_HUB_OFFLINE say."""
        from huggingface_hub import constants, get_token

        return cls(constants.ENDPOINT, get_token(), bool(constants.HF_HUB_OFFLINE))

    def offline_error(self, what: str) -> NetworkError:
        return NetworkError(
            f"{what}: is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Unset it to use the "
            "network.",
            path=what,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A repository, and what it is to be packed in. `name` is what the user called it, without the quant."""

    name: str
    repo: str
    quant: Quant

    @property
    def packed_name(self) -> str:
        """In the data folder."""
        return f"{self.repo}-{self.quant}"


def parse_name(text: str, own_models: Mapping[str, str]) -> Wanted:
    """`0.8b`, `OWNER/NAME`, `NAME:q8`, or a repository's address. Raises UsageError for anything else."""
    name, colon, quant = _SITES.sub("", text.strip()).rstrip("/").rpartition(":")
    if not colon:
        name, quant = quant, DEFAULT_QUANT
    if quant not in QUANTS:
        raise UsageError(f"{text}: ':{quant}' is none of {', '.join(f':{known}' for known in QUANTS)}.")
    repo = repo_of(name, own_models)
    if repo is None:
        close = "A name is OWNER/NAME, or a short one that `qwen models ls --known` lists."
        raise UsageError(f"{text}: is not the name of a repository. {close}")
    return Wanted(name, repo, quant)


def repo_of(name: str, own_models: Mapping[str, str]) -> str | None:
    """The repository that a short name or a full one means; None for what can be neither."""
    if name in own_models:
        return own_models[name]
    if release := find_release(name):
        return release.repo
    return name if _REPO.fullmatch(name) and ".." not in name and "--" not in name else None


def cached_snapshot(cache: Path, repo: str, commit: str | None) -> Path | None:
    """The folder of `commit` (None: of what `main` was when it was fetched) in the Hugging Face cache."""
    root = cache / f"models--{repo.replace('/', '--')}"
    try:
        commit = commit or (root / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = root / "snapshots" / commit
    return folder if (folder / "config.json").exists() else None
