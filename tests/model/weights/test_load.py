import copy
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3_5ForCausalLM

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.network.model import Qwen35
from qwen35.weights.assign import config_for
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE, Checkpoint
from qwen35.weights.load import load_model
from qwen35.weights.pack import pack
from qwen35.weights.recipe import Quant
from tests.model.reference import DENSE, MOE, SHAPES, Shape, reference_model
from tests.model.reference_mtp import ReferenceMtp
from tests.model.weights.packing import tiny_checkpoint

UNTIED = next(shape for shape in SHAPES if not shape.is_tied and not shape.is_moe)
LAYER = "model.language_model.layers.0."

MODEL = Path(__file__).resolve().parents[3] / "model"

Tensors = dict[str, Tensor]


def write(folder: Path, shape: Shape, dtype: torch.dtype = torch.float32, shard_size: str = "5GB") -> Path:
    """What `save_pretrained` writes: no MTP module, experts one by one."""
    model = copy.deepcopy(reference_model(shape)).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder


def read_files(folder: Path) -> Tensors:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    """`change` the tensors of a single-file checkpoint in place."""
    tensors = read_files(folder)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE)


def mtp_tensors(shape: Shape) -> Tensors:
    mtp = ReferenceMtp(reference_model(shape), shape)
    return {f"mtp.{name}": tensor for name, tensor in mtp.state_dict().items()}


def load(folder: Path, dtype: torch.dtype | None = None) -> Qwen35:
    return load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=dtype)


def split_experts(tensors: Tensors) -> None:
    """From fused experts to one tensor for each, as the MTP module of the official files has them."""
    for name in [name for name in tensors if ".mlp.experts." in name]:
        experts, _, projection = name.rpartition(".")
        for e, expert in enumerate(tensors.pop(name)):
            if projection == "down_proj":
                tensors[f"{experts}.{e}.down_proj.weight"] = expert.clone()
            else:
                for half, part in zip(("gate", "up"), expert.chunk(2), strict=True):
                    tensors[f"{experts}.{e}.{half}_proj.weight"] = part.clone()


def assert_holds(model: Qwen35, expected: Tensors) -> None:
    """The parameters are `expected`, by official names, and no others."""
    parameters = dict(model.named_parameters())
    assert parameters.keys() == {name.removeprefix("model.") for name in expected}
    for name, tensor in expected.items():
        parameter = parameters[name.removeprefix("model.")]
        assert parameter.device.type == "cpu"
        assert torch.equal(parameter, tensor.to(parameter.dtype)), name


def official_tensors(shape: Shape) -> Tensors:
    """By the model itself, not by its file."""
    tensors = dict(reference_model(shape).named_parameters())
    return {name: parameter.detach() for name, parameter in tensors.items()}


@pytest.mark.parametrize("shard_size", ["5GB", "60KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_parameter_is_that_of_the_saved_model(tmp_path: Path, shape: Shape, shard_size: str) -> None:
    write(tmp_path, shape, shard_size=shard_size)
    assert (tmp_path / INDEX).exists() == (shard_size == "60KB")

    model = load(tmp_path)

    assert_holds(model, official_tensors(shape))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("wanted", [None, torch.bfloat16, torch.float32], ids=str)
def test_weights_are_cast_to_the_run_dtype_and_decays_stay_float32(
    tmp_path: Path, shape: Shape, stored: torch.dtype, wanted: torch.dtype | None
) -> None:
    write(tmp_path, shape, stored)
    # The official files hold A_log in float32 beside bf16.
    exact = {name: tensor for name, tensor in official_tensors(shape).items() if name.endswith("A_log")}
    rewrite(tmp_path, lambda tensors: tensors.update(exact))

    model = load(tmp_path, wanted)

    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith("A_log") else wanted or stored), name
    assert_holds(model, {name: t.to(stored) for name, t in official_tensors(shape).items()} | exact)


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
def test_the_mtp_module_is_there_if_the_files_hold_it(tmp_path: Path, shape: Shape) -> None:
    write(tmp_path, shape)
    assert ModelConfig.from_folder(tmp_path).text.num_mtp_layers == 1
    assert load(tmp_path).mtp is None

    rewrite(tmp_path, lambda tensors: tensors.update(mtp_tensors(shape)))
    assert_holds(load(tmp_path), official_tensors(shape) | mtp_tensors(shape))

    config = ModelConfig.from_folder(tmp_path)
    without = replace(config, text=replace(config.text, num_mtp_layers=0))
    assert config_for(Checkpoint.open(tmp_path), without) == config


@pytest.mark.parametrize("is_mtp_fused", [True, False], ids=["mtp fused", "mtp by expert"])
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "by expert"])
def test_experts_come_fused_or_one_by_one(tmp_path: Path, is_fused: bool, is_mtp_fused: bool) -> None:
    write(tmp_path, MOE)
    main, mtp = official_tensors(MOE), mtp_tensors(MOE)
    expected = main | mtp
    if not is_fused:
        split_experts(main)
    if not is_mtp_fused:
        split_experts(mtp)
    save_file(main | mtp, tmp_path / SINGLE_FILE)

    assert_holds(load(tmp_path), expected)


