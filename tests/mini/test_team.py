"""Processes that train one model together."""

from pathlib import Path

import torch
from torch import nn

from mini.team import Team, work_together


def test_a_team_takes_the_mean_gradient_and_the_leaders_word(tmp_path: Path) -> None:
    def work(team: Team) -> None:
        parameters = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
        parameters[0].grad = torch.full((3,), float(team.rank))  # both have one
        if team.is_leader:
            parameters[1].grad = torch.full((3,), 5.0)  # one has
        said = team.share(parameters, 10.0 + team.rank)
        grads = [p.grad for p in parameters]
        torch.save({"grads": grads, "said": said}, tmp_path / f"{team.rank}.pt")

    work_together(2, work)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["said"] == 10
        assert found["grads"][0].tolist() == [0.5] * 3
        assert found["grads"][1].tolist() == [2.5] * 3
        assert found["grads"][2] is None
