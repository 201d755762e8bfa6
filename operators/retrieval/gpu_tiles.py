"""The similarities of tiles on a GPU, by torch; see `tiles.py`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from operators.retrieval.tiles import MARGIN, Tiles

# 64 MB of similarities, and about as much again while they are looked through.
_CELLS = 1 << 24
# What a device is tried on: queries, vectors, dimensions.
_TRIED = (256, 512, 1024)


def on_device(device: str) -> Tiles:
    """Tiles on a device of torch. Products are in full float32: TF32, which keeps ten bits, would be off by 1e-3."""
    torch.set_float32_matmul_precision("highest")
    return Tiles(_CELLS, partial(_held, device), _reaching)


def _held(device: str, vectors_ND: np.ndarray) -> torch.Tensor:
    # A copy: what is mapped from a file is read-only, and torch warns of tensors that share its memory.
    try:
        return torch.tensor(vectors_ND, device=device)
    except torch.OutOfMemoryError:
        return torch.tensor(vectors_ND)


@torch.inference_mode()
def _reaching(
    queries_QD: torch.Tensor, vectors_PD: torch.Tensor, floors_Q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a device has no room, on the CPU: others may fill it at any time."""
    if queries_QD.device != vectors_PD.device:
        return _reaching(queries_QD.cpu(), vectors_PD.cpu(), floors_Q)
    try:
        similar = queries_QD @ vectors_PD.T
        floors = torch.from_numpy(floors_Q).to(similar.device)
        cells = (similar >= floors[:, None]).flatten().nonzero().flatten()
        return cells.cpu().numpy(), similar.flatten()[cells].cpu().numpy()
    except torch.OutOfMemoryError:
        if queries_QD.device.type == "cpu":
            raise
    return _reaching(queries_QD.cpu(), vectors_PD.cpu(), floors_Q)


def largest_error(tiles: Tiles) -> float:
    """How far the similarities of some unit vectors are off, beside float64: a way may be used where that is below MARGIN by
    far."""
    rng = np.random.default_rng(0)
    queries, vectors = (_unit(rng.normal(size=(count, _TRIED[2]))) for count in _TRIED[:2])
    everything = np.full(len(queries), -np.inf, dtype=np.float32)
    _, similar = tiles.reaching(tiles.held(queries), tiles.held(vectors), everything)
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return float(np.abs(similar.reshape(exact.shape) - exact).max())


def exact_enough(tiles: Tiles) -> bool:
    """Whether a device computes similarities as closely as the search for neighbours assumes. One that is full does not."""
    try:
        return largest_error(tiles) < MARGIN / 4
    except RuntimeError as error:
        if "out of memory" in str(error):
            return False
        raise


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
