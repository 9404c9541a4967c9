//===- SymbolicDim.h - sizes as polynomials of unknowns ----------*- C++ -*-===//
//
// A size that is only known at run time is a polynomial with integer coefficients over *atoms*: dimensions of inputs,
// elements of integer tensors, and the operations that polynomials are not closed under (minimum, rounding division).
// Two sizes with equal polynomials are equal; that is the only kind of equality that shape reasoning relies on.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICDIM_H
#define MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICDIM_H

#include "mlir/IR/Value.h"
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

namespace mlir::moe {

/// A polynomial: monomials (sorted lists of atom numbers) with non-zero coefficients.
class DimExpr {
public:
  using Monomial = std::vector<unsigned>;
  struct DegreeFirst {
    bool operator()(const Monomial &a, const Monomial &b) const {
      return a.size() != b.size() ? a.size() < b.size() : a < b;
    }
  };
  using Terms = std::map<Monomial, int64_t, DegreeFirst>;

  DimExpr() = default;
  DimExpr(int64_t value) {
    if (value != 0)
      terms[{}] = value;
  }
  static DimExpr atom(unsigned number) {
    DimExpr expr;
    expr.terms[{number}] = 1;
    return expr;
  }
  bool isConstant() const { return terms.empty() || (terms.size() == 1 && terms.begin()->first.empty()); }
  bool is(int64_t value) const { return isConstant() && constant() == value; }
  /// The value of a constant polynomial.
  int64_t constant() const { return terms.empty() ? 0 : terms.begin()->second; }
  /// The size as in a tensor type: the constant or `ShapedType::kDynamic`.
  int64_t staticSize() const;
  const Terms &getTerms() const { return terms; }
  /// The number of the atom if the polynomial is just one.
  std::optional<unsigned> asAtom() const;

  DimExpr operator+(const DimExpr &other) const;
  DimExpr operator-(const DimExpr &other) const;
  DimExpr operator*(const DimExpr &other) const;
  bool operator==(const DimExpr &other) const { return terms == other.terms; }
  bool operator!=(const DimExpr &other) const { return !(*this == other); }
  bool operator<(const DimExpr &other) const { return terms < other.terms; }
  /// The quotient if `other` divides this polynomial exactly.
  std::optional<DimExpr> dividedBy(const DimExpr &other) const;

private:
  void add(const Monomial &monomial, int64_t coefficient);
  Terms terms;
};

/// What an atom stands for.
struct DimAtom {
  enum Kind {
    ValueDim,  ///< dimension `index` of `value`; never negative
    Element,   ///< element `index` (row-major) of the integer tensor `value`
    FloorDiv,  ///< a floordiv b
    Mod,       ///< a mod b, as floor division leaves it
    Min,       ///< min(a, b)
    Max,       ///< max(a, b)
    Broadcast, ///< b if a is 1, otherwise a
    Wrap,      ///< a + b if a is negative, otherwise a: an index from the end
  };
  Kind kind;
  Value value;
  int64_t index = 0;
  DimExpr a, b;
};

/// The atoms of one function. Equal atoms have equal numbers.
class DimAtoms {
public:
  DimExpr valueDim(Value value, int64_t index) { return make({DimAtom::ValueDim, value, index, {}, {}}); }
  DimExpr element(Value value, int64_t index) { return make({DimAtom::Element, value, index, {}, {}}); }
  DimExpr floorDiv(const DimExpr &a, const DimExpr &b);
  DimExpr ceilDiv(const DimExpr &a, int64_t b) { return floorDiv(a + DimExpr(b - 1), DimExpr(b)); }
  DimExpr mod(const DimExpr &a, const DimExpr &b);
  DimExpr min(const DimExpr &a, const DimExpr &b);
  DimExpr max(const DimExpr &a, const DimExpr &b);
  /// The size of a dimension of two operands that ONNX broadcasts.
  DimExpr broadcast(const DimExpr &a, const DimExpr &b);
  DimExpr wrap(const DimExpr &index, const DimExpr &size);

  const DimAtom &operator[](unsigned number) const { return atoms[number]; }
  bool isNonNegative(const DimExpr &expr) const;
  /// Whether the value can be proved not to be 1 (a size of at least 2, or of 0).
  bool isNotOne(const DimExpr &expr) const { return expr.isConstant() && expr.constant() != 1; }
  /// For messages: "d0*d1 + 2".
  std::string str(const DimExpr &expr) const;

private:
  DimExpr make(DimAtom atom);
  std::vector<DimAtom> atoms;
  std::unordered_multimap<size_t, unsigned> numbers; // of the atoms, by their hash
};

} // namespace mlir::moe

#endif // MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICDIM_H
