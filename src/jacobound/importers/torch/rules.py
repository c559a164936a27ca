"""The table of all ATen operations that become nodes, with the rule for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.torch.operations import arithmetic as arithmetic
from jacobound.importers.torch.operations import composite as composite
from jacobound.importers.torch.operations import interpolation as interpolation
from jacobound.importers.torch.operations import movement as movement
from jacobound.importers.torch.operations import pieces as pieces
from jacobound.importers.torch.operations import products as products
from jacobound.importers.torch.operations import recurrent as recurrent
from jacobound.importers.torch.operations import reductions as reductions
from jacobound.importers.torch.operations import resizing as resizing
from jacobound.importers.torch.operations import scatter as scatter
from jacobound.importers.torch.operations import vectors as vectors
from jacobound.importers.torch.operations import windows as windows
from jacobound.importers.torch.operations.call import TRAINING, TRAINING_ONLY, Call, Rule, Value


def keep(call: Call) -> Node:
    """clone, detach, dropout outside training, nan_to_num of numbers: the value itself."""
    if "dropout" in call.op and call.argument(2, "train", True):
        raise InvalidModelError(f"'{call.name}' draws random numbers to drop entries: {TRAINING}")
    return call.args[0]


def native_dropout(call: Call) -> Value:
    """The form of the core operations, which returns the mask as well."""
    if call.argument(2, "train", True) is not False:
        raise InvalidModelError(f"'{call.name}' draws random numbers to drop entries: {TRAINING}")
    return [call.args[0], TRAINING_ONLY]


def cast(call: Call) -> Node:
    """A change of dtype is nothing for real numbers, as long as the model goes on in float32 or float64."""
    if call.result.dtype not in (torch.float32, torch.float64):
        raise UnsupportedOpError(f"It rounds its input to {call.result.dtype}.")
    return call.args[0]


Rows = tuple[tuple[Rule, str], ...]

_ARITHMETIC: Final[Rows] = (
    (
        arithmetic.add,
        "add.Tensor add.Scalar sub.Tensor sub.Scalar subtract.Tensor subtract.Scalar rsub.Tensor rsub.Scalar",
    ),
    (arithmetic.negate, "neg.default negative.default"),
    (arithmetic.multiply, "mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar"),
    (
        arithmetic.divide,
        "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode divide.Tensor divide.Scalar divide.Tensor_mode "
        "divide.Scalar_mode true_divide.Tensor true_divide.Scalar",
    ),
    (arithmetic.add_scaled, "addcmul.default addcdiv.default"),
    (arithmetic.lerp, "lerp.Scalar lerp.Tensor"),
    (arithmetic.power, "pow.Tensor_Scalar pow.Tensor_Tensor float_power.Tensor_Scalar"),
    (arithmetic.rsqrt, "rsqrt.default"),
    (arithmetic.exponential, "pow.Scalar exp2.default special_exp2.default"),
    (arithmetic.logarithm, "log2.default log10.default"),
    (arithmetic.shifted, "expm1.default special_expm1.default log1p.default special_log1p.default erfc.default"),
    (
        arithmetic.extremum,
        "maximum.default minimum.default max.other min.other fmax.default fmin.default",
    ),
    (
        arithmetic.clamp,
        "clamp.default clamp.Tensor clip.default clip.Tensor clamp_min.default clamp_min.Tensor clamp_max.default "
        "clamp_max.Tensor",
    ),
    (arithmetic.rrelu, "rrelu.default"),
    (arithmetic.softplus, "softplus.default"),
    (arithmetic.log_sigmoid, "log_sigmoid_forward.default"),
)

_PRODUCTS: Final[Rows] = (
    (products.linear, "linear.default"),
    (
        products.matmul,
        "matmul.default linalg_matmul.default mm.default mv.default bmm.default dot.default vdot.default",
    ),
    (products.add_product, "addmm.default addmv.default baddbmm.default"),
    (products.chain, "linalg_multi_dot.default chain_matmul.default"),
    (products.vecdot, "linalg_vecdot.default"),
    (products.einsum, "einsum.default"),
    (products.tensordot, "tensordot.default"),
    (products.inner, "inner.default"),
    (products.outer, "outer.default ger.default"),
)

_VECTORS: Final[Rows] = (
    (
        vectors.softmax,
        "softmax.int log_softmax.int _softmax.default _log_softmax.default special_softmax.default "
        "special_log_softmax.default _safe_softmax.default",
    ),
    (vectors.logsumexp, "logsumexp.default special_logsumexp.default"),
    (vectors.layer_norm, "layer_norm.default native_layer_norm.default"),
    (vectors.rms_norm, "rms_norm.default"),
    (vectors.group_norm, "group_norm.default native_group_norm.default"),
    (vectors.glu, "glu.default"),
    (vectors.attention, "scaled_dot_product_attention.default"),
)

_RECURRENT: Final[Rows] = (
    (
        recurrent.layers,
        "lstm.input gru.input rnn_tanh.input rnn_relu.input lstm.data gru.data rnn_tanh.data rnn_relu.data",
    ),
    (recurrent.cell, "lstm_cell.default gru_cell.default rnn_tanh_cell.default rnn_relu_cell.default"),
)

_WINDOWS: Final[Rows] = (
    (
        windows.convolution,
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding convolution.default",
    ),
    (
        interpolation.interpolate,
        "upsample_linear1d.default upsample_linear1d.vec upsample_bilinear2d.default upsample_bilinear2d.vec "
        "upsample_trilinear3d.default upsample_trilinear3d.vec upsample_bicubic2d.default upsample_bicubic2d.vec",
    ),
    (
        windows.transposed_convolution,
        "conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input",
    ),
    (
        windows.batch_norm,
        "batch_norm.default native_batch_norm.default _native_batch_norm_legit.default "
        "_native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training.default "
        "_native_batch_norm_legit_functional.default",
    ),
    (windows.instance_norm, "instance_norm.default"),
    (windows.average_pool, "avg_pool1d.default avg_pool2d.default avg_pool3d.default"),
    (
        windows.adaptive_average_pool,
        "adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default "
        "_adaptive_avg_pool2d.default _adaptive_avg_pool3d.default",
    ),
    (
        windows.max_pool,
        "max_pool1d.default max_pool2d.default max_pool3d.default max_pool1d_with_indices.default "
        "max_pool2d_with_indices.default max_pool3d_with_indices.default",
    ),
    (
        windows.adaptive_max_pool,
        "adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default",
    ),
)

_REDUCTIONS: Final[Rows] = (
    (reductions.reduce, "mean.default mean.dim sum.default sum.dim_IntList nansum.default"),
    (reductions.extremum_over, "amax.default amin.default max.default min.default max.dim min.dim"),
    (reductions.both_extrema, "aminmax.default"),
    (reductions.norm, "linalg_vector_norm.default"),
    (reductions.cumsum, "cumsum.default"),
    (reductions.sort, "sort.default sort.stable msort.default"),
    (reductions.topk, "topk.default"),
    (reductions.kth_value, "kthvalue.default"),
    (reductions.median, "median.dim nanmedian.dim"),
    (reductions.difference, "diff.default"),
)

_COMPOSITE: Final[Rows] = (
    (composite.bilinear, "bilinear.default"),
    (composite.cosine_similarity, "cosine_similarity.default"),
    (composite.cdist, "cdist.default _cdist_forward.default"),
    (composite.pairwise_distance, "pairwise_distance.default"),
    (
        composite.deviation,
        "var.default var.dim var.correction std.default std.dim std.correction var_mean.default var_mean.dim "
        "var_mean.correction std_mean.default std_mean.dim std_mean.correction",
    ),
    (composite.cross, "cross.default linalg_cross.default"),
    (composite.pair, "hypot.default logaddexp.default"),
    (composite.angle, "atan2.default arctan2.default"),
    (composite.product_over, "prod.default prod.dim_int"),
    (composite.running_product, "cumprod.default"),
    (composite.logit, "logit.default special_logit.default"),
    (composite.hyperbolic, "cosh.default sinh.default"),
    (scatter.scatter_reduce, "scatter_reduce.two"),
    (
        pieces.compare,
        "gt.Scalar gt.Tensor ge.Scalar ge.Tensor lt.Scalar lt.Tensor le.Scalar le.Tensor sign.default sgn.default",
    ),
)

_MOVEMENT: Final[Rows] = (
    (
        movement.move,
        "view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int ravel.default "
        "permute.default transpose.int t.default numpy_T.default mT.default swapaxes.default swapdims.default "
        "movedim.int movedim.intlist moveaxis.int moveaxis.intlist squeeze.default squeeze.dim squeeze.dims "
        "unsqueeze.default slice.Tensor select.int narrow.default expand.default expand_as.default "
        "broadcast_to.default repeat.default tile.default repeat_interleave.self_int roll.default flip.default "
        "fliplr.default flipud.default rot90.default cat.default concat.default concatenate.default stack.default "
        "hstack.default vstack.default dstack.default split.Tensor split.sizes split_with_sizes.default "
        "chunk.default tensor_split.sections tensor_split.indices unbind.int unsafe_split.Tensor "
        "unsafe_chunk.default pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default "
        "unfold.default diagonal.default tril.default triu.default view_as.default reshape_as.default "
        "slice_scatter.default select_scatter.default diagonal_scatter.default copy.default fill.Tensor "
        "select_copy.int slice_copy.Tensor view_copy.default permute_copy.default expand_copy.default "
        "diag_embed.default broadcast_tensors.default atleast_1d.default atleast_2d.default atleast_3d.default "
        "column_stack.default unsqueeze_copy.default squeeze_copy.default transpose_copy.int alias_copy.default "
        "native_channel_shuffle.default split_copy.Tensor unbind_copy.int meshgrid.default meshgrid.indexing",
    ),
    (movement.index, "index.Tensor _unsafe_index.Tensor take_along_dim.default take.default"),
    (
        movement.take,
        "index_select.default gather.default scatter.src index_copy.default repeat_interleave.self_Tensor",
    ),
    (movement.put_number, "scatter.value index_fill.int_Scalar"),
    (movement.put, "index_put.default"),
    (movement.where, "where.self where.ScalarOther where.ScalarSelf masked_fill.Scalar masked_fill.Tensor"),
    (scatter.scatter_add, "scatter_add.default"),
    (scatter.index_add, "index_add.default"),
    (scatter.fold, "col2im.default"),
    (
        movement.like,
        "zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default "
        "new_full.default fill.Scalar empty_like.default new_empty.default",
    ),
    (resizing.pad, "constant_pad_nd.default pad.default"),
    (
        resizing.copy_entries,
        "upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec "
        "upsample_nearest3d.default upsample_nearest3d.vec _upsample_nearest_exact1d.default "
        "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec "
        "_upsample_nearest_exact3d.default _upsample_nearest_exact3d.vec im2col.default reflection_pad1d.default "
        "reflection_pad2d.default reflection_pad3d.default replication_pad1d.default replication_pad2d.default "
        "replication_pad3d.default",
    ),
    (
        keep,
        "clone.default contiguous.default detach.default alias.default lift_fresh_copy.default positive.default "
        "dropout.default feature_dropout.default alpha_dropout.default feature_alpha_dropout.default "
        "conj.default resolve_conj.default real.default nan_to_num.default",
    ),
    (native_dropout, "native_dropout.default"),
    (cast, "_to_copy.default to.dtype to.dtype_layout to.device to.other type_as.default"),
)


def _table() -> Mapping[str, Rule]:
    rows = (*_ARITHMETIC, *_PRODUCTS, *_VECTORS, *_RECURRENT, *_WINDOWS, *_REDUCTIONS, *_COMPOSITE, *_MOVEMENT)
    return MappingProxyType({f"aten.{name}": rule for rule, names in rows for name in names.split()})


RULES: Final[Mapping[str, Rule]] = _table()

TURNING: Final[frozenset[Rule]] = frozenset((keep, movement.move, recurrent.layers))
"""Rules that take values whose points do not lie along the first axis."""

ALIKE: Final[frozenset[Rule]] = frozenset(
    (keep, movement.move, movement.take, movement.index, arithmetic.negate, reductions.reduce, reductions.cumsum)
)
"""Rules that treat real and imaginary parts alike."""

EXACT: Final[frozenset[Rule]] = frozenset(
    (keep, movement.move, movement.take, movement.index, movement.put, arithmetic.negate)
)
"""Rules that round no constant, whatever numbers they get."""

ROUNDING: Final[frozenset[Rule]] = frozenset(
    (
        arithmetic.add,
        arithmetic.multiply,
        arithmetic.divide,
        arithmetic.add_scaled,
        arithmetic.lerp,
        arithmetic.clamp,
        arithmetic.exponential,
        arithmetic.power,
        products.add_product,
        scatter.index_add,
        movement.like,
        movement.where,
        movement.put_number,
        resizing.pad,
    )
)
"""Rules that round the Python numbers they get to the module's dtype."""
