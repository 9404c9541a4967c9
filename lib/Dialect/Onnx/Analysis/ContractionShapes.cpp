//===- ContractionShapes.cpp - products and attention --------------------===//
#include "ShapeFunctions.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace mlir::moe;

using Shapes = ShapeResult;

static Shapes matmulDims(const DimList *a, const DimList *b, SymbolicShapes &shapes) {
  if (!a || !b || a->empty() || b->empty())
    return std::nullopt;
  DimList left(a->begin(), a->end()), right(b->begin(), b->end());
  bool dropRow = left.size() == 1, dropColumn = right.size() == 1;
  if (dropRow)
    left.insert(left.begin(), DimExpr(1));
  if (dropColumn)
    right.push_back(DimExpr(1));
  DimList leftBatch(left.begin(), left.end() - 2), rightBatch(right.begin(), right.end() - 2);
  auto dims = broadcastDims({&leftBatch, &rightBatch}, shapes);
  if (!dims)
    return std::nullopt;
  if (!dropRow)
    dims->push_back(left[left.size() - 2]);
  if (!dropColumn)
    dims->push_back(right.back());
  return one(*dims);
}

static Shapes matMulNBits(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *rows = shapes.getShape(node.getInputs()[0]);
  std::optional<int64_t> columns = node.getInt("N");
  if (!rows || rows->empty() || !columns)
    return std::nullopt;
  DimList dims(rows->begin(), rows->end() - 1);
  dims.push_back(DimExpr(*columns));
  return one(dims);
}

static Shapes matmul(OnnxNodeOp node, SymbolicShapes &shapes) {
  return matmulDims(shapes.getShape(node.getInputs()[0]), shapes.getShape(node.getInputs()[1]), shapes);
}

static Shapes gemm(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *a = shapes.getShape(node.getInputs()[0]), *b = shapes.getShape(node.getInputs()[1]);
  if (!a || !b || a->size() != 2 || b->size() != 2)
    return std::nullopt;
  return one({(*a)[node.getInt("transA", 0) ? 1 : 0], (*b)[node.getInt("transB", 0) ? 0 : 1]});
}

std::optional<EinsumEquation> mlir::moe::parseEinsum(OnnxNodeOp node, SymbolicShapes &shapes) {
  std::string text;
  for (char c : node.getString("equation"))
    if (c != ' ')
      text += c;
  auto [left, right] = StringRef(text).split("->");
  bool written = StringRef(text).contains("->");
  SmallVector<StringRef> terms;
  left.split(terms, ',');
  if (terms.size() != node.getInputs().size())
    return std::nullopt;
  // The dimensions of the ellipsis are '0', '1', ... from the last one backwards, so that shorter ones fit the end.
  EinsumEquation equation;
  int64_t longest = 0;
  for (auto [term, input] : llvm::zip(terms, node.getInputs())) {
    const DimList *dims = shapes.getShape(input);
    if (!dims)
      return std::nullopt;
    auto [before, after] = term.split("...");
    std::string letters = before.str();
    int64_t named = before.size() + after.size(), rest = static_cast<int64_t>(dims->size()) - named;
    if (rest < 0 || rest > 10 || (rest > 0 && !term.contains("...")))
      return std::nullopt;
    for (int64_t i = rest; i-- > 0;)
      letters += static_cast<char>('0' + i);
    longest = std::max(longest, rest);
    equation.terms.push_back(letters + after.str());
    for (auto [letter, dim] : llvm::zip_equal(equation.terms.back(), *dims)) {
      auto [it, isNew] = equation.sizes.try_emplace(letter, dim);
      if (!isNew)
        it->second = shapes.getAtoms().broadcast(it->second, dim);
    }
  }
  std::string ellipsis;
  for (int64_t i = longest; i-- > 0;)
    ellipsis += static_cast<char>('0' + i);
  if (written) {
    auto [before, after] = right.split("...");
    equation.result = before.str() + (right.contains("...") ? ellipsis : "") + after.str();
  } else {
    equation.result = ellipsis;
    std::map<char, int> counts;
    for (StringRef term : terms)
      for (char c : term)
        counts[c] += llvm::isAlpha(c);
    for (auto [letter, count] : counts)
      if (count == 1)
        equation.result += letter;
  }
  for (char letter : equation.result)
    if (!equation.sizes.count(letter))
      return std::nullopt;
  return equation;
}

static Shapes einsum(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto equation = parseEinsum(node, shapes);
  if (!equation)
    return std::nullopt;
  DimList dims;
  for (char letter : equation->result)
    dims.push_back(equation->sizes[letter]);
  return one(dims);
}

