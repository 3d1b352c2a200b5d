"""Several processes that train one model: each has its own batches, all take the mean gradient.

On a CPU two processes of one thread each do twice the work; two threads of one process do hardly
more than one, so small are the products, and wait for each other at each.
"""

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import nn

from qwen35.memory import keep_memory


@dataclass(frozen=True, slots=True)
class Team:
    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def share(self, parameters: Sequence[nn.Parameter], number: float) -> float:
        """Put the team's mean gradient into `parameters`; return the leader's `number`.

        Where one member had no gradient it counts as zero; where none had, there is none.
        """
        if self.size == 1:
            return number
        has_gradient = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        said = torch.tensor([number if self.is_leader else 0.0])
        message = torch.cat([part.flatten() for part in (*flat, has_gradient, said)])
        torch.distributed.all_reduce(message)
        *gradients, has_gradient, said = message.split([p.numel() for p in parameters] + [len(parameters), 1])
        for p, gradient, count in zip(parameters, gradients, has_gradient, strict=True):
            p.grad = (gradient / self.size).view_as(p) if count else None
        return said.item()


def work_together(size: int, work: Callable[[Team], None]) -> None:
    """Run `work` in `size` processes that are a team; here, where one is enough."""
    keep_memory()
    if size == 1:
        torch.set_num_threads(1)
        work(Team())
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    members = [context.Process(target=_join, args=(Team(rank, size), port, work)) for rank in range(size)]
    for member in members:
        member.start()
    try:
        for member in members:
            member.join()
    finally:
        for member in members:
            member.terminate()
    if any(member.exitcode for member in members):
        raise SystemExit("a process of the team failed, see above")


def _join(team: Team, port: int, work: Callable[[Team], None]) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=team.rank, world_size=team.size)
    try:
        work(team)
    finally:
        torch.distributed.destroy_process_group()
