//===- MoeQuant.td - quantised matrices ---------------------*- tablegen -*-===//
#ifndef MOE_QUANT_TD
#define MOE_QUANT_TD

include "Moe/IR/MoeAttrs.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Moe_QuantKind : Moe_Enum<"QuantKind", "what the bits of a code mean",
  [I32EnumAttrCase<"Unsigned", 0, "u">, I32EnumAttrCase<"Signed", 1, "i">, I32EnumAttrCase<"E2M1", 2, "e2m1">]>;

def Moe_QuantAttr : AttrDef<Moe_Dialect, "Quant"> {
  let mnemonic = "quant";
  let summary = "how a quantised matrix is stored";
  let description = [{
    `#moe.quant<u4, block = 32, zero_points>`: unsigned codes of 4 bits, a scale for every 32 of them along a row, and
    zero points. Codes are `u2`, `u3`, `u4`, `u8`, `i2`, `i3`, `i4`, `i8` or `e2m1` (the 4-bit float of MXFP4); without
    `block` a row has one scale. Unlike the types of the upstream quant dialect, the scales are not part of the type: they
    are an operand, since a bank of experts has millions of them.
  }];
  let parameters = (ins "::mlir::moe::QuantKind":$kind, "int64_t":$bits, "int64_t":$block, "bool":$zeroPoints);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// The number of scales of a row of `columns` codes.
    int64_t getNumBlocks(int64_t columns) const { return getBlock() ? (columns + getBlock() - 1) / getBlock() : 1; }
    /// The bytes of `count` codes, packed from the lowest bit of the first byte on.
    int64_t getNumBytes(int64_t count) const { return (count * getBits() + 7) / 8; }
    /// The code that stands for zero where no zero points are given.
    int64_t getMiddle() const { return getKind() == QuantKind::Unsigned ? int64_t(1) << (getBits() - 1) : 0; }
  }];
}

def Moe_CodeTensor : RankedTensorOf<[I8]>;
def Moe_ScaleTensor : RankedTensorOf<[F32, F16, BF16, F8E8M0FNU]>;

def Moe_DequantizeOp : Op<Moe_Dialect, "dequantize", [Pure]> {
  let summary = "the numbers that quantised matrices stand for";
  let description = [{
    `result[..., n, k] = scales[..., n, k / block] * (code(..., n, k) - zero_point(..., n, k / block))`. The codes of a row
    are packed along k, from the lowest bit of its first byte on. A zero point is a float, or a code that is packed like
    the codes, along the blocks; without zero points it is 0 for signed codes and `2^(bits - 1)` for unsigned ones.
    Codes of e2m1 are the floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.

    As the matrix operand of a matmul the op costs no memory: the two become one `moe.grouped_matmul` with a quantised bank.

    Life-span: created by import and by the quantiser; gone after `convert-moe-planned-to-linalg`.

    Example:
    ```mlir
    %w = moe.dequantize %codes scales(%s : tensor<48x2xf32>) as <u4, block = 32>
        : tensor<48x32xi8> -> tensor<48x64xf32>
    ```
  }];
  let arguments = (ins Moe_CodeTensor:$codes, Moe_ScaleTensor:$scales,
    Optional<RankedTensorOf<[I8, F32, F16, BF16]>>:$zero_points, Moe_QuantAttr:$format);
  let results = (outs RankedTensorOf<[F32, F16, BF16]>:$result);
  let assemblyFormat = [{
    $codes `scales` `(` $scales `:` type($scales) `)` (`zero_points` `(` $zero_points^ `:` type($zero_points) `)`)?
    `as` $format attr-dict `:` type($codes) `->` type($result)
  }];
  let hasVerifier = 1;
}

#endif // MOE_QUANT_TD
