//===- Machine.cpp - what this machine can do at most ---------------------===//
//
// The limits of a roofline. They bound what others measure, so the best of several ways to do each is taken: reads
// in one or several streams, with software prefetches at several distances or of the next block, and as wide as the
// processor's vectors.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "MachineKernels.h"
#include "Support.h"
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace moe::run {

namespace {

constexpr ReadWay kVariants[] = {{1, 0},    {2, 0},    {4, 0},    {8, 0},    {1, 2048},   {1, 8192},
                                 {4, 1024}, {4, 4096}, {8, 1024}, {8, 2048}, {1, 0, true}};
constexpr int kRepeats = 3;
constexpr int64_t kSteps = 1 << 20;
/// The numbers of the pieces of work that multiply floats and bytes; the others are those of the variants.
constexpr int kMultiply = std::size(kVariants), kDot = kMultiply + 1;

} // namespace

/// Threads that do pieces of work together, each starting when all of them have come so far. Between two calls they
/// sleep; in one nobody does: waking up would be part of the measurement.
class MachineProbe::Team {
public:
  explicit Team(int32_t threads) : threads(threads), kernels(chooseKernels()) {
    // Several times the cache, so that next to nothing is left of the pass before.
    each = static_cast<size_t>(std::max(128e6, 4 * readCacheBytes() / threads));
    each = (each + 4095) / 4096 * 4096;
    void *mapped = ::mmap(nullptr, each * static_cast<size_t>(threads), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
      rt::fail(MOE_OUT_OF_MEMORY, "no memory to measure the machine with: ", each * static_cast<size_t>(threads),
               " bytes");
    memory = static_cast<char *>(mapped);
    ::madvise(mapped, each * static_cast<size_t>(threads), MADV_HUGEPAGE);
    for (int32_t thread = 1; thread < threads; ++thread)
      others.emplace_back([this, thread] { serve(thread); });
    std::memset(memory, 1, each);
  }

  ~Team() {
    {
      std::lock_guard guard(lock);
      done = true;
    }
    called.notify_all();
    for (std::thread &other : others)
      other.join();
    ::munmap(memory, each * static_cast<size_t>(threads));
  }

  /// Rates of a piece. `together` is that of all threads in the time of the slowest: nothing did more at any time.
  /// `apart` is the sum of each one's: the work that is compared with it is claimed by whoever is free, so a thread
  /// that the system puts aside for a moment does not halve it.
  struct Rates {
    double together, apart;
  };
  std::vector<Rates> run(std::vector<int> work) {
    {
      std::lock_guard guard(lock);
      pieces = std::move(work);
      seconds.assign(static_cast<size_t>(threads), std::vector<double>(pieces.size()));
      arrived = 0;
      ++round;
    }
    called.notify_all();
    doPieces(0);
    waitForAll();
    std::vector<Rates> rates;
    for (size_t i = 0; i < pieces.size(); ++i) {
      double slowest = 0, sum = 0;
      for (const auto &times : seconds) {
        slowest = std::max(slowest, times[i]);
        sum += 1 / times[i];
      }
      rates.push_back({threads * workOf(pieces[i]) / slowest, workOf(pieces[i]) * sum});
    }
    return rates;
  }

private:
  double workOf(int piece) const {
    return piece == kMultiply ? kernels.flopPerStep * kSteps
           : piece == kDot    ? kernels.integersPerStep * kSteps
                              : static_cast<double>(each - kFetchedBehind);
  }

  void serve(int32_t thread) {
    std::memset(memory + each * static_cast<size_t>(thread), 1, each);
    for (int64_t seen = 0;;) {
      {
        std::unique_lock guard(lock);
        called.wait(guard, [&] { return done || round > seen; });
        if (done)
          return;
        seen = round;
      }
      doPieces(thread);
      arrived.fetch_add(1);
    }
  }

  void doPieces(int32_t thread) {
    const char *data = memory + each * static_cast<size_t>(thread);
    for (size_t i = 0; i < pieces.size(); ++i) {
      arrived.fetch_add(1);
      while (arrived.load() < static_cast<int64_t>(i + 1) * threads)
        std::this_thread::yield();
      Clock::time_point start = Clock::now();
      const int piece = pieces[i];
      sink = piece == kMultiply ? kernels.multiply(kSteps)
             : piece == kDot    ? (kernels.dot ? kernels.dot(kSteps) : 0.0f)
                                : kernels.read(data, each - kFetchedBehind, kVariants[piece]);
      seconds[static_cast<size_t>(thread)][i] = since(start);
    }
  }

  void waitForAll() const {
    while (arrived.load() < static_cast<int64_t>(pieces.size()) * threads + threads - 1)
      std::this_thread::yield();
  }

  const int32_t threads;
  const MachineKernels kernels;
  size_t each;
  char *memory;
  std::vector<int> pieces;
  std::vector<std::vector<double>> seconds;
  std::atomic<int64_t> arrived{0};
  std::mutex lock;
  std::condition_variable called;
  int64_t round = 0;
  bool done = false;
  std::vector<std::thread> others;
};

MachineProbe::MachineProbe(int32_t threads) : team(std::make_unique<Team>(threads)) {
  most.threads = threads;
  most.cacheBytes = readCacheBytes();
  std::vector<int> pieces;
  for (int repeat = 0; repeat < kRepeats; ++repeat)
    for (int piece = 0; piece < kMultiply; ++piece) {
      pieces.push_back(piece);
      // These are short, and so is a moment without another process.
      pieces.push_back(kMultiply);
      pieces.push_back(kDot);
    }
  std::vector<Team::Rates> rates = team->run(pieces);
  for (size_t i = 0; i < pieces.size(); ++i) {
    double &rate = pieces[i] == kMultiply ? most.flopPerSecond
                   : pieces[i] == kDot    ? most.integerOpsPerSecond
                                          : most.bytesPerSecond;
    if (rates[i].together <= rate)
      continue;
    rate = rates[i].together;
    if (pieces[i] < kMultiply)
      variant = pieces[i];
  }
}

MachineProbe::~MachineProbe() = default;

Machine MachineProbe::measure() {
  std::vector<Team::Rates> rates =
      team->run({variant, kMultiply, kDot, variant, kMultiply, kDot, variant, kMultiply, kDot});
  // The median of three; `best` takes part in the most of this run.
  auto middle = [&](size_t first, double &best) {
    std::array<double, 3> three;
    for (size_t i = 0; i < three.size(); ++i) {
      three[i] = rates[first + 3 * i].apart;
      best = std::max(best, rates[first + 3 * i].together);
    }
    std::sort(three.begin(), three.end());
    return std::min(three[1], best);
  };
  Machine now = most;
  now.bytesPerSecond = middle(0, most.bytesPerSecond);
  now.flopPerSecond = middle(1, most.flopPerSecond);
  now.integerOpsPerSecond = middle(2, most.integerOpsPerSecond);
  return now;
}

Machine measureMachine(int32_t threads) { return MachineProbe(threads).best(); }

} // namespace moe::run
