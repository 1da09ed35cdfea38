"""T3: finding the shortest way on a graph, after having seen only random walks.

21 nodes with random one-way edges; node 0 is the goal and ends a walk. A policy is pre-trained on 1,000 random walks of
up to 10 nodes, then given a start node and rewarded by optimality: 1 for a shortest way to the goal, 0 for one of 10
nodes and for walks that use an edge that does not exist or never arrive, linear between. The task is that of trlx's
smallest example (random walks); no KL penalty, and its learning rate, rollouts and epochs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.harness import Say, Task
from benchmarks.learning.policies import PLAIN_PPO, draw_fresh, improve, learn_text, small_palm
from rlhf_core.errors import ConfigError
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.ppo import PolicyTrainer

GOAL = 0
NODES_OF_A_WALK = 10
EDGE_PROBABILITY = 0.1
DIM, DEPTH = 64, 2
PRETRAINING_STEPS = 400


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=21, help="of the graph, the goal included (21)")
    parser.add_argument("--walks", type=int, default=1000, help="random walks that the policy is pre-trained on (1000)")
    parser.add_argument("--updates", type=int, default=100, help="rounds of PPO, 128 responses each (100)")
    parser.add_argument("--samples", type=int, default=2000, help="fresh walks that it is judged by (2000)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    if options.nodes < 3:
        raise ConfigError("nodes", options.nodes, "at least 3")
    if options.walks < 1:
        raise ConfigError("walks", options.walks, "at least 1")
    if options.samples < options.nodes:
        raise ConfigError("samples", options.samples, f"at least nodes = {options.nodes}")
    config = replace(
        PLAIN_PPO,
        updates=options.updates,
        rollout_batch_size=128,
        minibatch_size=32,
        ppo_epochs=4,
        max_new_tokens=NODES_OF_A_WALK - 1,
        learning_rate=3e-4,
        critic_learning_rate=1e-3,
        gae_lambda=0.95,
        seed=seed,
    )
    edges = draw_graph(options.nodes, derive_generator(seed, "graph"))
    shortest = distances(edges)
    prompts = [[node] for node in range(1, options.nodes)]

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        walks = zip(prompts, responses, strict=True)
        return torch.tensor([optimality([*prompt, *response], edges, shortest) for prompt, response in walks])

    torch.manual_seed(derive_seed(seed, "initialise"))
    palm = small_palm(options.nodes, dim=DIM, depth=DEPTH)
    walks = draw_walks(edges, options.walks, derive_generator(seed, "walks"))
    loss = learn_text(palm, walks, PRETRAINING_STEPS, seed=seed)
    say(f"pre-trained on {len(walks)} random walks: {loss:.3f} nats a step")
    model = ActorCritic(palm, actor_lora=False, critic_lora=False, critic_dim_out=1)
    before = draw_fresh(model, prompts, score, config, GOAL, options.samples)
    improve(PolicyTrainer(model, prompts, score, config, GOAL), say)
    after = draw_fresh(model, prompts, score, config, GOAL, options.samples)
    return {
        "optimality": after.reward.value,
        "optimality_error": after.reward.error,
        "optimality_at_first": before.reward.value,
        "arrive_rate": float(after.rollout.ended.double().mean()),
        "arrive_rate_at_first": float(before.rollout.ended.double().mean()),
        "kl": after.kl.value,
        "longest_shortest_way": max(shortest),
    }


def draw_graph(nodes: int, generator: torch.Generator) -> list[set[int]]:
    """The nodes that each node leads to: drawn until each has one and the goal can be reached within a walk."""
    while True:
        drawn = torch.rand(nodes, nodes, generator=generator) < EDGE_PROBABILITY
        edges = [{to for to in range(nodes) if drawn[node, to] and to != node} for node in range(nodes)]
        known = [distance for distance in distances(edges) if distance is not None]
        if len(known) == nodes and max(known) < NODES_OF_A_WALK - 1:
            return edges


def distances(edges: Sequence[set[int]]) -> list[Any]:
    """Steps from each node to the goal; None where no way leads there."""
    found: list[Any] = [None] * len(edges)
    found[GOAL], reached, steps = 0, [GOAL], 0
    while reached:
        steps += 1
        reached = [node for node, to in enumerate(edges) if found[node] is None and not to.isdisjoint(reached)]
        for node in reached:
            found[node] = steps
    return found


def draw_walks(edges: Sequence[set[int]], count: int, generator: torch.Generator) -> list[list[int]]:
    """Random walks from random starts, until the goal or ten nodes."""
    walks = []
    for _ in range(count):
        walk = [int(torch.randint(1, len(edges), (), generator=generator))]
        while walk[-1] != GOAL and len(walk) < NODES_OF_A_WALK:
            ways = sorted(edges[walk[-1]])
            walk.append(ways[int(torch.randint(len(ways), (), generator=generator))])
        walks.append(walk)
    return walks


def optimality(walk: Sequence[int], edges: Sequence[set[int]], shortest: Sequence[int]) -> float:
    """1 for a shortest way to the goal, falling linearly to 0 at ten nodes; 0 for what is no way there."""
    is_walk = all(after in edges[before] for before, after in zip(walk, walk[1:], strict=False))
    if not is_walk or walk[-1] != GOAL:
        return 0.0
    return (NODES_OF_A_WALK - len(walk)) / (NODES_OF_A_WALK - 1 - shortest[walk[0]])


TASK = Task(
    name="T3",
    words="PPO finds the shortest ways on a graph of 21 nodes after pre-training on random walks",
    add_options=add_options,
    measure=measure,
    columns=("optimality", "optimality_error", "arrive_rate", "optimality_at_first", "arrive_rate_at_first", "kl"),
)
