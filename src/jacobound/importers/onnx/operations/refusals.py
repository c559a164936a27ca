"""Why ONNX operations are refused, and what to do instead, where it is not obvious."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import NodeProto

from jacobound.errors import UnsupportedOpError


def _same(text: str, names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, text)


QUANTISED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
NORMALISED = ("LRN",)
LOOPS = ("If", "Loop", "Scan")  # where what they do depends on values
PLACES = ("ArgMax", "ArgMin", "TopK", "Hardmax", "NonMaxSuppression", "NonZero", "Unique")
JUMPING = ("Floor", "Ceil", "Round", "Mod", "Equal", "IsNaN", "IsInf", "BitShift")

# Reasons that are better than "neither affine nor a known activation".
REASONS: Mapping[str, str] = {
    **_same("It rounds values of the network to integers, or computes with integers.", QUANTISED),
    **_same("It divides by a statistic of the values themselves, which is not understood.", NORMALISED),
    **_same("What is computed depends on values of the network.", LOOPS),
    **_same("It gives the places of values, or sorts; that is no continuous function.", PLACES),
    **_same("It jumps where its argument passes certain points, so it has no derivative bounds.", JUMPING),
    **_same("Pooling by an l_p norm is not understood.", ("LpPool", "GlobalLpPool")),
    **_same("It multiplies values of the network with each other.", ("Det",)),
}

ADVICE: Mapping[str, str] = {
    **_same("Export the network without control flow (by tracing it).", LOOPS),
    **_same("Export the unquantised float32 network.", QUANTISED),
    **_same("Use batch or layer normalisation in its place.", NORMALISED),
    **_same("Use average or max pooling in its place.", ("LpPool", "GlobalLpPool")),
    **_same("Leave the rounding out, or put a continuous function in its place.", JUMPING),
    **_same("Rewrite the network with products by constants only.", ("Gemm", "Pow", "Einsum")),
}


def refuse_by_name(node: NodeProto) -> None:
    """Raise for operations that are known not to be understood.

    Raises:
        UnsupportedOpError: with the reason.
    """
    if node.op_type in REASONS:
        raise UnsupportedOpError(REASONS[node.op_type])


def advice(node: NodeProto, before: str | None) -> str:
    """What to do about an operation that is refused.

    Args:
        node: the operation.
        before: a tensor of the network that it reads, if any.
    """
    said = ADVICE.get(node.op_type, "")
    if before is None:
        return said or "Evaluate it before exporting, so that the file holds its result."
    cut = f"cut the network before it with from_onnx(path, until='{before}')"
    return f"{said} Or {cut}." if said else f"Replace it, or {cut}."
