//===- moe-fragments.cpp - print what the emulator knows of the hardware --===//
//
//   moe-fragments            fragment layouts
//   moe-fragments conflicts  what it says of copies to shared memory, and of reads, at several distances between
//   threads
//
//===----------------------------------------------------------------------===//
#include "cuda/Device.h"
#include "cuda/Fragments.h"
#include <cstdio>
#include <cstdlib>

using namespace moe::rt::fragments;

namespace {

/// Copies of `bytes` bytes, `distance` bytes apart.
struct Copies {
  moe_device_v1 *table;
  int64_t bytes, distance;
};

void copyOne(void *parameters) {
  auto &copies = **static_cast<Copies **>(parameters);
  alignas(16) static const char source[16] = {};
  moe_device_v1 &table = *copies.table;
  int32_t thread = table.special_register(table.ctx, 0);
  char *to = static_cast<char *>(table.shared_memory(table.ctx)) + thread * copies.distance;
  table.copy(table.ctx, to, source, int32_t(copies.bytes), int32_t(copies.bytes));
  table.commit(table.ctx);
  table.wait(table.ctx, 0, 0);
}

/// The same of reads.
void readOne(void *parameters) {
  auto &reads = **static_cast<Copies **>(parameters);
  moe_device_v1 &table = *reads.table;
  int32_t thread = table.special_register(table.ctx, 0);
  table.access(table.ctx, static_cast<char *>(table.shared_memory(table.ctx)) + thread * reads.distance, reads.bytes,
               0);
}

int printConflicts() {
  setenv("MOE_EMULATOR", "conflicts", 1);
  std::string fault;
  std::unique_ptr<moe::rt::Device> device = moe::rt::makeEmulator([&](std::string what) { fault = std::move(what); });
  auto launch = [&](const moe_kernel &kernel, int64_t bytes, int64_t distance) {
    Copies copies{&device->table, bytes, distance};
    void *parameters[] = {&copies};
    fault.clear();
    device->table.launch(device->table.ctx, &kernel, 1, 1, 1, 32, 32 * distance + 16, parameters);
    std::printf("%lld at %lld: %s\n", static_cast<long long>(bytes), static_cast<long long>(distance),
                fault.empty() ? "no conflict" : fault.c_str());
  };
  for (int64_t bytes : {16, 8, 4})
    for (int64_t distance : {bytes, 2 * bytes, 3 * bytes, int64_t(128), 128 + bytes})
      launch({"copies", 1, copyOne, 1}, bytes, distance);
  for (int64_t bytes : {16, 8, 4})
    for (int64_t distance : {int64_t(0), bytes, 2 * bytes, 3 * bytes, int64_t(64)})
      launch({"reads", 1, readOne, 1}, bytes, distance);
  return 0;
}

} // namespace

int main(int argc, char **) {
  if (argc > 1)
    return printConflicts();
  auto print = [](const char *name, int lane, int element, Place place) {
    std::printf("%s %d %d %d %d\n", name, lane, element, place.row, place.column);
  };
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i)
      print("A", lane, i, ofA(lane, i));
    for (int i = 0; i < 4; ++i)
      print("B", lane, i, ofB(lane, i));
    for (int i = 0; i < 4; ++i)
      print("C", lane, i, ofC(lane, i));
    for (int i = 0; i < 4; ++i)
      print("A32", lane, i, ofATf32(lane, i));
    for (int i = 0; i < 2; ++i)
      print("B32", lane, i, ofBTf32(lane, i));
    for (int half = 0; half < 2; ++half) {
      print("L", lane, half, ofLoadedMatrix(lane, half, false));
      print("LT", lane, half, ofLoadedMatrix(lane, half, true));
    }
  }
}
