//===- CApiTensors.cpp - tensors, DLPack and tensor files in C ------------===//
#include "CApi.h"
#include "Npy.h"
#include "Safetensors.h"
#include <cstring>
#include <dlpack/dlpack.h>

using namespace moe::rt;

static Shape makeShape(int32_t rank, const int64_t *dims) {
  if (rank < 0 || rank > 64)
    fail(MOE_INVALID_ARGUMENT, "the rank must be 0 to 64, not ", rank);
  if (rank > 0)
    checkArgument(dims, "dims");
  return Shape(dims, dims + rank);
}

const char *moe_dtype_name(moe_dtype dtype) {
  return static_cast<size_t>(dtype) < allDTypes().size() ? allDTypes()[dtype].name : nullptr;
}

moe_status *moe_tensor_create(moe_dtype dtype, int32_t rank, const int64_t *dims, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(tensor, "tensor");
    *tensor = new moe_tensor{Tensor::create(dtype, makeShape(rank, dims))};
  });
}

moe_status *moe_tensor_wrap(moe_dtype dtype, int32_t rank, const int64_t *dims, void *data, void (*release)(void *),
                            void *context, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(tensor, "tensor");
    Shape shape = makeShape(rank, dims);
    if (checkedBytes(dtype, shape, "wrapped tensor") > 0)
      checkArgument(data, "data");
    auto handle = std::make_unique<moe_tensor>();
    handle->tensor = data ? Tensor{dtype, shape, data, nullptr} : Tensor::create(dtype, shape);
    // Last: from here on the memory is released with the tensor, so nothing may fail any more.
    if (release) {
      struct Release {
        void (*release)(void *);
        void *context;
        std::shared_ptr<const void> empty;
      };
      auto guard = std::make_unique<Release>(Release{nullptr, context, handle->tensor.owner});
      auto deleter = [](Release *r) {
        if (r->release)
          r->release(r->context);
        delete r;
      };
      Release *raw = guard.release();
      handle->tensor.owner = std::shared_ptr<Release>(raw, deleter);
      raw->release = release;
    }
    *tensor = handle.release();
  });
}

moe_status *moe_tensor_share(const moe_tensor *tensor, moe_tensor **copy) {
  return guarded([&] {
    checkArgument(tensor, "tensor");
    checkArgument(copy, "copy");
    *copy = new moe_tensor{tensor->tensor};
  });
}

void moe_tensor_free(moe_tensor *tensor) { delete tensor; }

moe_dtype moe_tensor_dtype(const moe_tensor *tensor) { return tensor->tensor.dtype; }
int32_t moe_tensor_rank(const moe_tensor *tensor) { return static_cast<int32_t>(tensor->tensor.shape.size()); }
const int64_t *moe_tensor_dims(const moe_tensor *tensor) { return tensor->tensor.shape.data(); }
int64_t moe_tensor_elements(const moe_tensor *tensor) { return tensor->tensor.elements(); }
size_t moe_tensor_bytes(const moe_tensor *tensor) { return tensor->tensor.bytes(); }
void *moe_tensor_data(const moe_tensor *tensor) { return tensor->tensor.mutableData(); }

//===----------------------------------------------------------------------===//
// DLPack
//===----------------------------------------------------------------------===//

static DLDataType toDLPack(moe_dtype dtype) {
  const DTypeInfo &type = info(dtype);
  auto bits = static_cast<uint8_t>(type.bits);
  if (dtype == MOE_BF16)
    return {kDLBfloat, 16, 1};
  if (type.kind == Kind::Complex)
    return {kDLComplex, bits, 1};
  if (type.kind == Kind::Signed)
    return {kDLInt, bits, 1};
  if (type.kind == Kind::Unsigned || type.kind == Kind::Bool)
    return {kDLUInt, bits, 1};
  if (bits >= 16)
    return {kDLFloat, bits, 1};
  fail(MOE_INVALID_ARGUMENT, "DLPack has no dtype ", type.name);
}

static moe_dtype fromDLPack(DLDataType type) {
  if (type.lanes == 1)
    for (const DTypeInfo &entry : allDTypes()) {
      if (entry.kind == Kind::Bool || (entry.kind == Kind::Float && entry.bits < 16))
        continue;
      DLDataType candidate = toDLPack(entry.dtype);
      if (candidate.code == type.code && candidate.bits == type.bits)
        return entry.dtype;
    }
  fail(MOE_INVALID_ARGUMENT, "DLPack tensor: the dtype with code ", unsigned(type.code), ", ", unsigned(type.bits),
       " bits, ", type.lanes, " lanes is not supported");
}

