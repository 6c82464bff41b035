"""Initialisation with a vision transformer trained on photographs."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ms2hs.errors import WeightsError
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.vit_init import is_vit, load_vit

CONFIG = replace(preset("general"), width=48, depth=3, heads=3, patch=8, decoder_width=32, decoder_heads=2)


def make_vit(path, width=48, depth=3, patch=8):
    """A random ViT in timm's naming and shapes."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (10, width),
        "head.bias": (10,),
    }
    for i in range(depth):
        for part, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }.items():
            shapes[f"blocks.{i}.{part}"] = shape
    arrays = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(arrays, path)
    return arrays


def test_every_array_is_copied_or_reported(tmp_path):
    arrays = make_vit(tmp_path / "vit.safetensors")
    network = SpectralMAE(CONFIG)
    report = load_vit(network, tmp_path / "vit.safetensors")
    assert set(report.copied) | set(report.unused) == set(arrays)
    assert set(report.unused) == {"cls_token", "pos_embed", "head.weight", "head.bias"}
    assert report.new == ()
    torch.testing.assert_close(network.encoder[1].attn.qkv.weight.data, arrays["blocks.1.attn.qkv.weight"])
    torch.testing.assert_close(network.norm.bias.data, arrays["norm.bias"])


def test_encoder_computes_the_same_as_the_vit(tmp_path):
    # the same block, from torch's own layers and the file's arrays
    arrays = make_vit(tmp_path / "vit.safetensors")
    network = SpectralMAE(CONFIG)
    load_vit(network, tmp_path / "vit.safetensors")
    layer = torch.nn.TransformerEncoderLayer(48, 3, 192, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
        "norm1.weight": "norm1.weight",
        "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight",
        "norm2.bias": "norm2.bias",
    }
    layer.load_state_dict({own: arrays[f"blocks.0.{theirs}"] for own, theirs in names.items()})
    x = torch.randn(2, 7, 48)
    with torch.no_grad():
        torch.testing.assert_close(network.encoder[0](x), layer(x), atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(network.encoder[0](x, last=2), layer(x)[:, -2:], atol=2e-4, rtol=1e-4)


def test_grey_image_is_embedded_as_by_the_vit(tmp_path):
    arrays = make_vit(tmp_path / "vit.safetensors")
    network = SpectralMAE(CONFIG)
    load_vit(network, tmp_path / "vit.safetensors")
    grey = torch.rand(1, 1, 8, 8)
    theirs = torch.nn.functional.conv2d(
        grey.expand(-1, 3, -1, -1), arrays["patch_embed.proj.weight"], arrays["patch_embed.proj.bias"]
    )
    torch.testing.assert_close(network.embed(grey.flatten()), theirs.flatten(), atol=1e-4, rtol=1e-4)


def test_filters_of_another_size_are_reported(tmp_path):
    make_vit(tmp_path / "vit.safetensors", patch=16)
    report = load_vit(SpectralMAE(CONFIG), tmp_path / "vit.safetensors")
    assert "16 pixels, 8 here" in report.unused["patch_embed.proj.weight"]
    assert "embed.weight" in report.new


@pytest.mark.parametrize(("width", "depth"), [(24, 3), (48, 2)])
def test_vit_of_another_size_names_the_settings_that_fit(tmp_path, width, depth):
    make_vit(tmp_path / "vit.safetensors", width, depth)
    with pytest.raises(WeightsError, match=f"--set width={width} --set depth={depth}"):
        load_vit(SpectralMAE(CONFIG), tmp_path / "vit.safetensors")


def test_is_vit_recognises_a_vit(tmp_path):
    make_vit(tmp_path / "vit.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert is_vit(tmp_path / "vit.safetensors")
    assert not is_vit(tmp_path / "broken.safetensors")
    assert not is_vit(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="not a readable"):
        load_vit(SpectralMAE(CONFIG), tmp_path / "broken.safetensors")
