"""`qwen models pack` and `verify`: what is said, to whom, and how it ends."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35.weights.manifest import MANIFEST, read_manifest
from qwen35.weights.work_folder import WorkFolder
from tests.cli.conftest import Invoke, Result
from tests.model.weights.packing import contents
from tests.model.weights.sources.gguf_writing import matrices_in, write_gguf, write_mmproj
from tests.model.weights.sources.mini import mini_arrays


@pytest.fixture
def invoke(invoke: Invoke) -> Invoke:
    """Without the note that a platform without a compiler gives."""

    def run(*words: object) -> Result:
        result = invoke(*words)
        err = re.sub(r"note: no native kernels .*: packing takes several times as long\n", "", result.err)
        return Result(result.code, result.out, err)

    return run


@pytest.fixture
def models(home: Path) -> Path:
    return home / "data" / "models"


def flip_a_bit(folder: Path, name: str) -> None:
    entry = read_manifest(folder).tensors[name]
    data = bytearray((folder / entry.file).read_bytes())
    data[entry.offset + 3] ^= 1
    (folder / entry.file).write_bytes(data)


NORM = "language_model.norm.weight"


def test_pack_says_where_how_large_and_how_to_ask(invoke: Invoke, models: Path, model_folder: Path) -> None:
    result = invoke("models", "pack", model_folder)

    assert (result.code, result.err) == (0, "")
    first, folder, ask = result.out.splitlines()
    assert re.fullmatch(
        r"Packed: \S+/tiny as q4, \d+K parameters of \d+\.\d\d bits, \d+\.\d kB \(from \d\.\d MB\)", first
    )
    assert folder == str(models / "tiny-q4")
    assert ask == 'Ask it: qwen ask -m tiny-q4 "Your question"'
    again = invoke("models", "pack", model_folder)
    assert (again.code, again.out) == (0, result.out.replace("Packed: ", "Was packed already: "))


def test_without_a_library_the_same_is_packed_and_said_to_take_longer(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    from qwen35.backends.native import quantiser
    from qwencli.app import main

    def pack_into(folder: str) -> str:
        monkeypatch.setattr("sys.argv", ["qwen", "models", "pack", str(model_folder), "-o", folder])
        assert main() == 0
        return capsys.readouterr().err

    pack_into("one")
    monkeypatch.setattr(quantiser, "load", lambda _: (None, "no C++ compiler found"))
    said = pack_into("other")

    assert said == "note: no native kernels (no C++ compiler found): packing takes several times as long\n"
    assert contents(Path("one")) == contents(Path("other"))


def test_packing_takes_the_native_quantiser_and_no_torch(home: Path, model_folder: Path) -> None:
    from qwen35.backends.native.library import load

    if load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    script = """