/// Attention: the result, the keys and values with those of the past, the scores.
static Shapes attention(OnnxNodeOp node, SymbolicShapes &shapes) {
  SmallVector<DimList> heads;
  int64_t counts[] = {node.getInt("q_num_heads", 0), node.getInt("kv_num_heads", 0), node.getInt("kv_num_heads", 0)};
  bool flat = false;
  for (unsigned i = 0; i < 3; ++i) {
    const DimList *dims = shapes.getShape(node.getInputs()[i]);
    if (!dims || (dims->size() != 3 && dims->size() != 4))
      return std::nullopt;
    heads.push_back(*dims);
    if (dims->size() == 4)
      continue;
    auto size = counts[i] > 0 ? (*dims)[2].dividedBy(DimExpr(counts[i])) : std::nullopt;
    if (!size)
      return std::nullopt;
    flat = true;
    heads.back() = {(*dims)[0], DimExpr(counts[i]), (*dims)[1], *size};
  }
  for (unsigned i : {1u, 2u})
    if (const DimList *past = node.hasInput(3 + i) ? shapes.getShape(node.getInputs()[3 + i]) : nullptr) {
      if (past->size() != 4)
        return std::nullopt;
      heads[i][2] = heads[i][2] + (*past)[2];
    }
  const DimList &q = heads[0], &k = heads[1], &v = heads[2];
  SmallVector<DimList> results = {{q[0], q[1], q[2], v[3]}, k, v, {q[0], q[1], q[2], k[2]}};
  if (flat)
    results[0] = {q[0], q[2], q[1] * v[3]};
  results.resize(node.getNumResults());
  return results;
}

/// MultiHeadAttention: queries of three dimensions, keys and values of three or four.
static Shapes multiHeadAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (!node.hasInput(1) || !node.hasInput(2))
    return std::nullopt;
  int64_t count = node.getInt("num_heads", 0);
  SmallVector<DimList> heads;
  for (unsigned i = 0; i < 3; ++i) {
    const DimList *dims = shapes.getShape(node.getInputs()[i]);
    auto size = dims && dims->size() == 3 && count > 0 ? (*dims)[2].dividedBy(DimExpr(count)) : std::nullopt;
    if (size)
      heads.push_back({(*dims)[0], DimExpr(count), (*dims)[1], *size});
    else if (dims && dims->size() == 4 && i > 0)
      heads.push_back(*dims);
    else
      return std::nullopt;
    if (const DimList *past = i > 0 && node.hasInput(5 + i) ? shapes.getShape(node.getInputs()[5 + i]) : nullptr) {
      if (past->size() != 4)
        return std::nullopt;
      heads[i][2] = heads[i][2] + (*past)[2];
    }
  }
  const DimList &q = heads[0], &k = heads[1], &v = heads[2];
  SmallVector<DimList> results = {{q[0], q[2], q[1] * v[3]}, k, v, {q[0], q[1], q[2], k[2]}};
  results.resize(node.getNumResults());
  return results;
}

/// com.microsoft.Attention: the result, and keys and values in one tensor.
static Shapes contribAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *x = shapes.getShape(node.getInputs()[0]);
  const DimList *w = node.hasInput(1) ? shapes.getShape(node.getInputs()[1]) : nullptr;
  int64_t heads = node.getInt("num_heads", 0);
  if (!x || !w || x->size() != 3 || w->size() != 2 || heads < 1)
    return std::nullopt;
  std::optional<DimExpr> width = w->back().dividedBy(DimExpr(3));
  if (auto given = node.getInts("qkv_hidden_sizes"); given && given->size() == 3)
    width = DimExpr((*given)[2]);
  auto size = width ? width->dividedBy(DimExpr(heads)) : std::nullopt;
  if (!size)
    return std::nullopt;
  DimExpr length = (*x)[1];
  if (const DimList *past = node.hasInput(4) ? shapes.getShape(node.getInputs()[4]) : nullptr) {
    if (past->size() != 5)
      return std::nullopt;
    length = length + (*past)[3];
  }
  SmallVector<DimList> results = {{(*x)[0], (*x)[1], *width}, {DimExpr(2), (*x)[0], DimExpr(heads), length, *size}};
  results.resize(node.getNumResults());
  return results;
}

/// EmbedLayerNormalization: the rows, the number of tokens of each sequence, the rows before normalisation.
static Shapes embedLayerNorm(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *ids = shapes.getShape(node.getInputs()[0]);
  const DimList *table = node.hasInput(2) ? shapes.getShape(node.getInputs()[2]) : nullptr;
  if (!ids || !table || ids->size() != 2 || table->size() != 2)
    return std::nullopt;
  DimList rows = {(*ids)[0], (*ids)[1], (*table)[1]};
  SmallVector<DimList> results = {rows, {(*ids)[0]}, rows};
  results.resize(node.getNumResults());
  return results;
}

/// GatherBlockQuantized: as Gather, of codes of which a byte may hold several.
static Shapes gatherBlockQuantized(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *data = shapes.getShape(node.getInputs()[0]), *indices = shapes.getShape(node.getInputs()[1]);
  auto axis = data ? normalizeAxis(node.getInt("gather_axis", 0), data->size()) : std::nullopt;
  if (!axis || !indices)
    return std::nullopt;
  DimList codes = *data;
  auto type = dyn_cast<ShapedType>(node.getInputs()[0].getType());
  if (type && type.getElementType().isInteger(8) && !codes.empty())
    codes.back() = codes.back() * DimExpr(8 / std::max<int64_t>(node.getInt("bits", 4), 1));
  DimList dims(codes.begin(), codes.begin() + *axis);
  dims.append(indices->begin(), indices->end());
  dims.append(codes.begin() + *axis + 1, codes.end());
  return one(dims);
}

