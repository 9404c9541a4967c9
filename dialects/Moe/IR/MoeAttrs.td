//===- MoeAttrs.td - enums and attributes -------------------*- tablegen -*-===//
#ifndef MOE_ATTRS_TD
#define MOE_ATTRS_TD

include "Moe/IR/MoeDialect.td"

class Moe_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::mlir::moe";
  let genSpecializedAttr = 0;
}
class Moe_EnumAttr<EnumAttrInfo info, string mnemonic> : EnumAttr<Moe_Dialect, info, mnemonic> {
  let assemblyFormat = "`<` $value `>`";
}

def Moe_TieBreak : Moe_Enum<"TieBreak", "which of two equal keys is preferred",
  [I32EnumAttrCase<"Lowest", 0, "lowest">, I32EnumAttrCase<"Highest", 1, "highest">]>;
def Moe_TieBreakAttr : Moe_EnumAttr<Moe_TieBreak, "tie_break">;

def Moe_Axis : Moe_Enum<"Axis", "the axis of the token-by-expert matrix that an op ranges over",
  [I32EnumAttrCase<"Expert", 0, "expert">, I32EnumAttrCase<"Token", 1, "token">,
   I32EnumAttrCase<"All", 2, "all">]>;
def Moe_AxisAttr : Moe_EnumAttr<Moe_Axis, "axis">;

def Moe_GroupScore : Moe_Enum<"GroupScore", "how a group of experts is scored",
  [I32EnumAttrCase<"Max", 0, "max">, I32EnumAttrCase<"Sum2", 1, "sum2">]>;
def Moe_GroupScoreAttr : Moe_EnumAttr<Moe_GroupScore, "group_score">;

def Moe_LimitOrder : Moe_Enum<"LimitOrder", "in which order pairs claim the capacity of an expert",
  [I32EnumAttrCase<"Row", 0, "row">, I32EnumAttrCase<"RankThenRow", 1, "rank_then_row">,
   I32EnumAttrCase<"Key", 2, "key">]>;
def Moe_LimitOrderAttr : Moe_EnumAttr<Moe_LimitOrder, "limit_order">;

def Moe_Norm : Moe_Enum<"Norm", "how weights are normalised",
  [I32EnumAttrCase<"Sum", 0, "sum">, I32EnumAttrCase<"Softmax", 1, "softmax">,
   I32EnumAttrCase<"Max", 2, "max">]>;
def Moe_NormAttr : Moe_EnumAttr<Moe_Norm, "norm">;

def Moe_DenseOf : Moe_Enum<"DenseOf", "which property of a pair is read",
  [I32EnumAttrCase<"Weight", 0, "weight">, I32EnumAttrCase<"Mask", 1, "mask">,
   I32EnumAttrCase<"Rank", 2, "rank">]>;
def Moe_DenseOfAttr : Moe_EnumAttr<Moe_DenseOf, "dense_of">;

def Moe_CountsPer : Moe_Enum<"CountsPer", "what pairs are counted per",
  [I32EnumAttrCase<"Expert", 0, "expert">, I32EnumAttrCase<"Row", 1, "row">]>;
def Moe_CountsPerAttr : Moe_EnumAttr<Moe_CountsPer, "counts_per">;

def Moe_WeightMode : Moe_Enum<"WeightMode", "where the routing weight enters an apply",
  [I32EnumAttrCase<"None", 0, "none">, I32EnumAttrCase<"After", 1, "after">,
   I32EnumAttrCase<"Before", 2, "before">]>;
def Moe_WeightModeAttr : Moe_EnumAttr<Moe_WeightMode, "weight_mode">;

def Moe_OutMode : Moe_Enum<"OutMode", "how the outputs of the experts become one result",
  [I32EnumAttrCase<"Sum", 0, "sum">, I32EnumAttrCase<"Mean", 1, "mean">, I32EnumAttrCase<"Max", 2, "max">,
   I32EnumAttrCase<"Dense", 3, "dense">, I32EnumAttrCase<"Buckets", 4, "buckets">]>;
def Moe_OutModeAttr : Moe_EnumAttr<Moe_OutMode, "out_mode">;

def Moe_IndexArg : Moe_Enum<"IndexArg", "an index-like argument that a body asks for",
  [I32EnumAttrCase<"Row", 0, "row">, I32EnumAttrCase<"Weight", 1, "weight">,
   I32EnumAttrCase<"Rank", 2, "rank">, I32EnumAttrCase<"Expert", 3, "expert">]>;
def Moe_IndexArgAttr : Moe_EnumAttr<Moe_IndexArg, "index_arg">;

def Moe_Encoding : Moe_Enum<"Encoding", "how a routing is stored once a pass has chosen",
  [I32EnumAttrCase<"Slots", 0, "slots">, I32EnumAttrCase<"Dense", 1, "dense">]>;
def Moe_EncodingAttr : Moe_EnumAttr<Moe_Encoding, "encoding">;

def Moe_SliceAttr : AttrDef<Moe_Dialect, "Slice"> {
  let mnemonic = "slice";
  let summary = "how an expert operand of moe.apply is cut into the experts' parts";
  let description = [{
    Three forms, exactly one of which holds:

    - `map`: an affine map from the expert index to the leading dimensions of the bank, which are dropped
      (the default is `(e) -> (e)`: a bank `[E, ...]` stacked along its first dimension);
    - `along d split(n)`: expert e owns the indices `[e*n, (e+1)*n)` of dimension d;
    - `along d ragged([o0, o1, ...])`: expert e owns the indices `[o_e, o_{e+1})` of dimension d.

    `case_index` is the body that the operand belongs to, or -1 for all bodies. An operand that belongs to one case is
    indexed by the ordinal of the expert among the experts of that case.
  }];
  let parameters = (ins "::mlir::AffineMap":$map, "int64_t":$along, "int64_t":$size,
                        OptionalArrayRefParameter<"int64_t">:$offsets, "int64_t":$caseIndex);
  let assemblyFormat = [{
    `<` `map` `=` $map `,` `along` `=` $along `,` `size` `=` $size `,` `offsets` `=` `[` (`]`) : ($offsets^ `]`)? `,`
    `case_index` `=` $caseIndex `>`
  }];
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// The default: a bank stacked along its leading dimension, for all bodies.
    static SliceAttr getStacked(::mlir::MLIRContext *context, int64_t caseIndex = -1);
    bool isAlong() const { return getAlong() >= 0; }
    bool isRagged() const { return isAlong() && !getOffsets().empty(); }
    /// The type of the part of one expert, or null if `bank` is too small for the slice.
    ::mlir::RankedTensorType getPartType(::mlir::RankedTensorType bank) const;
  }];
}

#endif // MOE_ATTRS_TD
