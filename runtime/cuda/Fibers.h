//===- Fibers.h - threads of a GPU as coroutines ----------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CUDA_FIBERS_H
#define MOE_RUNTIME_CUDA_FIBERS_H

#include <cstddef>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

namespace moe::rt {

/// Stacks and contexts of as many fibers as are wanted. One runs at a time, until it yields or ends.
class Fibers {
public:
  using Body = void (*)(void *argument, size_t fiber);
  ~Fibers();
  /// Gets `count` fibers ready to start `body`.
  void start(size_t count, Body body, void *argument);
  /// Runs `fiber` until it yields or ends.
  void resume(size_t fiber);
  /// From inside a fiber: back to whoever resumed it.
  void yield();
  bool ended(size_t fiber) const { return done[fiber]; }

private:
  static void enter();
  struct Stack {
    char *memory;
    void *pointer;
  };
  std::vector<Stack> stacks;
  std::vector<char> done;
  Body body = nullptr;
  void *argument = nullptr;
  size_t current = 0;
  void *host = nullptr;
#ifndef __x86_64__
  std::vector<ucontext_t> contexts;
  ucontext_t hostContext;
#endif
};

} // namespace moe::rt

#endif // MOE_RUNTIME_CUDA_FIBERS_H