moe_status *moe_tensor_from_dlpack(DLManagedTensor *managed, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(managed, "managed");
    checkArgument(tensor, "tensor");
    const DLTensor &source = managed->dl_tensor;
    if (source.device.device_type != kDLCPU)
      fail(MOE_INVALID_ARGUMENT, "DLPack tensor: it is on device type ", int(source.device.device_type),
           ", not in CPU memory");
    moe_dtype dtype = fromDLPack(source.dtype);
    Shape shape = makeShape(source.ndim, source.shape);
    uint64_t bytes = checkedBytes(dtype, shape, "DLPack tensor");
    if (bytes > 0)
      checkArgument(source.data, "managed->dl_tensor.data");
    const char *data = static_cast<const char *>(source.data) + source.byte_offset;
    int64_t stride = 1;
    bool dense = true;
    for (size_t d = shape.size(); d-- > 0 && source.strides && bytes > 0;) {
      dense &= shape[d] == 1 || source.strides[d] == stride;
      stride *= shape[d];
    }

    auto handle = std::make_unique<moe_tensor>();
    auto release = [](const DLManagedTensor *m) {
      if (m->deleter)
        m->deleter(const_cast<DLManagedTensor *>(m));
    };
    if (bytes > 0 && dense) {
      // If the shared_ptr cannot be made, it would call the deleter, though the tensor is to stay the caller's.
      struct Holder {
        DLManagedTensor *managed = nullptr;
        decltype(release) *free = nullptr;
        ~Holder() {
          if (managed && managed->deleter)
            managed->deleter(managed);
        }
      };
      auto holder = std::make_shared<Holder>();
      holder->managed = managed;
      handle->tensor = {dtype, std::move(shape), data, std::move(holder)};
    } else {
      Tensor copy = Tensor::create(dtype, shape);
      size_t width = info(dtype).bits / 8;
      Shape index(shape.size(), 0);
      char *target = static_cast<char *>(copy.mutableData());
      int64_t from = 0;
      for (int64_t i = 0, n = copy.elements(); i < n; ++i) {
        std::memcpy(target + static_cast<size_t>(i) * width, data + from * static_cast<int64_t>(width), width);
        for (size_t d = shape.size(); d-- > 0;) {
          from += source.strides[d];
          if (++index[d] < shape[d])
            break;
          from -= source.strides[d] * shape[d];
          index[d] = 0;
        }
      }
      handle->tensor = std::move(copy);
      release(managed);
    }
    *tensor = handle.release();
  });
}

namespace {
/// What a tensor that was handed out keeps.
struct Exported {
  DLManagedTensor managed;
  Tensor tensor;
  Shape strides;
};
} // namespace

moe_status *moe_tensor_to_dlpack(const moe_tensor *tensor, DLManagedTensor **managed) {
  return guarded([&] {
    checkArgument(tensor, "tensor");
    checkArgument(managed, "managed");
    const Tensor &source = tensor->tensor;
    DLDataType dtype = toDLPack(source.dtype);
    auto out = std::make_unique<Exported>(Exported{{}, source, Shape(source.shape.size(), 1)});
    for (size_t d = source.shape.size(); d-- > 1;)
      out->strides[d - 1] = out->strides[d] * std::max<int64_t>(source.shape[d], 1);
    DLTensor &target = out->managed.dl_tensor;
    target.data = out->tensor.mutableData();
    target.device = {kDLCPU, 0};
    target.ndim = static_cast<int32_t>(source.shape.size());
    target.dtype = dtype;
    target.shape = out->tensor.shape.data();
    target.strides = out->strides.data();
    target.byte_offset = 0;
    out->managed.manager_ctx = out.get();
    out->managed.deleter = [](DLManagedTensor *self) { delete static_cast<Exported *>(self->manager_ctx); };
    *managed = &out.release()->managed;
  });
}

//===----------------------------------------------------------------------===//
// Files
//===----------------------------------------------------------------------===//

moe_status *moe_tensors_create(moe_tensors **tensors) {
  return guarded([&] {
    checkArgument(tensors, "tensors");
    *tensors = new moe_tensors();
  });
}

moe_status *moe_tensors_read(const char *path, moe_tensors **tensors) {
  return guarded([&] {
    checkArgument(path, "path");
    checkArgument(tensors, "tensors");
    *tensors = new moe_tensors{readSafetensors(path).tensors};
  });
}

moe_status *moe_tensors_write(const moe_tensors *tensors, const char *path) {
  return guarded([&] {
    checkArgument(tensors, "tensors");
    checkArgument(path, "path");
    writeSafetensors(path, tensors->map);
  });
}

void moe_tensors_free(moe_tensors *tensors) { delete tensors; }
size_t moe_tensors_count(const moe_tensors *tensors) { return tensors ? tensors->map.entries.size() : 0; }

const char *moe_tensors_name(const moe_tensors *tensors, size_t index) {
  return index < moe_tensors_count(tensors) ? tensors->map.entries[index].first.c_str() : nullptr;
}

moe_status *moe_tensors_get(const moe_tensors *tensors, const char *name, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(tensors, "tensors");
    checkArgument(name, "name");
    checkArgument(tensor, "tensor");
    const Tensor *found = tensors->map.find(name);
    if (!found)
      fail(MOE_NOT_FOUND, "there is no tensor ", quote(name), suggestion(name, tensors->map.names()),
           "; there are: ", quotedList(tensors->map.names()));
    *tensor = new moe_tensor{*found};
  });
}

moe_status *moe_tensors_set(moe_tensors *tensors, const char *name, const moe_tensor *tensor) {
  return guarded([&] {
    checkArgument(tensors, "tensors");
    checkArgument(name, "name");
    checkArgument(tensor, "tensor");
    tensors->map.set(name, tensor->tensor);
  });
}

moe_status *moe_tensor_read_npy(const char *path, moe_tensor **tensor) {
  return guarded([&] {
    checkArgument(path, "path");
    checkArgument(tensor, "tensor");
    *tensor = new moe_tensor{readNpy(path)};
  });
}

moe_status *moe_tensor_write_npy(const moe_tensor *tensor, const char *path) {
  return guarded([&] {
    checkArgument(tensor, "tensor");
    checkArgument(path, "path");
    writeNpy(path, tensor->tensor);
  });
}
