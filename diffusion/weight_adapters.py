"""What the tensors of a LoRA file add to one weight: LoRA, LoHa, LoKr, GLoRA, OFT, BOFT, DoRA.

Each function takes the weight, float32 [out,in,...], and the tensors of its file by their roles in
`lora_keys`, and returns the change of the weight, of the same shape. Results are those of ComfyUI's
LoRA loader at strength 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Adapter = Callable[[Tensor, Tensors], Tensor]

CP = "ijkl,jr,ip->prkl"
"""LyCORIS' CP decomposition of a convolution: core tensor, second factor, first factor."""


def adapted_weight(weight: Tensor, tensors: Tensors) -> Tensor:
    """Return the weight, in float32, with a file's adapter applied.

    Raises KeyError for a missing tensor and RuntimeError for shapes that do not fit.
    """
    old = weight.float()
    if "set" in tensors:
        return tensors["set"].to(old).reshape(old.shape)
    tensors = {role: tensor.to(old) for role, tensor in tensors.items()}
    if "diff" in tensors:
        return old + tensors["diff"].reshape(old.shape)
    adapter = next(adapter for role, adapter in ADAPTERS.items() if role in tensors)
    merged = old + adapter(old, tensors).reshape(old.shape)
    if "magnitude" in tensors:
        return merged * (_rows(tensors["magnitude"], old) / _norm(merged, 0))
    if "dora_scale" in tensors:
        return merged * _dora_factor(old, merged, tensors["dora_scale"])
    return merged


def _dora_factor(old: Tensor, merged: Tensor, scale: Tensor) -> Tensor:
    """DoRA (Liu et al. 2024), with the scale on the output axis [out,1,...] or input axis [1,in].

    As in ComfyUI the norms are those of the old weight's rows, or of the merged weight's columns.
    """
    if scale.ndim == 1:
        scale = _rows(scale, old)
    norm = _norm(old, 0) if len(scale) == len(old) else _norm(merged, 1)
    return scale / (norm + torch.finfo(norm.dtype).eps)


def _rows(vector: Tensor, weight: Tensor) -> Tensor:
    return vector.reshape(-1, *[1] * (weight.ndim - 1))


def _norm(weight: Tensor, axis: int) -> Tensor:
    """The norm of each row (axis 0) or column (axis 1), with all axes of the weight."""
    others = [other for other in range(weight.ndim) if other != axis]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True)


def _scale(tensors: Tensors, rank: int) -> Tensor | float:
    return tensors["alpha"].float() / max(rank, 1) if "alpha" in tensors else 1.0


def _lora(_: Tensor, tensors: Tensors) -> Tensor:
    """Hu et al. 2021: up [out,rank] @ down [rank,in,...], with LoCon's mid [rank,rank,...]."""
    up, down = tensors["up"].flatten(1), tensors["down"]
    scale = _scale(tensors, len(down))
    if "mid" in tensors:
        return torch.einsum("op,pr...,ri->oi...", up, tensors["mid"], down.flatten(1)) * scale
    return up @ down.flatten(1) * scale


def _loha(_: Tensor, tensors: Tensors) -> Tensor:
    """Hyeon-Woo et al. 2022: the product, element by element, of two low-rank matrices."""
    factors = []
    for number in "12":
        a, b = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
        core = tensors.get(f"hada_t{number}")
        factors.append(a @ b if core is None else torch.einsum(CP, core, b, a))
    return factors[0] * factors[1] * _scale(tensors, len(tensors["hada_w1_b"]))


def _lokr(_: Tensor, tensors: Tensors) -> Tensor:
    """Kronecker product of w1 and w2, each whole or of low rank (Yeh et al. 2024, LyCORIS)."""
    factors, rank = [], None
    for number in "12":
        factor = tensors.get(f"lokr_w{number}")
        if factor is None:
            a, b = tensors[f"lokr_w{number}_a"], tensors[f"lokr_w{number}_b"]
            core = tensors.get("lokr_t2") if number == "2" else None
            factor = a @ b if core is None else torch.einsum(CP, core, b, a)
            rank = len(b)
        factors.append(factor)
    first, second = factors
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return torch.kron(first, second) * (1.0 if rank is None else _scale(tensors, rank))


def _glora(weight: Tensor, tensors: Tensors) -> Tensor:
    """Chavan et al. 2023: W @ A + B with both of low rank, in LyCORIS' two orders of factors."""
    a1, a2, b1, b2 = (tensors[f"glora_{name}"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    old_order = b2.shape[1] == len(b1) == len(a1) == a2.shape[1]
    new_order = len(b2) == b1.shape[1] == a1.shape[1] == len(a2)
    square = len(a2) == len(weight) == weight.shape[1]
    if old_order and (square or not new_order):
        change = b2 @ b1 + weight.flatten(1) @ a2 @ a1
        return change * _scale(tensors, len(a1))
    change = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    return (change + (b1 @ b2).reshape(change.shape)) * _scale(tensors, len(a2))


def _oft(weight: Tensor, tensors: Tensors) -> Tensor:
    """Rotate blocks of rows: OFT [n,size,size] (Qiu et al. 2023) or BOFT [levels,n,size,size]."""
    rotations = _rotations(tensors)
    if rotations.ndim == 3:
        rows = weight.reshape(*rotations.shape[:2], -1)
        return torch.einsum("knm,knr->kmr", rotations, rows).reshape(weight.shape) - weight
    rotated, size = weight, rotations.shape[-1]  # BOFT: Liu et al. 2024, butterfly factors
    for level, factor in enumerate(rotations):
        width = 2**level * (size // 2)
        rows = rotated.unflatten(0, (-1, 2, width)).transpose(1, 2).flatten(0, 2)
        rows = torch.einsum("bij,bj...->bi...", factor, rows.unflatten(0, (-1, size)))
        rotated = rows.flatten(0, 1).unflatten(0, (-1, width, 2)).transpose(1, 2).flatten(0, 2)
    return rotated * tensors.get("rescale", 1.0) - weight


def _rotations(tensors: Tensors) -> Tensor:
    """Cayley transform of the blocks; `alpha` limits the norm of the skew-symmetric part."""
    blocks = tensors["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    if "alpha" in tensors:
        limit, norm = tensors["alpha"].float(), skew.norm() + 1e-8
        skew = skew * torch.where((limit > 0) & (norm > limit), limit / norm, 1.0)
    identity = torch.eye(blocks.shape[-1]).to(blocks)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


ADAPTERS: dict[str, Adapter] = {
    "up": _lora,
    "down": _lora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "lokr_w2": _lokr,
    "lokr_w2_a": _lokr,
    "glora_a1": _glora,
    "oft_blocks": _oft,
}
"""Role of a tensor that only one kind of adapter has -> its change of a weight."""
