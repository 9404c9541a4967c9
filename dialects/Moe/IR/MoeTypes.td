//===- MoeTypes.td - !moe.routing ---------------------------*- tablegen -*-===//
#ifndef MOE_TYPES_TD
#define MOE_TYPES_TD

include "Moe/IR/MoeAttrs.td"

def Moe_RoutingType : TypeDef<Moe_Dialect, "Routing"> {
  let mnemonic = "routing";
  let summary = "a sparse token-by-expert matrix of weights";
  let description = [{
    The value of a routing over `tokens` rows and `experts` columns is, for every row, an ordered list of pairs
    (expert, weight). A pair in the list is *chosen*, whatever its weight: a chosen pair of weight zero still runs its
    expert. The same expert may stand in a row's list more than once; weights then add.

    `max_per_row = k` bounds the length of every row's list, `max_per_expert = c` the number of pairs of every expert. Bounds
    size buffers; they are inferred by the ops and widened with `moe.cast`. How a routing is stored is an encoding
    (`slots`, which is the default, or `dense`) in the type; `moe-choose-encodings` assigns it, `moe.convert` changes it.

    Not a tensor: bufferisation never sees it (`docs/rationale.md`). Public functions cannot carry it.

    Example: `!moe.routing<?x64xf32, max_per_row = 8>`
  }];
  let parameters = (ins "int64_t":$tokens, "int64_t":$experts, "::mlir::Type":$elementType,
                        "int64_t":$perRow, "int64_t":$perExpert, "std::optional<Encoding>":$encoding);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let builders = [
    TypeBuilderWithInferredContext<(ins "int64_t":$tokens, "int64_t":$experts, "::mlir::Type":$elementType,
      CArg<"int64_t", "::mlir::ShapedType::kDynamic">:$perRow,
      CArg<"int64_t", "::mlir::ShapedType::kDynamic">:$perExpert,
      CArg<"std::optional<Encoding>", "std::nullopt">:$encoding), [{
      return $_get(elementType.getContext(), tokens, experts, elementType, perRow, perExpert, encoding);
    }]>
  ];
  let extraClassDeclaration = [{
    bool hasPerRow() const { return !::mlir::ShapedType::isDynamic(getPerRow()); }
    bool hasPerExpert() const { return !::mlir::ShapedType::isDynamic(getPerExpert()); }
    /// The number of slots that hold any row's list: the bound, or the number of experts without one.
    int64_t getSlots() const { return hasPerRow() ? getPerRow() : getExperts(); }
    bool isDense() const { return getEncoding() == Encoding::Dense; }
    /// The number of places that a row has where it is stored.
    int64_t getStoredSlots() const { return isDense() ? getExperts() : getSlots(); }
    RoutingType withEncoding(std::optional<Encoding> encoding) const;
    /// The same routing with other bounds.
    RoutingType withBounds(int64_t perRow, int64_t perExpert) const;
  }];
}

#endif // MOE_TYPES_TD
