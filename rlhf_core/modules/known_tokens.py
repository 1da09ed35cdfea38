"""The feed-forward part of a first block, worked out once for each token that occurs.

What the first block reads is a token's embedding, whatever stands around it, and in the parallel form its feed-forward
part reads the same. As long as embedding and block stand still it is a function of the token alone, and policy, critic
and reference over one trunk have it in common: a PPO round then runs it for each distinct token instead of for each
token of each pass. What comes out is the same to rounding.

Source: the idea of looking up what precedes the first mixing of positions is that of Graef 2024,
https://arxiv.org/abs/2402.13388
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_core.modules.attention import ParallelBlock


class KnownTokens:
    """What a first block feeds forward, by token; embedding and block must stay as they are.

    Memory: (distinct tokens, dim) numbers, and 8 bytes a token of the vocabulary.

    Args:
        embedding: (num_tokens, dim).
        block: the first one.
    """

    def __init__(self, embedding: Tensor, block: ParallelBlock) -> None:
        self.embedding = embedding.detach()
        self.block = block
        self.places = torch.full((len(embedding),), -1, device=embedding.device)
        self.fed = self.embedding.new_empty(0, embedding.shape[1])

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """(...) token ids -> (..., dim), to which tokens that are new are added first.

        Raises:
            IndexError: a token lies outside the vocabulary.
        """
        places = self.places[tokens]
        is_new = places < 0
        if bool(is_new.any()):
            new = tokens[is_new].unique()
            self.places[new] = torch.arange(len(self.fed), len(self.fed) + len(new), device=new.device)
            self.fed = torch.cat((self.fed, self.block.feed(self.block.norm(self.embedding[new]))))
            places = self.places[tokens]
        return F.embedding(places, self.fed)
