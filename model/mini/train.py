"""The training run: resumable, on whatever device is there, for as many minutes as it is given."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from mini.batches import BatchMaker, Curriculum, batch_loader
from mini.losses import PictureHeads, RouterBalance, answer_loss, picture_loss
from mini.muon import make_optimisers
from qwen35.network.model import Qwen35

LOG_EVERY = 50
SAVE_EVERY_S = 120.0


@dataclass(slots=True)
class Clock:
    """How far the run is. Progress follows time, so that any machine ends its curriculum."""

    budget_s: float
    elapsed_s: float = 0.0
    step: int = 0

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed_s / self.budget_s)


def learning_rate_factor(step: int, progress: float) -> float:
    """Warm up, hold, and fall to nothing in the last third."""
    return min(1.0, step / 100) * min(1.0, max(0.0, (1 - progress) / 0.33))


def initialise(model: nn.Module) -> None:
    """Draw the parameters that the network leaves at zero or at PyTorch's defaults."""
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            nn.init.uniform_(p, math.log(0.02), math.log(4.0))  # from slow to quick forgetting
        elif name.endswith("dt_bias"):
            nn.init.normal_(p, -1.0, 1.0)
        elif name.endswith("conv1d.weight"):
            nn.init.normal_(p, 0.0, 0.3)
            p.data[..., -1] += 0.5
        elif name.endswith("pos_embed.weight"):
            p.data.copy_(waves(round(p.shape[0] ** 0.5), p.shape[1]))
        elif p.ndim >= 2:
            fan_in = p[0].numel() if p.ndim != 3 else p.shape[-1]
            nn.init.normal_(p, 0.0, 0.02 if "embed" in name and p.ndim == 2 else fan_in**-0.5)
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")):
                p.data.mul_(0.3)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def waves(side: int, size: int) -> torch.Tensor:
    """A square table of positions (side ** 2, size) made of slow waves along rows and columns.

    From random rows each place would have to be learnt on its own; from waves, "top left" is a
    direction from the start.
    """
    place = torch.arange(side) / side * math.pi
    angles = place[:, None] * torch.arange(1, size // 4 + 1) ** 0.75  # (side, size / 4)
    along = torch.cat([angles.sin(), angles.cos()], -1) * 0.5
    rows = along[:, None].expand(-1, side, -1)
    columns = along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], -1).reshape(side**2, size)


class Run:
    """Model, optimisers and clock of one folder, which survives being killed."""

    def __init__(self, folder: Path, minutes: float, device: torch.device) -> None:
        self.folder, self.device = folder, device
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.model = Qwen35(BatchMaker().config)
        initialise(self.model)
        self.heads = PictureHeads(self.model.config.text.hidden_size)
        self.model.to(device)
        self.heads.to(device)
        self.optimisers = make_optimisers(self.model, self.heads)
        self.clock = Clock(minutes * 60)
        if self.checkpoint.exists():
            self._restore()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "state.pt"

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.clock.elapsed_s, self.clock.step = state["elapsed_s"], state["step"]

    def start_from(self, folder: Path) -> None:
        """Take the weights of a checkpoint of the same shape. The heads of training begin anew."""
        from qwen35.weights.load import load_model  # needs more than the other machines may have

        config = self.model.config
        weights = load_model(folder, config, device=self.device, dtype=torch.float32).state_dict()
        self.model.load_state_dict(weights)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "elapsed_s": self.clock.elapsed_s,
            "step": self.clock.step,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def train(self, curriculum: Curriculum, num_workers: int) -> None:
        batches, progress = batch_loader(self.clock.step, curriculum, num_workers)
        balance = RouterBalance(self.model)
        log = (self.folder / "log.jsonl").open("a")
        sums: dict[str, list[float]] = {}
        last_save = mark = time.monotonic()
        pictures = 0
        while self.clock.progress < 1:
            progress.value = self.clock.progress  # type: ignore[attr-defined]
            batch = next(batches).to(self.device)
            self._set_rates()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                if batch.pictures is not None and self.clock.progress < curriculum.vision_alone:
                    losses = picture_loss(self.model, self.heads, batch)
                else:
                    losses = answer_loss(
                        self.model,
                        self.heads,
                        batch,
                        balance,
                        vision_rests=self.clock.progress < curriculum.vision_rests_until,
                        with_drafts=self.clock.progress >= curriculum.drafts_from,
                    )
            losses.total.backward()
            nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            for name, figure in losses.figures.items():
                sums.setdefault(name, []).append(figure)
            pictures += batch.pictures.prefix.shape[0] if batch.pictures else 0
            now = time.monotonic()
            self.clock.elapsed_s += now - mark
            mark = now
            self.clock.step += 1
            if self.clock.step % LOG_EVERY == 0:
                means = {name: round(sum(v) / len(v), 4) for name, v in sums.items()}
                line = (
                    {k: round(v, 4) for k, v in asdict(self.clock).items()} | {"pictures": pictures} | means
                )
                print(json.dumps(line), file=log, flush=True)
                print(json.dumps(line), flush=True)
                sums.clear()
            if now - last_save > SAVE_EVERY_S:
                self.save()
                last_save = now
        self.save()

    def _set_rates(self) -> None:
        factor = learning_rate_factor(self.clock.step, self.clock.progress)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group.setdefault("base_lr", group["lr"])
                group["lr"] = group["base_lr"] * factor
