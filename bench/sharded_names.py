"""What the suite of ranks and the ranks themselves call things."""

from __future__ import annotations

from typing import Any

RANKS = 2
TENSORS = 16
KINDS = {"float32": "float32", "bfloat16": "gradients and weights of bfloat16"}
BASELINE, EXCHANGE, STEP = "exchange and step", "exchange", "step of the share"
ZERO: dict[str, dict[str, Any]] = {
    "ZeRO fused": {"fused": True},
    "ZeRO fused, buckets": {"fused": True, "parameters_as_bucket_view": True},
    "ZeRO foreach": {"foreach": True},
}
# Of the limit's loop, per element.
LIMIT_BYTES = 28
