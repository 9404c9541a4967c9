//===- Npy.cpp - read and write .npy files --------------------------------===//
//
// "\x93NUMPY" | u8 major, minor | u16 or u32 header size | a Python dictionary literal with descr, fortran_order, shape
// | data.
//
//===----------------------------------------------------------------------===//
#include "Npy.h"
#include "Files.h"
#include <cstring>

namespace moe::rt {

namespace {

constexpr std::string_view magic("\x93NUMPY", 6);
constexpr size_t maxRank = 64;

/// Reads the dictionary literal: keys are strings, values are strings, True, False or tuples of sizes.
class HeaderParser {
public:
  HeaderParser(std::string_view text, const std::string &path) : text(text), path(path) {}

  std::string descr;
  bool fortran = false;
  Shape shape;

  void parse() {
    bool sawDescr = false, sawOrder = false, sawShape = false;
    expect('{');
    while (!accept('}')) {
      std::string key = parseString();
      expect(':');
      if (key == "descr" && !sawDescr) {
        sawDescr = true;
        descr = parseString();
      } else if (key == "fortran_order" && !sawOrder) {
        sawOrder = true;
        fortran = parseBool();
      } else if (key == "shape" && !sawShape) {
        sawShape = true;
        parseShape();
      } else {
        bad("its header has an unexpected key " + quote(key));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skipSpace();
    if (at != text.size() || !sawDescr || !sawOrder || !sawShape)
      bad("its header must have descr, fortran_order and shape, and nothing else");
  }

  [[noreturn]] void bad(const std::string &why) {
    fail(MOE_CORRUPT, path, ": not a .npy file, or a damaged one: ", why);
  }

private:
  void skipSpace() {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t'))
      ++at;
  }
  bool accept(char c) {
    skipSpace();
    if (at >= text.size() || text[at] != c)
      return false;
    ++at;
    return true;
  }
  void expect(char c) {
    if (!accept(c))
      bad(str("expected '", c, "' at byte ", at, " of its header"));
  }
  std::string parseString() {
    skipSpace();
    if (at >= text.size() || (text[at] != '\'' && text[at] != '"'))
      bad(str("expected a string at byte ", at, " of its header (structured dtypes are not read)"));
    char quote = text[at++];
    size_t end = text.find(quote, at);
    if (end == std::string_view::npos)
      bad("a string in its header does not end");
    std::string out(text.substr(at, end - at));
    at = end + 1;
    return out;
  }
  bool parseBool() {
    skipSpace();
    for (std::string_view word : {"True", "False"})
      if (text.substr(at, word.size()) == word) {
        at += word.size();
        return word == "True";
      }
    bad("fortran_order is neither True nor False");
  }
  void parseShape() {
    expect('(');
    while (!accept(')')) {
      skipSpace();
      int64_t size = 0;
      size_t begin = at;
      for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at)
        if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, text[at] - '0', &size))
          bad("a size in its shape is too large");
      if (at == begin)
        bad("its shape is not a tuple of sizes");
      shape.push_back(size);
      if (shape.size() > maxRank)
        bad(str("its rank is above the limit of ", maxRank));
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
  }

  std::string_view text;
  const std::string &path;
  size_t at = 0;
};

/// Copies column-major `source` to row-major order.
Tensor fromFortran(moe_dtype dtype, const Shape &shape, const char *source) {
  Tensor out = Tensor::create(dtype, shape);
  size_t width = info(dtype).bits / 8, rank = shape.size();
  Shape index(rank, 0), strides(rank, 1);
  for (size_t d = 1; d < rank; ++d)
    strides[d] = strides[d - 1] * shape[d - 1];
  char *target = static_cast<char *>(out.mutableData());
  int64_t from = 0;
  for (int64_t i = 0, n = out.elements(); i < n; ++i) {
    std::memcpy(target + static_cast<size_t>(i) * width, source + static_cast<size_t>(from) * width, width);
    for (size_t d = rank; d-- > 0;) {
      from += strides[d];
      if (++index[d] < shape[d])
        break;
      from -= strides[d] * shape[d];
      index[d] = 0;
    }
  }
  return out;
}

} // namespace

Tensor readNpy(const std::string &path) {
  std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  std::string_view text = file->text();
  HeaderParser probe({}, path);
  if (text.substr(0, 6) != magic)
    probe.bad("it does not begin with numpy's magic");
  if (text.size() < 12)
    probe.bad("it ends within its header");
  unsigned major = static_cast<unsigned char>(text[6]);
  if (major < 1 || major > 3 || text[7] != 0)
    probe.bad(str("its format version is ", major, ".", static_cast<unsigned>(static_cast<unsigned char>(text[7])),
                  ", known are 1.0, 2.0 and 3.0"));
  size_t sizeBytes = major == 1 ? 2 : 4;
  uint32_t headerSize = 0;
  std::memcpy(&headerSize, text.data() + 8, sizeBytes);
  size_t begin = 8 + sizeBytes;
  if (headerSize > text.size() - begin)
    probe.bad(str("its header would take ", headerSize, " bytes of ", text.size() - begin));
  HeaderParser header(text.substr(begin, headerSize), path);
  header.parse();

  const std::string &descr = header.descr;
  const DTypeInfo *type = nullptr;
  char order = descr.empty() ? '?' : descr[0];
  if (order == '<' || order == '|' || order == '=')
    type = dtypeByNpyName(std::string_view(descr).substr(1));
  if (!type)
    fail(MOE_INVALID_ARGUMENT, path, ": numpy dtype ", quote(descr), " is not supported",
         order == '>' ? "; save it in little-endian byte order" : "; bf16 and fp8 tensors come in .safetensors files");
  uint64_t bytes = 0;
  std::optional<int64_t> elements = countElements(header.shape);
  if (std::optional<uint64_t> size = elements ? countBytes(*elements, type->bits) : std::nullopt)
    bytes = *size;
  else
    header.bad(printType(type->dtype, header.shape) + " is too large");
  uint64_t present = text.size() - begin - headerSize;
  if (present != bytes)
    header.bad(
        str(printType(type->dtype, header.shape), " takes ", bytes, " bytes, but ", present, " follow the header"));
  const char *data = text.data() + begin + headerSize;
  if (header.fortran && header.shape.size() > 1)
    return fromFortran(type->dtype, header.shape, data);
  return {type->dtype, header.shape, data, file};
}

void writeNpy(const std::string &path, const Tensor &tensor) {
  const DTypeInfo &type = info(tensor.dtype);
  if (!type.npy)
    fail(MOE_INVALID_ARGUMENT, path, ": numpy has no dtype ", type.name, "; write a .safetensors file instead");
  std::string shape;
  for (int64_t size : tensor.shape)
    shape += str(size, ", ");
  if (tensor.shape.size() > 1)
    shape.resize(shape.size() - 2);
  else if (tensor.shape.size() == 1)
    shape.pop_back();
  std::string header =
      str("{'descr': '", type.bits == 8 ? '|' : '<', type.npy, "', 'fortran_order': False, 'shape': (", shape, "), }");
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  if (header.size() > UINT16_MAX)
    fail(MOE_INVALID_ARGUMENT, path, ": a shape of rank ", tensor.shape.size(), " does not fit into a .npy header");
  AtomicFile file(path);
  auto size = static_cast<uint16_t>(header.size());
  file.write(magic);
  file.write(std::string_view("\1\0", 2));
  file.write(&size, 2);
  file.write(header);
  file.write(tensor.data, tensor.bytes());
  file.commit();
}

} // namespace moe::rt
