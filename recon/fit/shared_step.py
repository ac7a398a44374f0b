"""One step of several processes: each has drawn a picture and pulled its loss back; all of them take the same step.

Parameters are whole in every process. Gradients of nodes and sky are averaged, what densification counts is summed, and gradients of poses
and exposures, each of which belongs to one picture, are laid side by side. All of it travels together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.recon.densify_classic import Classic
from splatmend.recon.fit.nodes_optimiser import NodesOptimiser
from splatmend.recon.fit.pose_refinement import ShownPoses, StepTwists
from splatmend.recon.fit.processes import Processes


@dataclass(frozen=True, kw_only=True)
class StepGradients:
    """What a step's pictures say beside the gradients that parameters hold. `drawn`: keys of the nodes that they show, in the nodes' own
    order. `wishes`: see `NodesOptimiser.wishes`. `exposures`: a row for each picture."""

    drawn: Sequence[str]
    wishes: Mapping[str, Tensor]
    twists: StepTwists
    exposures: Float[Tensor, "P *G 3 4"]


@dataclass(frozen=True, kw_only=True)
class StepPicture:
    """What is known of a picture without drawing it: the keys of the nodes that it shows, and whose poses."""

    drawn: Sequence[str]
    poses: ShownPoses


def exchanged(
    own: StepGradients,
    pictures: Sequence[StepPicture],
    processes: Processes,
    nodes: NodesOptimiser,
    shared: Sequence[Tensor],
    most_twists: int,
) -> StepGradients:
    """What all pictures of a step say, from what this process's own says. Afterwards gradients are the mean over the pictures; where one
    does not show a node, it counts as zero.

    Args:
        pictures: those of all processes, in the order of their ranks.
        shared: parameters that belong to no node; their gradients are averaged too.
        most_twists: rows that are enough for the gradients of any picture's poses.
    """
    seen = {key for picture in pictures for key in picture.drawn}
    drawn = [key for key in nodes.nodes if key in seen]
    params = [*(param for key in drawn for param in nodes[key].all_params.values()), *shared]
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    gradients = [param.grad for param in params if param.grad is not None]
    wishes = {}
    for key in drawn:
        if isinstance(nodes[key].densifier, Classic):
            means = nodes[key].params["means"]
            wishes[key] = own.wishes[key] if key in own.wishes else torch.zeros(2, len(means), device=means.device)
    rows = own.twists.gradients[0]
    # A sum in which each place has one entry that is not zero.
    twists = torch.zeros(processes.count, most_twists, 6, device=params[0].device)
    twists[processes.rank, : len(rows)] = rows
    exposures = torch.zeros(processes.count, *own.exposures.shape[1:], device=twists.device)
    exposures[processes.rank] = own.exposures[0]
    processes.sum([*gradients, *wishes.values(), twists, exposures])
    for gradient in gradients:
        gradient.div_(processes.count)
    shown = tuple(picture.poses for picture in pictures)
    return StepGradients(drawn=drawn, wishes=wishes, twists=StepTwists(shown=shown, gradients=twists), exposures=exposures)


def align(processes: Processes, tensors: Sequence[Tensor], iteration: int) -> None:
    """Give all processes the first one's values, so that no difference between machines, or between two runs of a kernel, grows.

    Raises:
        UserError: where they are not at the same iteration, or differ in their numbers of Gaussians.
    """
    if processes.count == 1:
        return
    places = processes.gathered([iteration, *(list(tensor.shape) for tensor in tensors)])
    if any(place[0] != places[0][0] for place in places):
        raise UserError("fit: the processes do not find the same checkpoint; write --out to a folder that all of them see.")
    if any(place != places[0] for place in places):
        raise UserError("fit: the processes have come to different numbers of Gaussians; start them on machines of one kind.")
    processes.give(tensors)
