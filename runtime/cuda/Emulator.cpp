//===- Emulator.cpp - kernels on the processor, thread by thread ----------===//
//
// Blocks run one after the other; the threads of a block are fibers that run until they meet at a barrier or at an
// operation of their warp. Asynchronous copies are done at the latest moment that the program allows: when it waits for
// them. So a wait or a barrier that is missing shows, which it need not on a GPU.
//
//===----------------------------------------------------------------------===//
#include "Device.h"
#include "Fibers.h"
#include "Fragments.h"
#include "SharedMemory.h"
#include "Support.h"
#include <cstdlib>
#include <cstring>
#include <map>
#include <tuple>

namespace moe::rt {

namespace {

constexpr int kWarp = 32;
/// Of one thread between two commits.
constexpr int64_t kMostCopies = 1 << 16;
/// What shared memory takes or gives at a time: a word of each of its banks.
constexpr int kLine = 128;

struct Copy {
  void *to;
  const void *from;
  int32_t bytes, there;
};

/// Operations at which the threads of a warp meet.
enum class Meeting { None, Barrier, LoadMatrix, Multiply, Shuffle, Ballot };
const char *nameOf(Meeting meeting) {
  const char *names[] = {"nothing", "a barrier", "ldmatrix", "mma", "shfl", "vote"};
  return names[static_cast<int>(meeting)];
}

struct Thread {
  Meeting waits = Meeting::None;
  std::vector<std::vector<Copy>> groups; ///< committed, oldest first
  std::vector<Copy> open;                ///< not committed yet
  int64_t copies = 0;                    ///< number of its next copy: the group, the place in it
  std::map<int32_t, int> accesses;       ///< how often it came to an access since the last barrier
  // The operands of what it waits at.
  const void *row = nullptr;
  int32_t mode = 0, count = 0, value = 0, b = 0, c = 0;
  uint32_t *words = nullptr;
  int32_t *inside = nullptr;
};

class Emulator : public Device {
public:
  explicit Emulator(ReportFault report) : report(std::move(report)) {
    table.version = 1;
    table.size = sizeof(table);
    table.ctx = this;
    table.launch = [](void *ctx, const moe_kernel *kernel, int64_t x, int64_t y, int64_t z, int64_t threads,
                      int64_t shared,
                      void *parameters) { self(ctx).launch(*kernel, {x, y, z}, threads, shared, parameters); };
    table.read = [](void *, void *to, const void *from, int64_t bytes) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    };
    table.constant = [](void *, const void *data, int64_t) { return data; };
    table.special_register = [](void *ctx, int32_t number) { return self(ctx).registerValue(number); };
    table.barrier = [](void *ctx, int32_t site) {
      if (site != self(ctx).without)
        self(ctx).meet(Meeting::Barrier);
    };
    table.shared_memory = [](void *ctx) { return self(ctx).shared.base(); };
    table.copy = [](void *ctx, void *to, const void *from, int32_t bytes, int32_t there) {
      self(ctx).copy({to, from, bytes, there});
    };
    table.commit = [](void *ctx) {
      Thread &thread = self(ctx).current();
      thread.copies = (thread.copies / kMostCopies + 1) * kMostCopies;
      thread.groups.push_back(std::move(thread.open));
      thread.open.clear();
    };
    table.wait = [](void *ctx, int32_t groups, int32_t site) {
      if (site != self(ctx).without)
        self(ctx).wait(groups);
    };
    table.load_matrix = [](void *ctx, const void *row, int32_t count, int32_t transposed, uint32_t *out) {
      Emulator &e = self(ctx);
      Thread &thread = e.current();
      thread.row = row;
      thread.count = count;
      thread.mode = transposed;
      thread.words = out;
      e.meet(Meeting::LoadMatrix);
    };
    table.multiply = [](void *ctx, int32_t type, uint32_t *words) {
      Emulator &e = self(ctx);
      e.current().mode = type;
      e.current().words = words;
      e.meet(Meeting::Multiply);
    };
    table.shuffle = [](void *ctx, int32_t kind, int32_t value, int32_t b, int32_t c, int32_t *inside) {
      Emulator &e = self(ctx);
      Thread &thread = e.current();
      thread.mode = kind;
      thread.value = value;
      thread.b = b;
      thread.c = c;
      thread.inside = inside;
      e.meet(Meeting::Shuffle);
      return e.current().value;
    };
    table.ballot = [](void *ctx, int32_t yes) {
      Emulator &e = self(ctx);
      e.current().value = yes;
      e.meet(Meeting::Ballot);
      return e.current().value;
    };
    table.access = [](void *ctx, const void *address, int64_t bytes, int32_t which) {
      Emulator &e = self(ctx);
      if (e.reportConflicts)
        e.check(e.findAccessConflict(address, bytes, which));
      e.check(which & 1 ? e.shared.write(e.me, address, bytes) : e.shared.read(e.me, address, bytes));
    };
  }

