"""Calls to libopapi without torch-npu in between: arguments that torch-npu would never pass down."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

DTYPES = {
    "float32": 0,
    "float16": 1,
    "int8": 2,
    "int32": 3,
    "uint8": 4,
    "int64": 9,
    "float64": 11,
    "bool": 12,
    "bfloat16": 27,
    "float8_e5m2": 35,
}
BUFFER_BYTES = 64 << 20


@dataclass(frozen=True)
class T:
    """A tensor argument over device memory (or, with `host`, over ordinary memory), with `nz` in FRACTAL_NZ."""

    shape: tuple[int, ...]
    dtype: str = "float16"
    strides: tuple[int, ...] | None = None
    host: bool = False
    nz: bool = False
    storage: tuple[int, ...] | None = None

    @property
    def memory(self) -> tuple[int, ...]:
        """The shape of the memory; with strides in FRACTAL_NZ that of the transpose."""
        if self.storage is not None or not self.nz:
            return self.storage or self.shape
        *batch, rows, columns = self.shape
        if self.strides is not None:
            rows, columns = columns, rows
        width = 32 if self.dtype == "int8" else 16
        return (*batch, -(-columns // width), -(-rows // 16), 16, width)


# The order of aclnnXxxGetWorkspaceSize. t tensor, l list of tensors, a integers, i int64, n int, d double, b bool,
# s string, c a number as an aclScalar; p:a+b a list of the tensors named a and b.
_FIA_TENSORS = (
    "t:query l:key l:value t:pseShift t:attenMask a:actualSeqLengths a:actualSeqLengthsKv t:deqScale1 t:quantScale1"
    " t:deqScale2 t:quantScale2 t:quantOffset2 t:antiquantScale t:antiquantOffset t:blockTable t:queryPaddingSize"
    " t:kvPaddingSize t:keyAntiquantScale t:keyAntiquantOffset t:valueAntiquantScale t:valueAntiquantOffset"
    " t:keySharedPrefix t:valueSharedPrefix a:actualSharedPrefixLen t:queryRope t:keyRope t:keyRopeAntiquantScale"
)
_FIA_NUMBERS = (
    " i:numHeads d:scaleValue i:preTokens i:nextTokens s:inputLayout i:numKeyValueHeads i:sparseMode i:innerPrecise"
    " i:blockSize i:antiquantMode b:softmaxLseFlag i:keyAntiquantMode i:valueAntiquantMode"
)
_ROPE = "t:positions t:query t:key t:cosSinCache a:mropeSection i:headSize b:isNeoxStyle"
_GMM = (
    "l:x l:weight l:bias l:scale l:offset l:antiquantScale l:antiquantOffset l:perTokenScale t:groupList"
    " l:activationInput l:activationQuantScale l:activationQuantOffset"
    " i:splitItem i:groupType i:groupListType i:actType"
)
_GMM_OUT = " l:out l:activationFeatureOut l:dynQuantScaleOut"
_QUANT_MATMUL = (
    "t:x1 t:x2 t:x1Scale t:x2Scale t:yScale t:x1Offset t:x2Offset t:yOffset t:bias"
    " b:transposeX1 b:transposeX2 i:groupSize t:out"
)
_EP_GROUP = (
    " s:groupEp i:epWorldSize i:epRankId i:moeExpertNum s:groupTp i:tpWorldSize i:tpRankId i:expertShardType"
    " i:sharedExpertNum i:sharedExpertRankNum"
)
SIGNATURES = {
    "aclnnRmsNorm": "t:x t:gamma d:epsilon t:yOut t:rstdOut",
    "aclnnGemmaRmsNorm": "t:x t:gamma d:epsilon t:yOut t:rstdOut",
    "aclnnAddRmsNorm": "t:x1 t:x2 t:gamma d:epsilon t:yOut t:rstdOut t:xOut",
    "aclnnSwiGlu": "t:x i:dim t:out",
    "aclnnClippedSwiglu": "t:x t:groupIndex i:dim d:alpha d:limit d:bias b:interleaved t:out",
    "aclnnFastGelu": "t:self t:out",
    "aclnnGelu": "t:self t:out",
    "aclnnSilu": "t:self t:out",
    "aclnnGeluV2": "t:x i:approximate t:y",
    "aclnnApplyTopKTopP": "t:logits t:p t:k t:out",
    "aclnnConstantPadNd": "t:self a:pad c:value t:out",
    "aclnnRotaryPositionEmbedding": "t:x t:cos t:sin i:mode t:out",
    "aclnnApplyRotaryPosEmbV2": "t:query t:key t:cos t:sin i:layout s:rotaryMode",
    "aclnnRopeWithSinCosCache": _ROPE + " t:queryOut t:keyOut",
    "aclnnRopeWithSinCosCacheV2": _ROPE + " i:cacheMode t:queryOut t:keyOut",
    "aclnnScatterPaKvCache": "t:key t:keyCache t:slotMapping t:value t:valueCache t:compressLens t:compressSeqOffset"
    " t:seqLens s:cacheMode s:scatterMode a:strides a:offsets",
    "aclnnMoeGatingTopK": "t:x t:bias i:k i:kGroup i:groupCount i:groupSelectMode i:renorm i:normType b:outFlag"
    " d:routedScalingFactor d:eps t:yOut t:expertIdxOut t:outOut",
    "aclnnMoeGatingTopKSoftmaxV2": "t:x t:finished i:k i:renorm b:outputSoftmaxResultFlag t:yOut t:expertIdxOut"
    " t:softmaxResultOut",
    "aclnnMoeInitRoutingV3": "t:x t:expertIdx t:scale t:offset i:activeNum i:expertCapacity i:expertNum i:dropPadMode"
    " i:expertTokensNumType b:expertTokensNumFlag i:quantMode a:activeExpertRange i:rowIdxType t:expandedXOut"
    " t:expandedRowIdxOut t:expertTokensCountOrCumsumOut t:expandedScaleOut",
    "aclnnMoeFinalizeRoutingV2": "t:expandedX t:expandedRowIdx t:x1 t:x2 t:bias t:scales t:expertIdx i:dropPadMode"
    " t:out",
    "aclnnMoeDistributeDispatchV2": "t:x t:expertIds t:scales t:xActiveMask t:expertScales"
    + _EP_GROUP
    + " i:quantMode i:globalBS i:expertTokenNumsType s:commAlg t:expandXOut t:dynamicScalesOut"
    " t:assistInfoForCombineOut t:expertTokenNumsOut t:epRecvCountsOut t:tpRecvCountsOut t:expandScalesOut",
    "aclnnMoeDistributeCombineV2": "t:expandX t:expertIds t:assistInfoForCombine t:epSendCounts t:expertScales"
    " t:tpSendCounts t:xActiveMask t:activationScale t:weightScale t:groupList t:expandScales t:sharedExpertX"
    + _EP_GROUP
    + " i:globalBS i:outDtype i:commQuantMode i:groupListType s:commAlg t:xOut",
    "aclnnMatmulAllReduce": "t:x1 t:x2 t:bias s:group s:reduceOp i:commTurn i:streamMode t:output",
    "aclnnGroupedMatmulV4": _GMM + _GMM_OUT,
    "aclnnGroupedMatmulV5": _GMM + " a:tuningConfig" + _GMM_OUT,
    "aclnnGroupedMatmulWeightNz": _GMM + " a:tuningConfig i:quantGroupSize" + _GMM_OUT,
    "aclnnMatmulWeightNz": "t:self t:mat2 t:out n:cubeMathType",
    "aclnnAddmmWeightNz": "t:self t:mat1 t:mat2 c:beta c:alpha t:out n:cubeMathType",
    "aclnnNpuFormatCast": "t:srcTensor t:dstTensor",
    "aclnnDynamicQuantV2": "t:x t:smoothScales t:groupIndex i:dstType t:yOut t:scaleOut t:offsetOut",
    "aclnnAscendQuantV3": "t:x t:scale t:offset b:sqrtMode s:roundMode i:dstType i:axis t:y",
    "aclnnQuantMatmulV5": _QUANT_MATMUL,
    "aclnnQuantMatmulWeightNz": _QUANT_MATMUL,
    "aclnnWeightQuantBatchMatmulV2": "t:x t:weight t:antiquantScale t:antiquantOffset t:quantScale t:quantOffset t:bias"
    " n:antiquantGroupSize t:y",
    "aclnnFlashAttentionVarLenScore": "t:query t:key t:value t:realShift t:dropMask t:paddingMask t:attenMask a:prefix"
    " a:actualSeqQLen a:actualSeqKvLen d:scaleValue d:keepProb i:preTokens i:nextTokens i:headNum s:inputLayout"
    " i:innerPrecise i:sparseMode t:softmaxMax t:softmaxSum t:softmaxOut t:attentionOut",
    "aclnnAttentionUpdate": "p:lse[0]+lse[1] p:localOut[0]+localOut[1] i:updateType t:out t:lseOut",
    "aclnnFusedInferAttentionScoreV3": _FIA_TENSORS + _FIA_NUMBERS + " t:attentionOut t:softmaxLse",
    "aclnnFusedInferAttentionScoreV5": _FIA_TENSORS
    + " t:dequantScaleQuery t:learnableSink t:qStartIdx t:kvStartIdx"
    + _FIA_NUMBERS
    + " i:queryQuantMode i:pseType t:attentionOut t:softmaxLse",
}
_CTYPES = {"i": ctypes.c_int64, "n": ctypes.c_int, "d": ctypes.c_double, "b": ctypes.c_bool, "s": ctypes.c_char_p}


class Opapi:
    """libopapi through ctypes."""

    def __init__(self, library: ctypes.CDLL, messages: ctypes.CDLL, buffer: Any) -> None:
        self._library, self._messages, self._buffer = library, messages, buffer
        self._communicators: dict[str, str] = {}
        self._host = ctypes.create_string_buffer(1 << 16)
        for name in ("aclCreateTensor", "aclCreateTensorList", "aclCreateIntArray", "aclCreateScalar"):
            getattr(library, name).restype = ctypes.c_void_p
        messages.aclGetRecentErrMsg.restype = ctypes.c_char_p

    def _integers(self, values: Any) -> Any:
        return (ctypes.c_int64 * max(1, len(values)))(*values)

    def tensor(self, spec: T | None) -> ctypes.c_void_p:
        if spec is None:
            return ctypes.c_void_p(None)
        strides, step = [], 1
        for size in reversed(spec.shape):
            strides.insert(0, step)
            step *= size
        strides = list(spec.strides or strides)
        address = ctypes.addressof(self._host) if spec.host else self._buffer.data_ptr()
        dims, memory = self._integers(spec.shape), self._integers(spec.memory)
        return ctypes.c_void_p(
            self._library.aclCreateTensor(
                dims,
                ctypes.c_uint64(len(spec.shape)),
                DTYPES[spec.dtype],
                self._integers(strides),
                ctypes.c_int64(0),
                29 if spec.nz else 2,
                memory,
                ctypes.c_uint64(len(spec.memory)),
                ctypes.c_void_p(address),
            )
        )

    def _argument(self, kind: str, value: Any) -> Any:
        if kind == "t":
            return self.tensor(value)
        if kind in "lp":
            specs = value if isinstance(value, list) else [value]
            tensors = (ctypes.c_void_p * max(1, len(specs)))(*(self.tensor(spec) for spec in specs))
            return ctypes.c_void_p(self._library.aclCreateTensorList(tensors, ctypes.c_uint64(len(specs))))
        if kind == "a":
            if value is None:
                return ctypes.c_void_p(None)
            return ctypes.c_void_p(self._library.aclCreateIntArray(self._integers(value), ctypes.c_uint64(len(value))))
        if kind == "c":
            return ctypes.c_void_p(
                self._library.aclCreateScalar(ctypes.byref(ctypes.c_float(value)), DTYPES["float32"])
            )
        if kind == "s" and value is not None and value.startswith("$"):
            value = self.communicator(value)
        return _CTYPES[kind](value.encode() if kind == "s" and value is not None else value)

    def communicator(self, name: str) -> str:
        """The name of one of two ranks ("$three": three), made on first use.

        With "$used" a collective has been asked of it, "$kept" is for experts alone.
        """
        from ascend_patch.hostcann import _loader

        if name in self._communicators:
            return self._communicators[name]
        hccl = _loader.handle("hccl")
        ranks = 3 if name == "$three" else 2
        handles, text = (ctypes.c_void_p * ranks)(), ctypes.create_string_buffer(128)
        assert hccl.HcclCommInitAll(ranks, (ctypes.c_int32 * ranks)(), handles) == 0
        for rank in range(1, ranks):
            assert hccl.HcclCommDestroy(ctypes.c_void_p(handles[rank])) == 0  # all have one name
        assert hccl.HcclGetCommName(ctypes.c_void_p(handles[0]), text) == 0
        if name == "$used":
            count, null = ctypes.c_uint64(1), ctypes.c_void_p(None)
            assert hccl.HcclAllReduce(null, null, count, 4, 0, ctypes.c_void_p(handles[0]), null) != 0  # no buffers
        made = text.value.decode()
        if name == "$kept":
            from .violations_moe import VALID_MOE

            dispatch = "aclnnMoeDistributeDispatchV2"
            assert self.check(dispatch, {**VALID_MOE[dispatch], "groupEp": made}) == (0, "")
        return self._communicators.setdefault(name, made)

    def check(self, operator: str, arguments: dict[str, Any]) -> tuple[int, str]:
        """Return code and message of the operator's first phase."""
        words = [word.split(":") for word in SIGNATURES[operator].split()]
        defaults = {"i": 0, "d": 0.0, "b": False, "c": 0.0, "n": 0}
        given = dict(arguments)
        for name in [name for kind, name in words if kind == "p"]:
            given.setdefault(name, [given.pop(part, None) for part in name.split("+")])
        values = [self._argument(kind, given.get(name, defaults.get(kind))) for kind, name in words]
        unknown = set(given) - {name for _, name in words}
        assert not unknown, unknown
        size, executor = ctypes.c_uint64(1), ctypes.c_void_p()
        code = getattr(self._library, operator + "GetWorkspaceSize")(
            *values, ctypes.byref(size), ctypes.byref(executor)
        )
        if code == 0:
            assert size.value == 0 and executor.value
            self._library.aclDestroyAclOpExecutor(executor)
            return 0, ""
        assert not executor.value
        return code, self._messages.aclGetRecentErrMsg().decode()
