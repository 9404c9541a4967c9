//===- Fibers.cpp - threads of a GPU as coroutines ------------------------===//
//
// swapcontext saves the signal mask by a system call, which is most of the time of an emulated barrier. On x86-64 the
// switch is the ten instructions that the calling convention asks for.
//
//===----------------------------------------------------------------------===//
#include "Fibers.h"
#include "Support.h"
#include <cstdint>
#include <cstring>
#include <sys/mman.h>

namespace moe::rt {

namespace {
constexpr size_t kStackBytes = 256 << 10, kGuardBytes = 4096;
thread_local Fibers *entering = nullptr;
} // namespace

#ifdef __x86_64__
extern "C" void moe_switch_fiber(void **save, void *restore);
asm(R"(
.text
.hidden moe_switch_fiber
.globl moe_switch_fiber
.type moe_switch_fiber, @function
moe_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size moe_switch_fiber, .-moe_switch_fiber
)");
#endif

Fibers::~Fibers() {
  for (Stack &stack : stacks)
    ::munmap(stack.memory, kStackBytes);
}

void Fibers::start(size_t count, Body function, void *data) {
  while (stacks.size() < count) {
    void *memory =
        ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      fail(MOE_OUT_OF_MEMORY, "no memory for the stacks of the emulated threads");
    // A stack that is too small ends the process instead of damaging another thread.
    ::mprotect(memory, kGuardBytes, PROT_NONE);
    stacks.push_back({static_cast<char *>(memory), nullptr});
  }
  body = function;
  argument = data;
  done.assign(count, 0);
#ifdef __x86_64__
  for (size_t i = 0; i < count; ++i) {
    // What the first switch pops: six registers and the place to go on; the stack is then as after a call.
    auto *top = reinterpret_cast<uint64_t *>(stacks[i].memory + kStackBytes) - 1;
    *top-- = 0;
    *top = reinterpret_cast<uint64_t>(&Fibers::enter);
    top -= 6;
    std::memset(top, 0, 6 * sizeof(uint64_t));
    stacks[i].pointer = top;
  }
#else
  contexts.resize(count);
  for (size_t i = 0; i < count; ++i) {
    ::getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i].memory;
    contexts[i].uc_stack.ss_size = kStackBytes;
    contexts[i].uc_link = nullptr;
    ::makecontext(&contexts[i], &Fibers::enter, 0);
  }
#endif
}

void Fibers::enter() {
  Fibers *fibers = entering;
  size_t me = fibers->current;
  fibers->body(fibers->argument, me);
  fibers->done[me] = 1;
  fibers->yield();
  __builtin_unreachable();
}

void Fibers::resume(size_t fiber) {
  current = fiber;
  entering = this;
#ifdef __x86_64__
  moe_switch_fiber(&host, stacks[fiber].pointer);
#else
  ::swapcontext(&hostContext, &contexts[fiber]);
#endif
}

void Fibers::yield() {
#ifdef __x86_64__
  moe_switch_fiber(&stacks[current].pointer, host);
#else
  ::swapcontext(&contexts[current], &hostContext);
#endif
}

} // namespace moe::rt