  std::string describe() const override { return "the emulator of GPU kernels"; }

private:
  static Emulator &self(void *ctx) { return *static_cast<Emulator *>(ctx); }
  Thread &current() { return threads[static_cast<size_t>(me)]; }

  void check(std::string problem) {
    if (!problem.empty() && !reported) {
      reported = true;
      report(str("kernel ", kernel->name, ", block (", block[0], ", ", block[1], ", ", block[2], "): ", problem));
    }
  }

  int32_t registerValue(int32_t number) {
    int dimension = number % 4;
    switch (number / 4) {
    case 0:
      return dimension == 0 ? me : 0;
    case 1:
      return static_cast<int32_t>(block[dimension]);
    case 2:
      return dimension == 0 ? static_cast<int32_t>(threads.size()) : 1;
    default:
      return static_cast<int32_t>(grid[dimension]);
    }
  }

  void launch(const moe_kernel &which, const int64_t (&size)[3], int64_t threadCount, int64_t sharedBytes,
              void *values) {
    kernel = &which;
    parameters = values;
    reported = false;
    for (int d = 0; d < 3; ++d)
      grid[d] = size[d], block[d] = 0;
    if (grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff || threadCount > 1024)
      return check(str("a grid of ", grid[0], " x ", grid[1], " x ", grid[2], " blocks of ", threadCount,
                       " threads is larger than a GPU takes"));
    if (sharedBytes > SharedMemory::kMost)
      return check(str("asks for ", sharedBytes, " bytes of shared memory"));
    threads.resize(static_cast<size_t>(threadCount));
    for (block[2] = 0; block[2] < grid[2]; ++block[2])
      for (block[1] = 0; block[1] < grid[1]; ++block[1])
        for (block[0] = 0; block[0] < grid[0]; ++block[0])
          runBlock(sharedBytes);
  }

  void runBlock(int64_t sharedBytes) {
    if (!which().meets) {
      // Threads that never meet need no stacks of their own.
      for (me = 0; me < static_cast<int>(threads.size()); ++me)
        which().emulated(parameters);
      return;
    }
    shared.reset(sharedBytes);
    lines.clear();
    banks.clear();
    for (Thread &thread : threads)
      thread = Thread();
    fibers.start(
        threads.size(),
        [](void *argument, size_t) {
          auto &e = *static_cast<Emulator *>(argument);
          e.which().emulated(e.parameters);
        },
        this);
    for (;;) {
      bool progress = false;
      for (size_t i = 0; i < threads.size(); ++i) {
        if (fibers.ended(i) || threads[i].waits != Meeting::None)
          continue;
        me = static_cast<int>(i);
        fibers.resume(i);
        progress = true;
      }
      if (progress)
        continue;
      if (!passBarrier())
        break;
    }
    for (size_t i = 0; i < threads.size(); ++i)
      if (!threads[i].open.empty() || !threads[i].groups.empty()) {
        me = static_cast<int>(i);
        // Empty groups are common; copies that nobody waited for are a mistake.
        for (auto &group : threads[i].groups)
          if (!group.empty())
            check(str("thread ", i, " ends with copies under way"));
      }
  }

  const moe_kernel &which() const { return *kernel; }

  /// Nobody can go on: a barrier at which everybody waits, or a deadlock. Returns whether there is more to do.
  bool passBarrier() {
    bool any = false;
    for (size_t i = 0; i < threads.size(); ++i) {
      if (fibers.ended(i))
        continue;
      any = true;
      if (threads[i].waits != Meeting::Barrier) {
        check(str("thread ", i, " waits at ", nameOf(threads[i].waits), " for threads that never come"));
        return false;
      }
    }
    if (!any)
      return false;
    for (Thread &thread : threads) {
      thread.waits = Meeting::None;
      thread.accesses.clear();
    }
    banks.clear();
    shared.newEpoch();
    return true;
  }

