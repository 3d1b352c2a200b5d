import json
import os
import platform
from pathlib import Path

import pytest

from qwencli import machine
from qwencli.machine import Machine
from tests.cli.conftest import Invoke


def test_the_report_tells_versions_machine_and_folders(invoke: Invoke, home: Path) -> None:
    result = invoke("doctor")
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.out.splitlines())
    assert platform.python_version() in lines["qwen"]
    assert "torch 2.13" in lines["packages"]
    assert lines["config folder"].strip() == str(home / "config")
    assert lines["hub folder"].strip() == str(home.parent / "hub")
    assert lines["packed models"].strip().startswith(("native (", "plain (torch): no native kernels"))
    assert lines["other models"].strip() == "plain (torch)"


def test_json_holds_the_same_as_one_object(invoke: Invoke, home: Path) -> None:
    values = json.loads(invoke("doctor", "--json").out)
    assert (values["schema_version"], values["error"]) == (1, None)
    assert values["machine"]["num_cores"] == len(os.sched_getaffinity(0))
    assert values["machine"]["memory_total"] > values["machine"]["memory_available"] > 0
    assert values["folders"]["state"] == str(home / "state")
    assert values["disk_free_bytes"] > 0


def test_a_wrong_configuration_is_one_line_of_the_report(invoke: Invoke, home: Path) -> None:
    assert json.loads(invoke("doctor", "--json").out)["configuration"] is None
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("temprature = 1\n")
    result = invoke("doctor")
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.out.splitlines())
    assert lines["configuration"].strip().endswith("Did you mean 'temperature'?")
    assert {"processor", "models", "config folder"} <= set(lines)
    assert "unknown key" in json.loads(invoke("doctor", "--json").out)["configuration"]


def test_models_are_named(invoke: Invoke, home: Path, model_folder: Path) -> None:
    (home / "data" / "models").mkdir(parents=True)
    (home / "data" / "models" / "own").symlink_to(model_folder)
    assert "own" in json.loads(invoke("doctor", "--json").out)["models"]


def test_the_tightest_limit_of_all_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    (tmp_path / "outer" / "cpu.max").write_text("150000 100000\n")
    (group / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroup", lambda: "/outer/inner")
    assert Machine.inspect().cpu_limit == 1.5


def test_without_limits_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroup", lambda: "/")
    assert Machine.inspect().cpu_limit is None
