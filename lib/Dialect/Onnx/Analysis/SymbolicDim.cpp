//===- SymbolicDim.cpp - sizes as polynomials of unknowns -----------------===//
#include "moe/Dialect/Onnx/Analysis/SymbolicDim.h"

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/Hashing.h"
#include "llvm/Support/MathExtras.h"
#include <algorithm>

using namespace mlir;
using namespace mlir::moe;

int64_t DimExpr::staticSize() const { return isConstant() ? constant() : ShapedType::kDynamic; }

std::optional<unsigned> DimExpr::asAtom() const {
  if (terms.size() == 1 && terms.begin()->second == 1 && terms.begin()->first.size() == 1)
    return terms.begin()->first.front();
  return std::nullopt;
}

void DimExpr::add(const Monomial &monomial, int64_t coefficient) {
  // Wrapping: file contents may hold any number, and a wrong huge size is caught where it is used.
  int64_t &sum = terms[monomial];
  sum = static_cast<int64_t>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(coefficient));
  if (sum == 0)
    terms.erase(monomial);
}

DimExpr DimExpr::operator+(const DimExpr &other) const {
  DimExpr result = *this;
  for (const auto &[monomial, coefficient] : other.terms)
    result.add(monomial, coefficient);
  return result;
}

DimExpr DimExpr::operator-(const DimExpr &other) const { return *this + other * DimExpr(-1); }

DimExpr DimExpr::operator*(const DimExpr &other) const {
  DimExpr result;
  for (const auto &[left, c] : terms)
    for (const auto &[right, d] : other.terms) {
      Monomial product;
      std::merge(left.begin(), left.end(), right.begin(), right.end(), std::back_inserter(product));
      result.add(product, static_cast<int64_t>(static_cast<uint64_t>(c) * static_cast<uint64_t>(d)));
    }
  return result;
}

std::optional<DimExpr> DimExpr::dividedBy(const DimExpr &other) const {
  if (other.terms.empty())
    return std::nullopt;
  DimExpr rest = *this, quotient;
  const auto &[leadMonomial, leadCoefficient] = *other.terms.rbegin();
  while (!rest.terms.empty()) {
    const auto &[monomial, coefficient] = *rest.terms.rbegin();
    // -1 apart, no quotient of two 64-bit numbers overflows.
    if (leadCoefficient == -1 || coefficient % leadCoefficient != 0 ||
        !std::includes(monomial.begin(), monomial.end(), leadMonomial.begin(), leadMonomial.end()))
      return std::nullopt;
    DimExpr term;
    Monomial difference;
    std::set_difference(monomial.begin(), monomial.end(), leadMonomial.begin(), leadMonomial.end(),
                        std::back_inserter(difference));
    term.terms[difference] = coefficient / leadCoefficient;
    quotient = quotient + term;
    rest = rest - term * other;
  }
  return quotient;
}

static llvm::hash_code hashOf(const DimExpr &expr) {
  llvm::hash_code hash = llvm::hash_value(expr.getTerms().size());
  for (const auto &[monomial, coefficient] : expr.getTerms())
    hash = llvm::hash_combine(hash, llvm::hash_combine_range(monomial.begin(), monomial.end()), coefficient);
  return hash;
}

DimExpr DimAtoms::make(DimAtom atom) {
  size_t hash = llvm::hash_combine(static_cast<int>(atom.kind), atom.value.getAsOpaquePointer(), atom.index,
                                   hashOf(atom.a), hashOf(atom.b));
  auto [begin, end] = numbers.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const DimAtom &old = atoms[it->second];
    if (old.kind == atom.kind && old.value == atom.value && old.index == atom.index && old.a == atom.a &&
        old.b == atom.b)
      return DimExpr::atom(it->second);
  }
  numbers.emplace(hash, atoms.size());
  atoms.push_back(std::move(atom));
  return DimExpr::atom(atoms.size() - 1);
}