  /// Waits until all threads that have to are here. The last one of a warp does the work of all.
  void meet(Meeting meeting) {
    int mine = me;
    current().waits = meeting;
    if (meeting != Meeting::Barrier) {
      int first = mine / kWarp * kWarp, last = std::min<int>(first + kWarp, static_cast<int>(threads.size()));
      bool all = true;
      for (int i = first; i < last; ++i)
        all &= threads[static_cast<size_t>(i)].waits == meeting;
      if (all) {
        work(meeting, first, last - first);
        for (int i = first; i < last; ++i)
          threads[static_cast<size_t>(i)].waits = Meeting::None;
        me = mine;
        return;
      }
    }
    fibers.yield();
    me = mine;
  }

  void work(Meeting meeting, int first, int lanes) {
    Thread *warp = &threads[static_cast<size_t>(first)];
    switch (meeting) {
    case Meeting::LoadMatrix:
      return loadMatrices(warp, first);
    case Meeting::Multiply: {
      uint32_t *words[kWarp];
      for (int lane = 0; lane < kWarp; ++lane)
        words[lane] = warp[lane].words;
      return fragments::multiply(warp[0].mode, words);
    }
    case Meeting::Shuffle: {
      int32_t values[kWarp];
      for (int lane = 0; lane < lanes; ++lane)
        values[lane] = warp[lane].value;
      for (int lane = 0; lane < lanes; ++lane)
        shuffle(warp[lane], lane, values);
      return;
    }
    case Meeting::Ballot: {
      uint32_t votes = 0;
      for (int lane = 0; lane < lanes; ++lane)
        votes |= uint32_t(warp[lane].value != 0) << lane;
      for (int lane = 0; lane < lanes; ++lane)
        warp[lane].value = static_cast<int32_t>(votes);
      return;
    }
    default:
      return;
    }
  }

  /// The rows of matrix m begin where the lanes 8 m to 8 m + 7 say.
  void loadMatrices(Thread *warp, int first) {
    for (int m = 0; m < warp[0].count; ++m) {
      uint16_t matrix[8][8] = {};
      unsigned banks = 0;
      for (int row = 0; row < 8; ++row) {
        int lane = 8 * m + row;
        const void *address = warp[lane].row;
        if (reinterpret_cast<uintptr_t>(address) % 16)
          check(str("ldmatrix: the row of lane ", lane, " is not at a multiple of 16 bytes"));
        // The eight rows come in one go if they lie in different groups of four banks.
        unsigned group = 1u << (reinterpret_cast<uintptr_t>(address) / 16 % 8);
        if (reportConflicts && (banks & group))
          check(str("ldmatrix: two rows of matrix ", m, " of the warp of thread ", first, " lie in the same banks"));
        banks |= group;
        check(shared.read(first + lane, address, 16));
        if (shared.contains(address, 16))
          std::memcpy(matrix[row], address, 16);
      }
      for (int lane = 0; lane < kWarp; ++lane) {
        uint32_t word = 0;
        for (int half = 0; half < 2; ++half) {
          fragments::Place at = fragments::ofLoadedMatrix(lane, half, warp[0].mode);
          word |= uint32_t(matrix[at.row][at.column]) << (16 * half);
        }
        warp[lane].words[m] = word;
      }
    }
  }

  static void shuffle(Thread &thread, int lane, const int32_t *values) {
    // As in the PTX manual's description of shfl.sync; the kinds in the order of NVVM's enumeration.
    int b = thread.b & 31, c = thread.c & 31, mask = (thread.c >> 8) & 31;
    int most = (lane & mask) | (c & ~mask), least = lane & mask, from = lane;
    bool inside = false;
    switch (thread.mode) {
    case 0: // bfly
      from = lane ^ b;
      inside = from <= most;
      break;
    case 1: // up
      from = lane - b;
      inside = from >= most;
      break;
    case 2: // down
      from = lane + b;
      inside = from <= most;
      break;
    default: // idx
      from = least | (b & ~mask);
      inside = from <= most;
    }
    thread.value = values[inside ? from : lane];
    *thread.inside = inside;
  }

