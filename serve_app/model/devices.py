"""What is free on a device. Tests: tests/fast/test_resources.py, tests/gpu."""

from __future__ import annotations

import torch

from serve_app.resources import free_memory


def free_on(device: str) -> int:
    """Bytes that can still be taken on a device, as torch names it: `cpu`, `cuda:0`."""
    return int(torch.cuda.mem_get_info()[0]) if device.startswith("cuda") else free_memory()
