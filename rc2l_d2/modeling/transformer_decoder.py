"""The transformer decoder: learned queries attend to one backbone map and predict a class and a mask embedding each."""

from __future__ import annotations

import math

import fvcore.nn.weight_init as weight_init
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..host import CfgNode, Conv2d, ShapeSpec, configurable


def sine_position_embedding(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Fixed position embedding (channels, height, width), float32: DETR's normalised two-dimensional sine embedding.

    The first half of the channels encodes y, the second x. A coordinate p = 1, ..., n is scaled to 2 pi p / n;
    channel pair j holds its sine and cosine at frequency 10000 ** (-2j / half).

    Args:
        channels: a multiple of 4.
    """
    half = channels // 2
    frequency = 10000.0 ** (-2.0 * torch.arange(half // 2, dtype=torch.float32, device=device) / half)

    def waves(count: int) -> Tensor:
        position = torch.arange(1, count + 1, dtype=torch.float32, device=device) * (2 * math.pi / (count + 1e-6))
        angle = position[:, None] * frequency
        return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)  # (count, half), sine and cosine in turn

    y = waves(height)[:, None].expand(height, width, half)
    x = waves(width)[None].expand(height, width, half)
    return torch.cat((y, x), dim=2).permute(2, 0, 1)


class TransformerDecoderLayer(nn.Module):
    """DETR's decoder layer: self-attention, cross-attention to the image, MLP; each has a residual and a norm."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, query_position: Tensor, memory: Tensor, memory_key: Tensor) -> Tensor:
        """
        Args:
            target: (B, N, D), state of the queries.
            query_position: (B, N, D), added to the state in queries and keys of the attention.
            memory: (B, S, D), map of the image: the values of the attention.
            memory_key: (B, S, D), the map plus its position embedding: the keys.

        Returns:
            (B, N, D), the new state.
        """

        def among_queries(state: Tensor) -> Tensor:
            query = state + query_position
            return self.self_attn(query, query, state, need_weights=False)[0]

        def to_image(state: Tensor) -> Tensor:
            return self.multihead_attn(state + query_position, memory_key, memory, need_weights=False)[0]

        def feedforward(state: Tensor) -> Tensor:
            return self.linear2(self.dropout(F.relu(self.linear1(state))))

        for block, norm in ((among_queries, self.norm1), (to_image, self.norm2), (feedforward, self.norm3)):
            if self.pre_norm:
                target = target + self.dropout(block(norm(target)))
            else:
                target = norm(target + self.dropout(block(target)))
        return target


class Transformer(nn.Module):
    """A stack of decoder layers on a feature map, without an encoder (MaskFormer's default)."""

    def __init__(self, layers: int, dim: int, heads: int, feedforward_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        stack = nn.ModuleList(
            TransformerDecoderLayer(dim, heads, feedforward_dim, dropout, pre_norm) for _ in range(layers)
        )
        # A ModuleDict gives MaskFormer's parameter names, transformer.decoder.layers and transformer.decoder.norm.
        self.decoder = nn.ModuleDict({"layers": stack, "norm": nn.LayerNorm(dim)})
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, image: Tensor, query_embed: Tensor) -> list[Tensor]:
        """Return the normalised state (B, N, D) after each layer, from a map (B, D, h, w) and query embeddings (N, D).

        Padding is not masked out: MaskFormer does not, and its published weights are trained with it.
        """
        batch, dim, height, width = image.shape
        position = sine_position_embedding(height, width, dim, image.device).flatten(1).transpose(0, 1)
        memory = image.flatten(2).transpose(1, 2)
        memory_key = memory + position
        query_position = query_embed.expand(batch, -1, -1)
        target, states = torch.zeros_like(query_position), []
        for layer in self.decoder["layers"].children():
            target = layer(target, query_position, memory, memory_key)
            states.append(self.decoder["norm"](target))
        return states


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, layers: int):
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class TransformerPredictor(nn.Module):
    """MaskFormer's predictor, with its parameter names: class and mask logits of learned queries."""

    @configurable
    def __init__(
        self,
        in_feature: str,
        in_channels: int,
        mask_dim: int,
        *,
        num_classes: int,
        num_queries: int,
        hidden_dim: int,
        heads: int,
        feedforward_dim: int,
        layers: int,
        dropout: float,
        pre_norm: bool,
        deep_supervision: bool,
    ):
        """
        Args:
            in_feature: name of the backbone map that the queries attend to.
            in_channels: its channels.
            mask_dim: C, channels of the per-pixel features.
            num_classes: K, without "no object".
            num_queries: N.
            hidden_dim: D, width of the transformer.
            deep_supervision: whether training also returns the predictions of earlier layers.
        """
        super().__init__()
        if hidden_dim % 4 or hidden_dim % heads:
            raise InputError(
                f"MODEL.MASK_FORMER.HIDDEN_DIM is {hidden_dim}, but it has to be a multiple of 4 and of "
                f"MODEL.MASK_FORMER.NHEADS ({heads}); change one of them."
            )
        if layers < 1 or num_queries < 1:
            raise InputError(
                f"MODEL.MASK_FORMER.DEC_LAYERS ({layers}) or NUM_OBJECT_QUERIES ({num_queries}) is below 1; set both "
                f"to at least 1."
            )
        self.in_feature = in_feature
        self.num_queries = num_queries
        self.deep_supervision = deep_supervision
        self.transformer = Transformer(layers, hidden_dim, heads, feedforward_dim, dropout, pre_norm)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        if in_channels == hidden_dim:
            self.input_proj = nn.Identity()
        else:
            self.input_proj = Conv2d(in_channels, hidden_dim, kernel_size=1)
            weight_init.c2_xavier_fill(self.input_proj)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], mask_dim: int) -> dict:
        keys = cfg.MODEL.MASK_FORMER
        name = keys.TRANSFORMER_IN_FEATURE
        if name not in input_shape:
            raise InputError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {name!r}, but the backbone gives {sorted(input_shape)}; "
                "choose one of these."
            )
        return {
            "in_feature": name,
            "in_channels": input_shape[name].channels,
            "mask_dim": mask_dim,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_queries": keys.NUM_OBJECT_QUERIES,
            "hidden_dim": keys.HIDDEN_DIM,
            "heads": keys.NHEADS,
            "feedforward_dim": keys.DIM_FEEDFORWARD,
            "layers": keys.DEC_LAYERS,
            "dropout": keys.DROPOUT,
            "pre_norm": keys.PRE_NORM,
            "deep_supervision": keys.DEEP_SUPERVISION,
        }

    def forward(
        self, features: dict[str, Tensor], pixel_features: Tensor, supervised: int | None = None
    ) -> tuple[list[tuple[Tensor, Tensor]], None]:
        """
        Args:
            features: backbone maps by name; the queries attend to ``in_feature``, (B, in_channels, h', w').
            pixel_features: (B, C, h, w).
            supervised: earlier layers predict only for this number of first images; None: for all.

        Returns:
            ``(class_logits (B, N, K+1), mask_logits (B, N, h, w))`` of each layer, first layer first; of the last layer
            only in evaluation and without deep supervision. And None: there are no features of regions.
        """
        states = self.transformer(self.input_proj(features[self.in_feature]), self.query_embed.weight)
        if not (self.training and self.deep_supervision):
            states = states[-1:]
        # No loss uses the masks of earlier layers on unlabelled images.
        auxiliary = [(state[:supervised], pixel_features[:supervised]) for state in states[:-1]]
        layers = [
            (self.class_embed(state), torch.einsum("bnc,bchw->bnhw", self.mask_embed(state), of_pixels))
            for state, of_pixels in [*auxiliary, (states[-1], pixel_features)]
        ]
        return layers, None
