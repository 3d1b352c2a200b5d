"""A stage of the training: resumable, on whatever device is there, for as many minutes as it is given."""

import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from mini.adopt import adopt, take_whole
from mini.batches import Batch, BatchMaker, batch_loader
from mini.codes import Codes
from mini.curriculum import Curriculum, Stage
from mini.initial import initialise, name_things
from mini.losses import Losses, RouterBalance, answer_loss, picture_loss
from mini.muon import make_optimisers
from mini.pointing import Pointing
from mini.reading import Reading
from mini.team import Team
from qwen35.network.model import Qwen35

LOG_EVERY = 50
SAVE_EVERY_S = 120.0
# The MTP layer learns last, from a trunk that stands nearly still.
DRAFTS_FROM = 0.7
ADOPTED_EYES_REST = 0.5


@dataclass(slots=True)
class Clock:
    """How far the stage is. Progress follows time, so that any machine ends its curriculum."""

    budget_s: float
    elapsed_s: float = 0.0
    step: int = 0

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed_s / self.budget_s)


def learning_rate_factor(step: int, progress: float) -> float:
    """Warm up, hold, and fall to nothing in the last two fifths."""
    return min(1.0, step / 100) * min(1.0, max(0.0, (1 - progress) / 0.4))


@torch.no_grad()
def level_frames(model: Qwen35) -> None:
    """Let the encoder see the mean of a pair's frames.

    It then sees a still picture, whose frames are the same, as before; but one that has seen no clips
    may have halved its weights between the two in any way.
    """
    assert model.visual is not None
    weight = model.visual.patch_embed.proj.weight  # (d, C, frames, patch, patch)
    weight.copy_(weight.mean(2, keepdim=True).expand_as(weight).clone())


