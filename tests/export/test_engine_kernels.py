from __future__ import annotations

import json

import pytest

from export.engine_kernels import kernels_in_inspector, kernels_in_log, memory_in_log

# what TensorRT-RTX 1.7.1 wrote of an engine with two profiles, cut to four kernels and a signal
LISTED = """Layers:
Name: __mye1_myl1_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , Metadata:\x20
Name: node_a+node_b_myl1_1, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,32], Strides: [32,1], StrideOrder: \
[1,0], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { Name: w, Dimensions: [32,64], \
Datatype: Half, Format: (Linear) Row major linear format }, { Name: alpha, Dimensions: [1], Datatype: Float, Format: \
(Linear) Row major linear format }], Outputs: [ { Name: y, Dimensions: [-1,64], Datatype: Float, Format: (Linear) Row \
major linear format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_a][ONNX Layer: node_b]
Name: __mye5_myl1_2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , EventId: 1, Metadata:\x20
Name: _gemm_mha_v2_myl3_8, LayerType: kgen, Inputs: [ { Name: q [profile 1], Dimensions: [-1,-1,16], Datatype: Half, \
Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: _gemm_mha_v2_0x96, StreamId: 0, \
Metadata: [ONNX Layer: node_of_mixed | node__symbolic (SiluAttention)]
Name: [ShapeHostToDeviceCopy 0] [profile 1], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ { Name: s, Location: \
Device, Dimensions: [], Datatype: Int64, Format: unknown }], ParameterType: ShapeH2D, Metadata:\x20

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [-1,32], Location: Device"""
LOG = [
    "[INFO] Total Activation Memory: 100 bytes",
    "[INFO] Total Activation Memory: 200 bytes",
    "[INFO] Total Weights Memory: 300 bytes",
    f"[VERBOSE] {LISTED}",
    "[VERBOSE] Adding 1 engine(s) to plan file.",
]


def test_the_log_names_kernels_with_their_types_profiles_and_nodes() -> None:
    shape_call, gemm, attention, copy = kernels_in_log(LOG, 2)
    assert [kernel.profile for kernel in (shape_call, gemm, attention, copy)] == [0, 0, 1, 1]
    assert [kernel.multiplies for kernel in (shape_call, gemm, attention, copy)] == [False, True, True, False]
    assert gemm.operands == ("float16", "float16")  # alpha is one number, no operand
    assert gemm.results == ("float32",)
    assert gemm.nodes == ("node_a", "node_b")
    assert (gemm.short_name, gemm.fused_attention) == ("node_a+node_b", False)
    assert (attention.short_name, attention.fused_attention) == ("_gemm_mha_v2", True)
    assert attention.nodes == ("node_of_mixed | node__symbolic (SiluAttention)",)
    assert copy.results == ("int64",)


def test_the_log_tells_the_scratch_of_every_profile_and_the_weights() -> None:
    assert memory_in_log(LOG) == ([100, 200], 300)
    assert memory_in_log(LOG[3:]) == ([], None)


@pytest.mark.parametrize("key", ["Datatype", "Format/Datatype"])
def test_an_inspector_names_the_same_kernels(key: str) -> None:
    def tensor(name: str, dims: list[int], half: bool) -> dict[str, object]:
        short = "Half" if half else "Float"
        long = f"Row major linear {'FP16' if half else 'FP32'} format"
        return {"Name": name, "Dimensions": dims, key: short if key == "Datatype" else long}

    layers = [
        "a name alone, where the engine was built without details",
        {
            "Name": "node_a+node_b_myl1_1",
            "LayerType": "gemm",
            "Inputs": [tensor("x", [-1, 32], True)],
            "Constants": [tensor("w", [32, 64], True), tensor("alpha", [1], False)],
            "Outputs": [tensor("y", [-1, 64], False)],
            "Metadata": "[ONNX Layer: node_a][ONNX Layer: node_b]",
        },
        {"Name": "_gemm_mha_v2_myl3_8", "LayerType": "kgen", "Inputs": [tensor("q [profile 1]", [-1, 16], True)]},
    ]
    _, gemm, attention = kernels_in_inspector(json.dumps({"Layers": layers}), 2)
    assert gemm == kernels_in_log(LOG, 2)[1]
    assert (attention.profile, attention.operands, attention.fused_attention) == (1, ("float16",), True)