bool DimAtoms::isNonNegative(const DimExpr &expr) const {
  for (const auto &[monomial, coefficient] : expr.getTerms()) {
    if (coefficient < 0)
      return false;
    for (unsigned number : monomial) {
      const DimAtom &atom = atoms[number];
      switch (atom.kind) {
      case DimAtom::ValueDim:
        continue;
      case DimAtom::Element:
        return false;
      case DimAtom::FloorDiv:
      case DimAtom::Mod:
        if (!isNonNegative(atom.a) || !atom.b.isConstant() || atom.b.constant() <= 0)
          return false;
        continue;
      case DimAtom::Max:
        if (!isNonNegative(atom.a) && !isNonNegative(atom.b))
          return false;
        continue;
      default:
        if (!isNonNegative(atom.a) || !isNonNegative(atom.b))
          return false;
      }
    }
  }
  return true;
}

DimExpr DimAtoms::floorDiv(const DimExpr &a, const DimExpr &b) {
  if (b.is(1))
    return a;
  if (a.isConstant() && b.isConstant() && b.constant() != 0 && b.constant() != -1)
    return DimExpr(llvm::divideFloorSigned(a.constant(), b.constant()));
  // An unknown divisor may be 0, where the polynomial identity says nothing; sizes of 0 are guarded where used.
  if (auto quotient = a.dividedBy(b))
    return *quotient;
  return make({DimAtom::FloorDiv, {}, 0, a, b});
}

DimExpr DimAtoms::mod(const DimExpr &a, const DimExpr &b) {
  if (a.isConstant() && b.isConstant() && b.constant() > 0)
    return DimExpr(llvm::mod(a.constant(), b.constant()));
  if (a.dividedBy(b))
    return DimExpr(0);
  return make({DimAtom::Mod, {}, 0, a, b});
}

DimExpr DimAtoms::min(const DimExpr &a, const DimExpr &b) {
  if (isNonNegative(b - a))
    return a;
  if (isNonNegative(a - b))
    return b;
  // "To the end" in slices is some huge number, which no size in memory reaches.
  constexpr int64_t huge = int64_t(1) << 31;
  if (a.isConstant() && a.constant() >= huge - 1)
    return b;
  if (b.isConstant() && b.constant() >= huge - 1)
    return a;
  return b < a ? make({DimAtom::Min, {}, 0, b, a}) : make({DimAtom::Min, {}, 0, a, b});
}

DimExpr DimAtoms::max(const DimExpr &a, const DimExpr &b) {
  if (isNonNegative(b - a))
    return b;
  if (isNonNegative(a - b))
    return a;
  return b < a ? make({DimAtom::Max, {}, 0, b, a}) : make({DimAtom::Max, {}, 0, a, b});
}

DimExpr DimAtoms::broadcast(const DimExpr &a, const DimExpr &b) {
  if (a == b || b.is(1))
    return a;
  if (a.is(1))
    return b;
  if (isNotOne(a))
    return a;
  if (isNotOne(b))
    return b;
  return b < a ? make({DimAtom::Broadcast, {}, 0, b, a}) : make({DimAtom::Broadcast, {}, 0, a, b});
}

DimExpr DimAtoms::wrap(const DimExpr &index, const DimExpr &size) {
  if (index.isConstant())
    return index.constant() < 0 ? size + index : index;
  if (isNonNegative(index))
    return index;
  return make({DimAtom::Wrap, {}, 0, index, size});
}

std::string DimAtoms::str(const DimExpr &expr) const {
  std::string text;
  for (const auto &[monomial, coefficient] : expr.getTerms()) {
    std::string term = monomial.empty() || coefficient != 1 ? std::to_string(coefficient) : "";
    for (unsigned number : monomial)
      term += (term.empty() ? "" : "*") + ("d" + std::to_string(number));
    text += (text.empty() ? "" : " + ") + term;
  }
  return text.empty() ? "0" : text;
}
