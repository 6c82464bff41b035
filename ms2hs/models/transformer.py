"""A transformer's block; names as in timm, so that its checkpoints fit."""

import torch.nn.functional as F  # noqa: N812  as everywhere
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, asking: int | None = None) -> Tensor:
        """(sequence, token, width); of the last `asking` tokens only, if given."""
        sequences, tokens, width = x.shape
        qkv = self.qkv(x).view(sequences, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (sequence, head, token, width of a head)
        query = query if asking is None else query[:, :, tokens - asking :]
        met = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.proj(met.transpose(1, 2).flatten(2))
        return joined


class Perceptron(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        made: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return made


class Block(nn.Module):
    """A transformer's block, normalised before each part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)

    def forward(self, x: Tensor, asking: int | None = None) -> Tensor:
        """(sequence, token, width); with `asking` only the last so many tokens go on."""
        kept = x if asking is None else x[:, x.shape[1] - asking :]
        kept = kept + self.attn(self.norm1(x), asking)
        made: Tensor = kept + self.mlp(self.norm2(kept))
        return made