class Run:
    """Model, optimisers and clock of one stage in one folder, which survives being killed."""

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        minutes: float,
        device: torch.device,
        team: Team | None = None,
        language_from: Path | None = None,
        start_from: Path | None = None,
        is_new_to_clips: bool = False,
        eyes_rest: float = ADOPTED_EYES_REST,
    ) -> None:
        """`language_from`: a checkpoint whose language model a new stage `together` takes, instead of that
        of the stage `language`. `start_from`: a checkpoint that it takes whole, its eyes too;
        `is_new_to_clips`: which has been shown pictures alone; `eyes_rest`: for how long a share of the stage
        its eyes stand still. A stage that was begun goes on with what it began with.
        """
        self.folder, self.stage, self.device = folder, stage, device
        self.eyes_rest = eyes_rest
        self.team = team or Team()
        self.is_adopted = language_from is not None or start_from is not None
        self.is_whole = start_from is not None
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        maker = BatchMaker()
        self.model = Qwen35(maker.config)
        self.codes = Codes(maker.config.text.hidden_size)
        initialise(self.model)
        name_things(self.model.language_model.embed_tokens.weight.data, maker.tokenizer, self.codes)
        self.pointing = Pointing(self.model)
        self.reading = Reading(self.model, self.pointing)
        parts = {"codes": self.codes, "pointing": self.pointing, "reading": self.reading}
        self.helpers = nn.ModuleDict(parts)
        for part in (self.model, self.helpers):
            part.to(device)
        rate = 0.5 if stage == "together" else 1.0
        self.optimisers = make_optimisers(self.model, self.helpers, rate)
        self.clock = Clock(minutes * 60)
        if self.state_file(stage).exists():
            self._restore()
        elif stage == "together" and start_from is not None:
            take_whole(self.model, start_from, maker.tokenizer)
            if is_new_to_clips:
                level_frames(self.model)
        elif stage == "together":
            self._join(language_from)

    def state_file(self, stage: Stage) -> Path:
        return self.folder / f"{stage}.pt"

    def _restore(self) -> None:
        state = torch.load(self.state_file(self.stage), map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.helpers.load_state_dict(state["helpers"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.clock.elapsed_s, self.clock.step = state["elapsed_s"], state["step"]
        self.is_adopted, self.is_whole = state["is_adopted"], state["is_whole"]

    def _join(self, language_from: Path | None) -> None:
        """Take the eyes of one stage and the language of the other, or of a checkpoint."""
        eyes = torch.load(self.state_file("eyes"), map_location=self.device, weights_only=True)
        seeing = {name: p for name, p in eyes["model"].items() if name.startswith("visual.")}
        self.helpers.load_state_dict(eyes["helpers"])
        if language_from is not None:
            self.model.load_state_dict(seeing, strict=False)
            adopt(self.model, self.codes, language_from)
            return
        language = torch.load(self.state_file("language"), map_location=self.device, weights_only=True)
        self.model.load_state_dict(language["model"] | seeing)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "helpers": self.helpers.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "elapsed_s": self.clock.elapsed_s,
            "step": self.clock.step,
            "is_adopted": self.is_adopted,
            "is_whole": self.is_whole,
        }
        path = self.state_file(self.stage)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def train(self, curriculum: Curriculum, num_workers: int, skip_batches: int = 0) -> None:
        """`skip_batches`: those that the checkpoint it goes on from has been shown."""
        first = skip_batches + self.clock.step * self.team.size + self.team.rank
        batches, progress = batch_loader(first, self.team.size, curriculum, num_workers)
        parameters = [*self.model.parameters(), *self.helpers.parameters()]
        balance = RouterBalance(self.model)
        log = (self.folder / f"{self.stage}.jsonl").open("a")
        sums: dict[str, list[float]] = defaultdict(list)
        last_save = mark = time.monotonic()
        while self.clock.progress < 1:
            progress.value = self.clock.progress  # type: ignore[attr-defined]
            batch = next(batches).to(self.device)
            self._set_rates()
            self._rest_eyes()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                losses = self.losses(batch, balance)
            losses.total.backward()
            now = time.monotonic()
            self.clock.elapsed_s = self.team.share(parameters, self.clock.elapsed_s + now - mark)
            mark = now
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.clock.step += 1
            if not self.team.is_leader:
                continue
            for name, figure in losses.figures.items():
                sums[name].append(figure)
            if self.clock.step % LOG_EVERY == 0:
                means = {name: round(sum(v) / len(v), 3) for name, v in sums.items()}
                line = {k: round(v, 1) for k, v in asdict(self.clock).items()} | means
                print(json.dumps(line), file=log, flush=True)
                print(self.stage, json.dumps(line), flush=True)
                sums.clear()
            if now - last_save > SAVE_EVERY_S:
                self.save()
                last_save = now
        if self.team.is_leader:
            self.save()

    def losses(self, batch: Batch, balance: RouterBalance) -> Losses:
        if self.stage == "eyes":
            return picture_loss(self.model, self.codes, batch)
        generator = torch.Generator().manual_seed(self.clock.step * self.team.size + self.team.rank)
        with_drafts = self.stage == "together" and self.clock.progress >= DRAFTS_FROM
        codes = None if self.is_adopted else self.codes
        return answer_loss(
            self.model,
            codes,
            batch,
            balance,
            generator,
            pointing=self.pointing,
            reading=self.reading,
            with_drafts=with_drafts,
        )

    def _rest_eyes(self) -> None:
        """Adopted eyes stand still at first, but for the merger that a language hears them through that
        has not learnt with them."""
        if self.stage == "together" and self.is_adopted:
            rest = self.clock.progress < self.eyes_rest
            assert self.model.visual is not None
            for name, p in self.model.visual.named_parameters():
                p.requires_grad_(not rest or (not self.is_whole and name.startswith("merger.")))

    def _set_rates(self) -> None:
        factor = learning_rate_factor(self.clock.step, self.clock.progress)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group.setdefault("base_lr", group["lr"])
                group["lr"] = group["base_lr"] * factor
