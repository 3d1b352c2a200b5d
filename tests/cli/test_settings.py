from pathlib import Path

import pytest

from qwencli.errors import UsageError
from qwencli.settings import PARSERS, Settings, misspelt_variables
from qwencli.values import Thinking


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_without_anything_the_defaults_count(config_file: Path) -> None:
    assert Settings.resolve({}, {}, config_file) == Settings()


def test_a_flag_beats_the_environment_and_that_beats_the_file(config_file: Path) -> None:
    config_file.write_text("seed = 1\ntop_k = 1\nmin_p = 0.1\n")
    environ = {"QWEN_SEED": "2", "QWEN_TOP_K": "2"}
    settings = Settings.resolve({"seed": 3}, environ, config_file)
    assert (settings.seed, settings.top_k, settings.min_p) == (3, 2, 0.1)


def test_a_flag_that_was_not_given_hides_nothing(config_file: Path) -> None:
    config_file.write_text("seed = 1\nstop = ['a', 'b']\n")
    settings = Settings.resolve({"seed": None, "stop": [], "words": ["x"]}, {}, config_file)
    assert (settings.seed, settings.stop) == (1, ("a", "b"))


def test_zero_is_a_value(config_file: Path) -> None:
    config_file.write_text("temperature = 0.7\n")
    assert Settings.resolve({"temperature": 0.0}, {}, config_file).temperature == 0


def test_an_empty_variable_counts_as_unset(config_file: Path) -> None:
    assert Settings.resolve({}, {"QWEN_SEED": ""}, config_file).seed is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("think = false", Thinking(False)),
        ("think = 64", Thinking(True, 64)),
        ("think = 'on'", Thinking(True)),
    ],
)
def test_thinking_may_be_a_toml_boolean_or_number(config_file: Path, line: str, value: Thinking) -> None:
    config_file.write_text(line)
    assert Settings.resolve({}, {}, config_file).think == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("threads = 'four'", "'threads': 'four' is not a whole number of at least 1"),
        ("threads = 0", "'threads': '0' is not a whole number"),
        ("temperature = [1]", r"'temperature': \[1\] is neither text nor a number"),
        ("model = 3", "'model': 3 is not text"),
        ("system = true", "'system': True is not text"),
        ("device = 'tpu'", "'device': 'tpu' is none of auto, cpu, cuda"),
        ("stop = ['a', 1]", "'stop': 1 is not text"),
        ("temprature = 1", "unknown key 'temprature'. Did you mean 'temperature'"),
        ("zzz = 1", "unknown key 'zzz'. Known: model, system,"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_bad_line_of_the_file_is_named_with_file_and_key(
    config_file: Path, line: str, message: str
) -> None:
    config_file.write_text(line)
    with pytest.raises(UsageError, match=message) as caught:
        Settings.resolve({}, {}, config_file)
    assert str(config_file) in str(caught.value)


def test_a_bad_variable_is_named(config_file: Path) -> None:
    with pytest.raises(UsageError, match="environment variable QWEN_THREADS: 'x' is not a whole number"):
        Settings.resolve({}, {"QWEN_THREADS": "x"}, config_file)


def test_a_variable_that_is_nearly_a_settings_name_is_told() -> None:
    (note,) = misspelt_variables({"QWEN_MAXTOKENS": "3", "QWEN_MAX_TOKENS": "3"})
    assert note == "the environment variable QWEN_MAXTOKENS is not read; did you mean QWEN_MAX_TOKENS?"


@pytest.mark.parametrize(
    "name", ["HOME", "ISA", "CPU", "NEON", "SOURCE_HASH", "TEST_DEVICE", "API_KEY", "MODEL", "CACHE_DIR"]
)
def test_variables_of_others_and_of_the_program_are_left_alone(name: str) -> None:
    assert misspelt_variables({f"QWEN_{name}": "x"}) == []


def test_every_setting_has_a_parser() -> None:
    assert set(PARSERS) == set(Settings.__dataclass_fields__)
