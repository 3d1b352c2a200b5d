"""Where files are kept: the platform's own folders, or all of them under `QWEN_HOME` where that is set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    config: Path
    data: Path
    cache: Path
    state: Path

    @classmethod
    def locate(cls, environ: Mapping[str, str]) -> "Folders":
        """The folders of this user; none of them is made by asking."""
        if home := environ.get("QWEN_HOME"):
            root = Path(home).expanduser()
            return cls(root / "config", root / "data", root / "cache", root / "state")
        from platformdirs import PlatformDirs

        dirs = PlatformDirs("qwen", appauthor=False)
        return cls(dirs.user_config_path, dirs.user_data_path, dirs.user_cache_path, dirs.user_state_path)

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def templates(self) -> Path:
        return self.config / "templates"

    @property
    def states(self) -> Path:
        return self.cache / "states"

    @property
    def models(self) -> Path:
        return self.data / "models"