def test_experts_may_be_scattered_over_shards(tmp_path: Path) -> None:
    write(tmp_path, MOE)
    tensors = read_files(tmp_path)
    assert f"{LAYER}mlp.experts.3.up_proj.weight" in tensors
    (tmp_path / SINGLE_FILE).unlink()
    names = sorted(tensors)
    random.Random(0).shuffle(names)
    shards = {f"part {i}.safetensors": names[i::3] for i in range(3)}
    for shard, its_names in shards.items():
        save_file({name: tensors[name] for name in its_names}, tmp_path / shard)
    weight_map = {name: shard for shard, its_names in shards.items() for name in its_names}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")

    assert_holds(load(tmp_path, torch.float32), official_tensors(MOE))


def test_a_text_only_resave_loads(tmp_path: Path) -> None:
    reference = reference_model(UNTIED)
    text = Qwen3_5ForCausalLM(reference.config.text_config)
    text.model.load_state_dict(reference.model.language_model.state_dict())
    text.lm_head.load_state_dict(reference.lm_head.state_dict())
    text.save_pretrained(tmp_path)
    assert "model.layers.0.input_layernorm.weight" in read_files(tmp_path)

    model = load(tmp_path)

    assert model.visual is None
    official = official_tensors(UNTIED)
    assert_holds(model, {name: t for name, t in official.items() if not name.startswith("model.visual.")})


def test_other_prefixes_lead_to_the_same_parameters(tmp_path: Path) -> None:
    write(tmp_path, DENSE)

    def change(tensors: Tensors) -> None:
        tensors.update(mtp_tensors(DENSE))
        for name in list(tensors):
            renamed = name.replace("model.visual.", "model.language_model.visual.")
            renamed = f"model.{name}" if name.startswith("mtp.") else renamed
            tensors[renamed] = tensors.pop(name)

    rewrite(tmp_path, change)

    assert_holds(load(tmp_path), official_tensors(DENSE) | mtp_tensors(DENSE))


def test_a_tied_model_may_still_hold_its_head(tmp_path: Path) -> None:
    write(tmp_path, DENSE)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": torch.full((271, 50), torch.nan)}))

    model = load(tmp_path)

    assert model.lm_head is None
    assert_holds(model, official_tensors(DENSE))


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    write(tmp_path, UNTIED)
    rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))

    with pytest.raises(CheckpointError, match=r"Tensors 1 missing: lm_head\.weight\."):
        load(tmp_path)


def test_all_that_does_not_fit_is_said_at_once_and_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, DENSE)

    def change(tensors: Tensors) -> None:
        for i in range(7):
            tensors[f"extra.{i}"] = torch.zeros(1)
        del tensors[LAYER + "linear_attn.A_log"], tensors["model.visual.merger.norm.bias"]
        tensors[LAYER + "mlp.up_proj.weight"] = tensors[LAYER + "mlp.up_proj.weight"].T.contiguous()

    rewrite(tmp_path, change)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("data was read"))

    with pytest.raises(CheckpointError) as raised:
        load(tmp_path)

    message = str(raised.value)
    assert message.startswith(f"{tmp_path}: the weight files do not fit config.json.")
    assert "2 missing: visual.merger.norm.bias, language_model.layers.0.linear_attn.A_log;" in message
    assert "7 unknown: extra.0, extra.1, extra.2, extra.3, extra.4, ...;" in message
    assert f"1 of another shape: {LAYER}mlp.up_proj.weight is [50, 77], expected [77, 50]." in message


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def double(name: str, copy_name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({copy_name: tensors[name].clone()})


def transpose(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].mT.contiguous()})