import sys
from qwen35.weights import quantize
from qwencli.app import main
quantize._search = None  # what the plain one cannot do without
code = main()
print("torch" in sys.modules)
sys.exit(code)
"""
    command = [sys.executable, "-c", script, "models", "pack", str(model_folder), "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "False", "")


def test_pack_tells_a_program_all_of_it(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("models", "pack", model_folder, "-o", "here & there", "--quant", "q8", "--json")

    values = json.loads(result.out)
    folder = Path("here & there").resolve()
    manifest = read_manifest(folder)
    assert (result.code, result.err) == (0, "")
    assert values == {
        "schema_version": 1,
        "name": str(folder),
        "folder": str(folder),
        "source": str(model_folder),
        "quant": "q8",
        "parameters": manifest.num_parameters,
        "bits_per_weight": round(manifest.bits_per_weight, 3),
        "size_bytes": sum(path.stat().st_size for path in folder.glob("*.bin")),
        "source_bytes": manifest.source.size_bytes,
        "imports": [],
        "was_there": False,
        "error": None,
    }
    text = invoke("models", "pack", model_folder, "-o", "here & there", "--quant", "q8").out
    assert text.endswith(f"""Ask it: qwen ask -m '{folder}' "Your question"\n""")


def test_a_listed_model_keeps_its_name(invoke: Invoke, models: Path) -> None:
    assert invoke("models", "pack", "mini-bf16", "--quant", "q8").code == 0
    assert (models / "mini-bf16-q8" / MANIFEST).exists()


def test_a_packed_model_is_listed_and_shown(invoke: Invoke, models: Path, model_folder: Path) -> None:
    invoke("models", "pack", model_folder)

    rows = {row["name"]: row for row in json.loads(invoke("models", "ls", "--json").out)["models"]}
    shown = json.loads(invoke("models", "show", "tiny-q4", "--json").out)
    plain = json.loads(invoke("models", "show", model_folder, "--json").out)

    row = rows["tiny-q4"]
    assert (row["dtype"], row["error"]) == ("q4", None)
    assert row["parameters"] == plain["parameters"]
    assert row["size_bytes"] == sum(path.stat().st_size for path in (models / "tiny-q4").iterdir())
    assert shown["packed"]["quant"] == "q4"
    assert shown["packed"]["source"] == "tiny"
    assert plain["packed"] is None
    assert shown["layers"] == plain["layers"]
    text = invoke("models", "show", "tiny-q4").out
    assert re.search(r"^packed +q4, \d+\.\d\d bits per weight, from tiny$", text, re.MULTILINE)
    assert "packed" not in invoke("models", "show", model_folder).out


def test_a_damaged_packed_model_has_a_line_that_says_why(
    invoke: Invoke, models: Path, model_folder: Path
) -> None:
    invoke("models", "pack", model_folder)
    (models / "tiny-q4" / "experts.bin").write_bytes(b"")
    assert "experts.bin: truncated: 0 bytes" in invoke("models", "ls").out


def test_verify_reads_every_byte(invoke: Invoke, models: Path, model_folder: Path) -> None:
    invoke("models", "pack", model_folder)
    whole = invoke("models", "verify", "tiny-q4")
    assert (whole.code, whole.err) == (0, "")
    assert re.fullmatch(
        r"tiny-q4: whole\. 114 tensors and 35 experts are as packed \(\d+\.\d kB read\)\.\n", whole.out
    )
    values = json.loads(invoke("models", "verify", "tiny-q4", "--json").out)
    assert values["size_bytes"] == sum(
        entry.size_bytes for entry in read_manifest(models / "tiny-q4").files.values()
    )
    del values["size_bytes"]
    assert values == {
        "schema_version": 1,
        "name": "tiny-q4",
        "folder": str(models / "tiny-q4"),
        "packed": True,
        "tensors": 114,
        "experts": 35,
        "error": None,
    }


def test_verify_of_a_damaged_model_exits_with_4(invoke: Invoke, models: Path, model_folder: Path) -> None:
    invoke("models", "pack", model_folder)
    flip_a_bit(models / "tiny-q4", NORM)

    result = invoke("models", "verify", "tiny-q4")
    told = invoke("models", "verify", models / "tiny-q4", "--json")

    assert (result.code, result.out) == (4, "")
    assert re.fullmatch(
        rf"error: {re.escape(str(models))}/tiny-q4/text\.bin: '{re.escape(NORM)}' is damaged "
        r"\(bytes [\d,]+ to [\d,]+\)\. Pack the model again \(qwen models pack\), or fetch the file "
        r"again\.\n",
        result.err,
    )
    error = json.loads(told.out)["error"]
    assert (told.code, error["code"], error["kind"]) == (4, 4, "checkpoint")
    assert error["path"] == str(models / "tiny-q4" / "text.bin")


def test_verify_of_an_unpacked_model_says_how_little_it_checks(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("models", "verify", model_folder)
    assert result.code == 0
    assert re.search(
        r"headers and shapes of \d+ tensors fit config\.json\. The weights themselves were not", result.out
    )
    values = json.loads(invoke("models", "verify", model_folder, "--json").out)
    assert (values["packed"], values["experts"]) == (False, None)


def test_a_target_in_use_exits_with_9(invoke: Invoke, model_folder: Path) -> None:
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("mine")

    result = invoke("models", "pack", model_folder, "-o", "notes")
    told = invoke("models", "pack", model_folder, "-o", "notes", "--json")

    here = Path.cwd()
    message = f"{here}/notes: is not empty; nothing is overwritten. Choose another folder."
    assert (result.code, result.out, result.err) == (9, "", f"error: {message}\n")
    assert told.code == 9
    assert json.loads(told.out) == {
        "schema_version": 1,
        "error": {"code": 9, "kind": "output", "message": message, "path": f"{here}/notes"},
    }


def test_a_full_disk_exits_with_9_and_the_next_run_goes_on(
    invoke: Invoke, models: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen35.weights.work_folder import DataFile

    write = DataFile.write

    def write_until_full(self: DataFile, data: bytes) -> None:
        if self.end > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(DataFile, "write", write_until_full)
    result = invoke("models", "pack", model_folder)
    work = WorkFolder.beside(models / "tiny-q4")
    assert (result.code, result.out) == (9, "")
    assert result.err == (
        f"error: {work.root}: the disk is full (No space left on device). What is packed so far is kept: "
        "make room and run the same command again, or delete that folder.\n"
    )
    assert "tiny-q4" not in invoke("models", "ls", "--all").out
    monkeypatch.setattr(DataFile, "write", write)

    result = invoke("models", "pack", model_folder)

    assert result.code == 0
    assert re.fullmatch(
        r"note: went on from an earlier run: \d+ tensors and experts were there\n", result.err
    )
    invoke("models", "pack", model_folder, "-o", "other")
    assert contents(models / "tiny-q4") == contents(Path("other"))


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("nothing",), 4, "nothing: no such model"),
        (("mini", "--quant", "q5"), 2, "'q5' is not one of 'q4', 'q8'"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_packed(invoke: Invoke, words: tuple[str, ...], code: int, reason: str) -> None:
    result = invoke("models", "pack", *words)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert reason in result.err


def test_a_stopped_pack_says_how_to_go_on(
    invoke: Invoke, models: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwencli.render.progress import Progress

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt)
        result = invoke("models", "pack", model_folder)
    assert result.err == "note: stopped; the same command goes on from here\n"
    assert invoke("models", "pack", model_folder).code == 0


def test_a_gguf_file_is_packed_and_answers(invoke: Invoke, models: Path) -> None:
    """With its mmproj file beside it; what became of its types is told, and what is lacking without."""
    write_gguf(Path("mini-Q8_0.gguf"), mini_arrays(), matrices_in("Q8_0"))
    result = invoke("models", "pack", "mini-Q8_0.gguf", "-o", "text")
    assert result.err == "note: mini-Q8_0.gguf: no mmproj file beside it; packed for text alone\n"
    write_mmproj(Path("mmproj-F16.gguf"), mini_arrays())

    result = invoke("models", "pack", "mini-Q8_0.gguf")

    assert (result.code, result.err) == (0, "")
    first, imported, folder, _ = result.out.splitlines()
    assert first.startswith("Packed: mini-Q8_0.gguf as q8, 2.8M parameters of ")
    assert re.fullmatch(r"Q8_0 to q8: [\d.]+M parameters, as they were", imported)
    assert folder == str(models / "mini-Q8_0-q8")
    question = (Path(__file__).parents[2] / "examples" / "shapes.png", "describe", "-q")
    answer = invoke("ask", "-m", "mini-Q8_0-q8", "--temperature", "0", *question)
    assert (answer.code, answer.out) == (0, invoke("ask", "-m", "mini", *question).out)
    asked = invoke("ask", "-m", "mini-Q8_0.gguf", "hello")
    assert (asked.code, asked.out) == (4, "")
    assert "has to be packed first: qwen models pack mini-Q8_0.gguf" in asked.err


def test_a_file_of_another_family_says_which(invoke: Invoke) -> None:
    path, _ = write_gguf(Path("mini.gguf"), mini_arrays(), lambda *_: "F32")
    path.write_bytes(path.read_bytes().replace(b"qwen35moe", b"qwen3next", 1))

    result = invoke("models", "pack", "mini.gguf")

    assert (result.code, result.out) == (4, "")
    assert (
        result.err
        == "error: mini.gguf: its architecture is 'qwen3next'; supported: qwen35, qwen35moe (Qwen3.5).\n"
    )
