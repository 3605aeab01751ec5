"""Gradients of ComfyUI's fused kernels of rotary embeddings, against their formula in PyTorch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

EPSILON = 1e-6
"""The kernels' own."""


def rotated(x: torch.Tensor, freqs: torch.Tensor, *, halves: bool) -> torch.Tensor:
    """Rotate the pairs of x [...,d] by the matrices freqs [...,d/2,2,2].

    A pair is two neighbours, or one of each half.
    """
    pairs = x.unflatten(-1, (2, -1)).mT if halves else x.unflatten(-1, (-1, 2))
    turned = (freqs @ pairs[..., None])[..., 0]
    return (turned.mT if halves else turned).flatten(-2)


def normed(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Divide x [...,d] by its root mean square, and multiply by scale [d]."""
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * scale


@pytest.mark.parametrize("halves", [False, True], ids=["neighbours", "halves"])
@pytest.mark.parametrize(
    ("kernel", "own_scale"), [("apply_rope", False), ("rms_rope", False), ("rms_rope", True)]
)
def test_a_kernel_has_the_gradient_of_its_formula(
    kernel: str, halves: bool, own_scale: bool, comfy: SimpleNamespace
) -> None:
    pytest.importorskip("comfy_kitchen", reason="this ComfyUI has no fused kernels")
    suffix = "_split_half" if halves else ""
    pair = getattr(torch.ops.comfy_kitchen, f"{kernel}{suffix}", None)
    single = getattr(torch.ops.comfy_kitchen, f"{kernel}{suffix}1", None)
    if pair is None or single is None:
        pytest.skip("this ComfyUI has no such kernel")
    source = torch.Generator().manual_seed(0)
    angles = 3 * torch.rand(1, 1, 5, 4, generator=source)
    cos, sin = angles.cos(), angles.sin()
    freqs = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    leaves = [torch.randn(2, 3, 5, 8, generator=source) for _ in range(2)]
    leaves += [torch.rand(8, generator=source) + 0.5 for _ in range(2)]
    weights = torch.randn(2, 2, 3, 5, 8, generator=source)
    for leaf in leaves:
        leaf.requires_grad_()
    q, k, q_scale, k_scale = leaves
    if not own_scale:
        k_scale = q_scale
    norms = kernel == "rms_rope"

    def gradients(outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        weighted = sum((w * x).sum() for w, x in zip(weights, outputs, strict=False))
        used = leaves if norms else leaves[:2]
        return torch.autograd.grad(weighted, used, allow_unused=True, materialize_grads=True)

    def formula(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return rotated(normed(x, scale) if norms else x, freqs, halves=halves)

    expected = formula(q, q_scale), formula(k, k_scale)
    scales = (q_scale, k_scale if own_scale else None) if norms else ()
    outputs = pair(q, k, freqs, *scales)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(gradients(outputs), gradients(expected))
    output = single(q, freqs, *scales[:1])
    torch.testing.assert_close(output, expected[0])
    torch.testing.assert_close(gradients((output,)), gradients((formula(q, q_scale),)))