UP = LAYER + "mlp.experts.{}.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop(UP.format(3)), r"1 missing: language_model\.layers\.0\.mlp\.experts\.3\.up_proj\.weight\."),
        (double(UP.format(3), UP.format(7)), r"1 unknown: .*layers\.0\.mlp\.experts\.7\.up_proj\.weight\."),
        (
            transpose(UP.format(3)),
            r"1 of another shape: .*\.3\.up_proj\.weight is \[50, 22\], expected \[22, 50\]",
        ),
        (
            lambda tensors: tensors.update({LAYER + "mlp.experts.gate_up_proj": torch.zeros(7, 44, 50)}),
            r"14 unknown: .*experts\.0\.gate_proj\.weight",
        ),
        (
            double(UP.format(3), "model.layers.0.mlp.experts.3.up_proj.weight"),
            r"1 unknown: model\.\S+ \(the same as model\.\S+\)",
        ),
    ],
    ids=["missing", "one too many", "misshapen", "also fused", "two names"],
)
def test_experts_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[Tensors], object], reason: str
) -> None:
    write(tmp_path, MOE)
    load(tmp_path)
    rewrite(tmp_path, change)

    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path)


def test_transposed_fused_experts_are_refused(tmp_path: Path) -> None:
    write(tmp_path, MOE)
    tensors = official_tensors(MOE)
    transpose(LAYER + "mlp.experts.gate_up_proj")(tensors)
    save_file(tensors, tmp_path / SINGLE_FILE)

    with pytest.raises(CheckpointError, match=r"gate_up_proj is \[7, 50, 44\], expected \[7, 44, 50\]"):
        load(tmp_path)


def test_an_incomplete_mtp_module_is_refused(tmp_path: Path) -> None:
    write(tmp_path, DENSE)
    rewrite(tmp_path, lambda tensors: tensors.update({"mtp.norm.weight": torch.zeros(50)}))

    with pytest.raises(CheckpointError, match=r"14 missing: mtp\.\S+, .*, \.\.\.\."):
        load(tmp_path)


def test_progress_counts_the_bytes_of_every_tensor(tmp_path: Path) -> None:
    write(tmp_path, MOE, shard_size="60KB")
    steps: list[tuple[int, int]] = []
    config = ModelConfig.from_folder(tmp_path)

    load_model(tmp_path, config, device="cpu", on_progress=lambda done, total: steps.append((done, total)))

    tensors = read_files(tmp_path)
    assert {total for _, total in steps} == {sum(tensor.nbytes for tensor in tensors.values())}
    assert len(steps) == len(tensors)
    done = [done for done, _ in steps]
    assert done == sorted(set(done))
    assert done[-1] == steps[0][1]


def run_python(code: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(MODEL)},
        timeout=120,
    )
    return run.stdout


LOAD = """
import sys
from pathlib import Path
from qwen35.config import ModelConfig
from qwen35.weights.load import load_model

folder = Path(sys.argv[1])
load_model(folder, ModelConfig.from_folder(folder), device="cpu")
print("sympy" in sys.modules)
"""


def test_loading_imports_no_algebra(tmp_path: Path) -> None:
    """torch's meta device pulls it in on some roads, which takes seconds."""
    assert run_python(LOAD, str(write(tmp_path, DENSE))) == "False\n"


# The peak of this very process: ru_maxrss would begin at that of the process which started it.
MEASURE = """
import re, sys
from pathlib import Path
import torch
from qwen35.config import ModelConfig
from qwen35.weights.load import load_model

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
before = peak()
model = load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=dtype)
print(peak() - before, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_holds_no_second_copy_of_the_weights(tmp_path: Path, dtype: str) -> None:
    """Peak memory: the weights, and one tensor of the file beside them while it is cast."""
    write(tmp_path, DENSE)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {"hidden_size": 512, "intermediate_size": 8192, "mtp_num_hidden_layers": 0}
    config["vision_config"] |= {"out_hidden_size": 512}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.device("meta"):
        big = Qwen35(ModelConfig.from_folder(tmp_path))
    tensors = {f"model.{name}": torch.zeros(p.shape) for name, p in big.named_parameters()}
    save_file(tensors, tmp_path / SINGLE_FILE)

    grown, weights = map(int, run_python(MEASURE, str(tmp_path), dtype).split())
    largest = max(tensor.nbytes for tensor in tensors.values())
    assert weights > 100e6
    assert 0.9 * weights < grown < weights + largest + 16e6


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
@pytest.mark.parametrize("quant", ["q4", "q8"])
def test_a_packed_model_is_the_network_with_rounded_weights(
    shape: Shape, quant: Quant, tmp_path: Path
) -> None:
    source = tiny_checkpoint(tmp_path / "source", shape)
    packed = pack(source, tmp_path / "packed", quant).folder
    whole, rounded = (
        load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=torch.float32)
        for folder in (source, packed)
    )
    exact = dict(whole.named_parameters())
    for name, found in rounded.named_parameters():
        step = exact[name].abs().max() / (7 if quant == "q4" else 127)
        assert (found - exact[name]).abs().max() <= step, name
        assert exact[name].numel() < 64 or found.any(), name
