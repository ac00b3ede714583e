"""The ASPP decoder against a second implementation in float64."""

import pytest
import torch
from torch.nn import functional as F

from rc2l_d2.host import ShapeSpec
from rc2l_d2.modeling.aspp_decoder import ASPPDecoder

SHAPES = {"res2": ShapeSpec(channels=6, stride=4), "res3": ShapeSpec(channels=5, stride=8)}


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = ASPPDecoder(SHAPES, conv_dim=32, dilations=[1, 3], dropout=0.5, norm="GN").double()
    for parameter in decoder.parameters():  # also of the norms, which start at 1 and 0
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


@pytest.fixture
def maps():
    torch.manual_seed(1)
    return {"res2": torch.randn(2, 6, 12, 16).double(), "res3": torch.randn(2, 5, 6, 8).double()}


def expected(decoder, maps):
    weights = decoder.state_dict()

    def conv(x, name, dilation=1):
        kernel, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        x = F.conv2d(x, kernel, bias, padding=dilation * (len(kernel[0, 0]) // 2), dilation=dilation)
        if f"{name}.norm.weight" in weights:
            groups = x.unflatten(1, (32, -1)).flatten(2)
            centred = groups - groups.mean(-1, keepdim=True)
            x = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).view_as(x)
            x = x * weights[f"{name}.norm.weight"].view(-1, 1, 1) + weights[f"{name}.norm.bias"].view(-1, 1, 1)
        return x.clamp_min(0)

    high = maps["res3"]
    branches = [conv(high, f"aspp.branches.{index}", dilation) for index, dilation in enumerate((1, 1, 3))]
    pooled = conv(torch.stack([image.flatten(1).mean(1) for image in high])[..., None, None], "aspp.pooled")
    high = conv(torch.cat([*branches, pooled.expand(-1, -1, 6, 8)], 1), "aspp.project")
    # Bilinear to twice the size: the four neighbours of each pixel, at distances of 1/4 and 3/4.
    for dim in (2, 3):
        length = high.shape[dim]
        earlier = high.index_select(dim, torch.arange(-1, length - 1).clamp_min(0))
        later = high.index_select(dim, torch.arange(1, length + 1).clamp_max(length - 1))
        pairs = torch.stack([0.25 * earlier + 0.75 * high, 0.75 * high + 0.25 * later], dim + 1)
        high = pairs.flatten(dim, dim + 1)
    fused = torch.cat([high, conv(maps["res2"], "project")], 1)
    return conv(conv(fused, "fuse.0"), "fuse.1")


def test_features_are_those_of_the_second_implementation(decoder, maps):
    torch.testing.assert_close(decoder(maps), expected(decoder, maps))


def test_images_of_a_batch_do_not_meet(decoder, maps):
    alone = [decoder({name: x[index : index + 1] for name, x in maps.items()}) for index in range(2)]
    torch.testing.assert_close(torch.cat(alone), decoder(maps))


def test_whole_channels_are_dropped_in_training_alone(decoder, maps):
    seen = []
    decoder.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    assert torch.equal(decoder(maps), decoder(maps))
    decoder.train()(maps)
    before, after = seen[-1]
    dropped = (after == 0).flatten(2).all(-1)
    assert 0.2 < dropped.double().mean() < 0.8
    torch.testing.assert_close(after[~dropped], 2 * before[~dropped])