/// LinearAttention: the result, the state afterwards.
static Shapes linearAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *q = shapes.getShape(node.getInputs()[0]), *k = shapes.getShape(node.getInputs()[1]),
                *v = shapes.getShape(node.getInputs()[2]);
  int64_t heads = node.getInt("q_num_heads", 0), groups = node.getInt("kv_num_heads", 0);
  if (!q || !k || !v || q->size() != 3 || k->size() != 3 || v->size() != 3 || heads < 1 || groups < 1)
    return std::nullopt;
  auto keySize = (*k)[2].dividedBy(DimExpr(groups)), valueSize = (*v)[2].dividedBy(DimExpr(groups));
  if (!keySize || !valueSize)
    return std::nullopt;
  SmallVector<DimList> results = {{(*q)[0], (*q)[1], DimExpr(heads) * *valueSize},
                                  {(*q)[0], DimExpr(groups), *keySize, *valueSize}};
  results.resize(node.getNumResults());
  return results;
}

/// CausalConvWithState: the result, the last columns.
static Shapes causalConv(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *x = shapes.getShape(node.getInputs()[0]), *w = shapes.getShape(node.getInputs()[1]);
  if (!x || !w || x->size() != 3 || w->size() != 3)
    return std::nullopt;
  SmallVector<DimList> results = {*x, {(*x)[0], (*x)[1], (*w)[2] - DimExpr(1)}};
  results.resize(node.getNumResults());
  return results;
}

/// GroupQueryAttention: the cache afterwards is as long as the buffer before, or as all tokens if that is more.
static Shapes groupQueryAttention(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *q = shapes.getShape(node.getInputs()[0]);
  int64_t heads = node.getInt("num_heads", 0), groups = node.getInt("kv_num_heads", 0);
  if (!q || q->size() != 3 || heads < 1 || groups < 1 || !node.hasInput(5) || !node.hasInput(6))
    return std::nullopt;
  bool packed = !node.hasInput(1);
  auto size = (*q)[2].dividedBy(DimExpr(packed ? heads + 2 * groups : heads));
  const DimList *total = shapes.getElements(node.getInputs()[6]);
  if (!size || !total || total->size() != 1)
    return std::nullopt;
  DimExpr length = total->front();
  if (const DimList *past = node.hasInput(3) ? shapes.getShape(node.getInputs()[3]) : nullptr) {
    if (past->size() != 4)
      return std::nullopt;
    length = shapes.getAtoms().max(length, (*past)[2]);
  }
  DimList cache = {(*q)[0], DimExpr(groups), length, *size};
  SmallVector<DimList> results = {{(*q)[0], (*q)[1], *size * DimExpr(heads)}, cache, cache};
  results.resize(node.getNumResults());
  return results;
}

static Shapes groupedMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *bank = shapes.getShape(node.getInputs()[1]), *indices = shapes.getShape(node.getInputs()[2]);
  if (!bank || !indices || bank->size() != 3 || indices->size() != 2)
    return std::nullopt;
  return one({(*indices)[0], (*indices)[1], (*bank)[2]});
}

static Shapes fusedMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *a = shapes.getShape(node.getInputs()[0]), *b = shapes.getShape(node.getInputs()[1]);
  if (!a || !b || a->size() < 2 || b->size() < 2)
    return std::nullopt;
  DimList left = *a, right = *b;
  if (node.getInt("transA", 0))
    std::swap(left[left.size() - 1], left[left.size() - 2]);
  if (node.getInt("transB", 0))
    std::swap(right[right.size() - 1], right[right.size() - 2]);
  return matmulDims(&left, &right, shapes);
}

static Shapes qLinearMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  return matmulDims(shapes.getShape(node.getInputs()[0]), shapes.getShape(node.getInputs()[3]), shapes);
}

void mlir::moe::addContractionShapes(ShapeTable &table) {
  table["Attention"] = attention;
  table["CausalConvWithState"] = causalConv;
  table["Einsum"] = einsum;
  table["Gemm"] = gemm;
  table["GroupedMatMul"] = table["com.microsoft.GroupedMatMul"] = groupedMatMul;
  table["LinearAttention"] = linearAttention;
  table["MatMul"] = table["MatMulInteger"] = matmul;
  table["QLinearMatMul"] = qLinearMatMul;
  table["com.microsoft.Attention"] = contribAttention;
  table["com.microsoft.EmbedLayerNormalization"] = embedLayerNorm;
  table["com.microsoft.GatherBlockQuantized"] = gatherBlockQuantized;
  table["com.microsoft.FusedMatMul"] = fusedMatMul;
  table["com.microsoft.GroupQueryAttention"] = groupQueryAttention;
  table["com.microsoft.MatMulNBits"] = matMulNBits;
  table["com.microsoft.MultiHeadAttention"] = multiHeadAttention;
}
