"""Why an operator of torch is not taken, as far as torch says itself: a word of `app.intake.program.refused`."""

import re
from functools import cache

import torch
from torch._ops import OpOverload

TRAINING = re.compile(r".*_backward(_.*)?|_?backward|_(foreach|fused|amp)_(?!rms_norm).*|.*_double_backward.*|.*_jvp")
HARDWARE = re.compile(
    r".*(cudnn|miopen|mkldnn|mps|cufft|cusparse|cslt|fbgemm|nnpack|vulkan|xnnpack|efficient_attention|flash_attention"
    r"|cutlass|_mkl|onednn|hip|xla|cuda|scaled_(grouped_)?mm|int4pack|int8pack|wrapped_(quantized_)?linear).*"
)
LAYOUTS = re.compile(
    r".*(sparse|nested|jagged|quantize|dequant|qparams|q_scale|q_zero|q_per|int_repr|coalesce|crow|ccol|row_indices"
    r"|col_indices|to_dense|sspaddmm|^_?values(_copy)?$|^_?indices(_copy)?$|hspmm|^smm|fake_quant|named|dimname|align_to|refine_names|rename"
    r"|zerotensor|quantized).*"
)
INTERNAL = re.compile(
    r"_index_put_impl.*|_native_multi_head_attention|_transformer_encoder_layer_fwd|_transform_bias_rescale_qkv"
    r"|_masked_softmax|_batch_norm_impl_index|slow_conv.*|thnn_conv2d|_histogramdd_.*|_linalg_\w+|_lu_with_info"
    r"|embedding_renorm_?|as_strided_|hash_tensor|segment_reduce|_thnn_.*|_grid_sampler_2d_cpu_fallback|.*_helper"
    r"|_compute_linear_combination|_slow_.*|.*_hacked_twin|_philox_.*|_sobol_.*|_spdiags|_spsolve|_foobar|_triton_.*"
    r"|_reshape_alias(_copy)?"
)
"""Kernels that torch calls by itself: some trust what they are given."""
EFFECTS = re.compile(
    r"set_?|_?resize_?(as)?(_.*)?|from_file|_save|record_stream|_?pin_memory|_(functional_)?assert.*|_?sym_constrain.*"
    r"|_test_.*|_copy_from.*|set_data|lift.*|_fw_.*|_make_dual.*|_unpack_dual.*|_make_dep_token|_print|_validate.*"
)


KEYS = ("CPU", "CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
"""What a kernel for the cpu is registered as."""


def _is_dispatched(target: OpOverload) -> bool:
    """Return whether torch's dispatcher knows the operator: TorchScript has some of its own."""
    return target._name in _dispatched()


@cache
def _dispatched() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())


def _has_kernel(target: OpOverload, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(target._name, key))


def reason(target: OpOverload) -> str | None:
    """Return why an operator can't be taken, None when it could be."""
    name, overload, schema = target._schema.name.partition("::")[2], target._overloadname, target._schema
    if any(argument.is_out for argument in schema.arguments):
        return "out"
    if torch.Tag.nondeterministic_seeded in target.tags or "Generator" in str(schema):
        return "random"
    if torch.Tag.dynamic_output_shape in target.tags or torch.Tag.data_dependent_output in target.tags:
        return "values"
    if not any("Tensor" in str(returned.type) for returned in schema.returns) or not _is_dispatched(target):
        return "queries"
    rules = (
        ("training", TRAINING.fullmatch(name)),
        ("hardware", HARDWARE.fullmatch(name) or not any(_has_kernel(target, key) for key in KEYS)),
        ("layouts", LAYOUTS.fullmatch(name) or "Dimname" in str(schema) or overload.startswith("named")),
        ("internal", INTERNAL.fullmatch(name) or overload.endswith("hacked_twin")),
        ("effects", EFFECTS.fullmatch(name)),
    )
    return next((word for word, applies in rules if applies), None)