  void copy(const Copy &copy) {
    if (copy.there < 0 || copy.there > copy.bytes)
      return check(str("cp.async of ", copy.there, " of ", copy.bytes, " bytes"));
    if (reinterpret_cast<uintptr_t>(copy.to) % static_cast<uintptr_t>(copy.bytes) ||
        (copy.there && reinterpret_cast<uintptr_t>(copy.from) % static_cast<uintptr_t>(copy.bytes)))
      check(str("cp.async of ", copy.bytes, " bytes at an address that is no multiple of that"));
    if (reportConflicts)
      check(findConflict(copy));
    std::string problem = shared.startCopy(me, copy.to, copy.bytes);
    check(problem);
    if (shared.contains(copy.to, copy.bytes))
      current().open.push_back(copy);
  }

  /// Neighbouring threads whose copies make up a line of all banks write them in one go, if each bank is there once.
  /// Their copies with the same number are one instruction: kernels issue the same copies in every thread of such a
  /// group.
  std::string findConflict(const Copy &copy) {
    int perLine = kLine / copy.bytes, group = me / perLine;
    auto at = static_cast<const char *>(copy.to) - static_cast<const char *>(shared.base());
    uint32_t bank = uint32_t(1) << (at / copy.bytes % perLine);
    uint32_t &banks = lines[{group * (kLine + 1) + perLine, current().copies++}];
    if (banks & bank)
      return str("cp.async: two of the threads ", group * perLine, " to ", group * perLine + perLine - 1,
                 " copy to the same banks");
    banks |= bank;
    return "";
  }

  /// The threads of a warp come to the same access equally often: these are one instruction. It takes the threads whose
  /// words make up a line at a time, the same words once; of other words each bank gives one.
  std::string findAccessConflict(const void *address, int64_t bytes, int32_t which) {
    int perLine = bytes <= 4 ? kWarp : static_cast<int>(kLine / bytes), group = me / perLine;
    auto at = static_cast<const char *>(address) - static_cast<const char *>(shared.base());
    auto &taken = banks[{which, current().accesses[which]++, group}];
    for (auto word = at / 4; word <= (at + bytes - 1) / 4; ++word) {
      auto [it, isNew] = taken.insert({static_cast<int>(word % (kLine / 4)), word});
      if (!isNew && it->second != word)
        return str(which & 1 ? "write" : "read", " of ", bytes, " bytes: two of the threads ", group * perLine, " to ",
                   group * perLine + perLine - 1, " go to the same bank of shared memory");
    }
    return "";
  }

  void wait(int32_t groups) {
    Thread &thread = current();
    while (thread.groups.size() > static_cast<size_t>(groups)) {
      for (const Copy &copy : thread.groups.front()) {
        std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.there));
        std::memset(static_cast<char *>(copy.to) + copy.there, 0, static_cast<size_t>(copy.bytes - copy.there));
        shared.endCopy(me, copy.to, copy.bytes);
      }
      thread.groups.erase(thread.groups.begin());
    }
  }

  ReportFault report;
  const moe_kernel *kernel = nullptr;
  void *parameters = nullptr;
  int64_t grid[3] = {}, block[3] = {};
  int me = 0;
  bool reported = false;
  static std::string_view option() {
    const char *value = std::getenv("MOE_EMULATOR");
    return value ? value : "";
  }
  /// A bank conflict is slow, not wrong: MOE_EMULATOR=conflicts makes it a fault, for tests.
  const bool reportConflicts = option() == "conflicts";
  /// MOE_EMULATOR=without=N: the barrier or wait that is left out, to test the emulator, or -1.
  const int32_t without = option().substr(0, 8) == "without=" ? std::atoi(option().data() + 8) : -1;
  /// Banks that the copies of a line's threads go to: (threads, number of the copy) -> banks.
  std::map<std::pair<int, int64_t>, uint32_t> lines;
  /// Words that accesses since the last barrier go to: (access, how often, threads) -> bank -> word.
  std::map<std::tuple<int32_t, int, int>, std::map<int, ptrdiff_t>> banks;
  std::vector<Thread> threads;
  Fibers fibers;
  SharedMemory shared;
};

} // namespace

std::unique_ptr<Device> makeEmulator(ReportFault report) { return std::make_unique<Emulator>(std::move(report)); }

} // namespace moe::rt
