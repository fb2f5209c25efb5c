// CUDA C++ on the CPU, for tests: a .cu file that g++ compiles with this header runs its kernels on plain memory.
//
// A CUDA thread is a fiber with a stack of its own; the threads of a block take turns and give way only where they wait
// for each other, so __syncthreads and the warp shuffles are real barriers. What is reported instead of hanging or
// passing by luck:
//   * a barrier that only some threads reach, or that some have returned before;
//   * a shuffle that names lanes which have returned;
//   * a missing barrier: each warp runs as far ahead as it may; blocks, warps and threads take turns in a shuffled
//     order (seed); shared memory is NaN before each block;
//   * __trap();
//   * atomics on floats: there are none here, so they do not compile.
// Numbers are what CuPy's options make them: with REAL=float those below the normal ones are flushed to 0 (-ftz=true;
// doubles keep theirs), and where this CPU can, a product and the sum it goes into are rounded once.
// Compiled with -fsanitize=thread each CUDA thread is one to the sanitizer too, and nothing orders them but barriers and
// shuffles: it then sees the barrier that is missing between lanes of a warp as well, and in any order of threads.
// Not emulated: blocks that run at the same time (grid-wide barriers), clusters, tensor cores, asynchronous copies.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <xmmintrin.h>
#include <utility>
#include <vector>

#ifndef REAL
#define REAL float
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateNewMemory(const char* file, int line, const volatile void* memory, size_t size);
#define UNSEEN __attribute__((no_sanitize("thread")))  // what orders threads is none of theirs
#else
#define UNSEEN
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __constant__ static const
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("nnx_shared")))

struct dim3 {
  unsigned x, y, z;
};

namespace cpu {

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, RETURNED, TRAPPED };
// cuda_on_cpu.py has the words for these.
enum Error {
  NONE,
  MIXED_BARRIERS,
  RETURNED_BEFORE_BARRIER,
  TOO_MANY_THREADS,
  TOO_MUCH_SHARED,
  SHUFFLE_OF_THE_RETURNED,
  TRAP
};

struct Fiber {
  void* stack_pointer;
  char* stack;
  dim3 place;
  int number;
  State state;
  unsigned mask;               // of the shuffle it waits at
  unsigned char exchanged[8];  // what it offers there
  void* seen;                  // the sanitizer's thread
  unsigned waits[2];           // at barriers of the block, and of its warp
};

extern Fiber* current;
extern dim3 grid, block, block_place;
extern std::vector<Fiber> fibers;
extern int threads;
extern char* dynamic_shared;  // where `extern __shared__` arrays begin
void give_way(State state);

}  // namespace cpu

#define threadIdx (cpu::current->place)
#define blockIdx (cpu::block_place)
#define blockDim (cpu::block)
#define gridDim (cpu::grid)

static inline void __syncthreads() { cpu::give_way(cpu::AT_BLOCK_BARRIER); }
static inline void __trap() { cpu::give_way(cpu::TRAPPED); }

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cpu::current->mask = mask;
  cpu::give_way(cpu::AT_WARP_BARRIER);
}

namespace cpu {

// What `lane` of the same warp offers; the own value where there is no such lane.
template <class T>
UNSEEN T shuffle(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
  Fiber* self = current;
  memcpy(self->exchanged, &value, sizeof(T));
  __syncwarp(mask);
  int other = (self->number & ~31) + lane;
  if (lane >= 0 && lane < 32 && other < threads) memcpy(&value, fibers[other].exchanged, sizeof(T));
  __syncwarp(mask);
  return value;
}

inline int lane() { return current->number & 31; }

}  // namespace cpu

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int from) {
  return cpu::shuffle(mask, value, from);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return cpu::shuffle(mask, value, cpu::lane() ^ bits);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, int by) {
  return cpu::shuffle(mask, value, cpu::lane() + by);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, int by) {
  return cpu::shuffle(mask, value, cpu::lane() - by);
}

inline double sinpi(double x) { return sin(M_PI * x); }
inline double cospi(double x) { return cos(M_PI * x); }
static inline float __int_as_float(int bits) {
  float number;
  memcpy(&number, &bits, sizeof(number));
  return number;
}

static inline unsigned __float_as_uint(float number) {
  unsigned bits;
  memcpy(&bits, &number, sizeof(bits));
  return bits;
}

// ---- fibers ---------------------------------------------------------------------------------------------------------

extern char __start_nnx_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_nnx_shared[] __attribute__((weak, visibility("hidden")));

namespace cpu {

Fiber* current;
dim3 grid, block, block_place;
std::vector<Fiber> fibers;
int threads;
char* dynamic_shared;
static void* scheduler;
static void (*entry)(void*);
static void* entry_arguments;
static unsigned long long random_state;
static const size_t STACK = 128 * 1024;

}  // namespace cpu

#if !defined(__x86_64__)
#error "cuda_on_cpu.h switches stacks in x86-64 assembly"
#endif

// Saves the registers that a callee must keep, leaves one stack for another, and returns into that.
extern "C" void cpu_switch_stack(void** leave, void* enter);
asm(R"(
.text
.globl cpu_switch_stack
.hidden cpu_switch_stack
.type cpu_switch_stack, @function
cpu_switch_stack:
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
.size cpu_switch_stack, . - cpu_switch_stack
)");

namespace cpu {

// What the sanitizer is told: who runs, and who waits for whom.
#ifdef __SANITIZE_THREAD__
static void* scheduler_seen;
// Two places for each barrier, taken in turns: who comes to the next one before others have left this does not meet them.
static char block_barrier[2], warp_barriers[32][2], start_of_block, end_of_block;

UNSEEN static void* barrier_of(const Fiber& fiber, State state, unsigned wait) {
  if (state == RETURNED) return &end_of_block;
  return state == AT_BLOCK_BARRIER ? &block_barrier[wait % 2] : &warp_barriers[fiber.number / 32][wait % 2];
}
UNSEEN static void begin_seeing(Fiber& fiber) {
  if (!fiber.seen) fiber.seen = __tsan_create_fiber(0);  // which takes longer than most kernels do
  fiber.waits[0] = fiber.waits[1] = 0;
}
UNSEEN static void see(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
UNSEEN static void let_go(void* place) { __tsan_release(place); }
UNSEEN static void take_up(void* place) { __tsan_acquire(place); }
UNSEEN static void forget(void* memory, size_t size) { AnnotateNewMemory(__FILE__, __LINE__, memory, size); }
#endif

UNSEEN __attribute__((noinline)) void give_way(State state) {
  Fiber* self = current;
  self->state = state;
#ifdef __SANITIZE_THREAD__
  void* barrier = barrier_of(*self, state, self->waits[state == AT_WARP_BARRIER]++);
  let_go(barrier);
  see(scheduler_seen);
#endif
  cpu_switch_stack(&self->stack_pointer, scheduler);
#ifdef __SANITIZE_THREAD__
  take_up(barrier);
#endif
}

static void run_thread() {
#ifdef __SANITIZE_THREAD__
  take_up(&start_of_block);
#endif
  entry(entry_arguments);
  give_way(RETURNED);
  abort();  // nobody wakes a thread that has returned
}

UNSEEN static void start(Fiber& fiber, int number) {
  if (!fiber.stack) fiber.stack = static_cast<char*>(aligned_alloc(64, STACK));
  fiber.number = number;
  fiber.place = {number % block.x, number / block.x % block.y, number / (block.x * block.y)};
  fiber.state = READY;
  void** top = reinterpret_cast<void**>(fiber.stack + STACK - 64);
  *--top = nullptr;  // run_thread returns nowhere, and its stack is aligned as after a call
  *--top = reinterpret_cast<void*>(run_thread);
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber.stack_pointer = top;
#ifdef __SANITIZE_THREAD__
  begin_seeing(fiber);
  forget(fiber.stack, STACK);
#endif
}

template <class T>
UNSEEN void shuffle_order(std::vector<T>& order) {
  if (random_state == 0) return;
  for (size_t i = order.size(); i > 1; i--) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::swap(order[i - 1], order[(random_state >> 33) % i]);
  }
}

UNSEEN static int count(State state, int first, int last) {
  int number = 0;
  for (int i = first; i < last; i++) number += fibers[i].state == state;
  return number;
}

// Wake a warp of which every lane has come to a shuffle or has returned; false where some wait for something else.
UNSEEN static bool wake_warp(int first, int last, Error& error) {
  int waiting = count(AT_WARP_BARRIER, first, last);
  if (waiting == 0 || waiting + count(RETURNED, first, last) < last - first) return false;
  unsigned gone = 0, named = 0;
  for (int i = first; i < last; i++) {
    if (fibers[i].state == RETURNED) gone |= 1u << (i - first);
    if (fibers[i].state == AT_WARP_BARRIER) named |= fibers[i].mask, fibers[i].state = READY;
  }
  if (gone & named) error = SHUFFLE_OF_THE_RETURNED;
  return true;
}

// Run a warp as far as it comes without the others: to a barrier of the block, or to its end. Warps that run far ahead
// show the barrier that is missing, be it before a number is read or before it is written over.
UNSEEN static Error run_warp(int first, int last) {
  std::vector<int> order(last - first);
  for (int i = first; i < last; i++) order[i - first] = i;
  Error error = NONE;
  do {
    shuffle_order(order);
    for (int i : order)
      if (fibers[i].state == READY) {
        current = &fibers[i];
#ifdef __SANITIZE_THREAD__
        see(current->seen);
#endif
        cpu_switch_stack(&scheduler, current->stack_pointer);
        if (current->state == TRAPPED) return TRAP;
      }
  } while (wake_warp(first, last, error) && !error);
  return error;
}

UNSEEN static Error run_block() {
  std::vector<int> warps((threads + 31) / 32);
  for (int i = 0; i < threads; i++) start(fibers[i], i);
  for (size_t i = 0; i < warps.size(); i++) warps[i] = int(i) * 32;
  for (;;) {
    shuffle_order(warps);
    for (int first : warps)
      if (Error error = run_warp(first, std::min(first + 32, threads))) return error;
    int returned = count(RETURNED, 0, threads), waiting = count(AT_BLOCK_BARRIER, 0, threads);
    if (returned == threads) return NONE;
    if (waiting + returned < threads) return MIXED_BARRIERS;
    if (returned > 0) return RETURNED_BEFORE_BARRIER;
    for (int i = 0; i < threads; i++) fibers[i].state = READY;
  }
}

UNSEEN static Error run_grid(size_t shared_bytes) {
  std::vector<char> shared(shared_bytes + 64);
  dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(shared.data()) + 63) & ~uintptr_t(63));
  std::vector<unsigned long long> order(size_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  shuffle_order(order);
  for (unsigned long long i : order) {
    block_place = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    memset(shared.data(), 0xff, shared.size());  // NaN, whether float or double
    if (__start_nnx_shared) memset(__start_nnx_shared, 0xff, __stop_nnx_shared - __start_nnx_shared);
#ifdef __SANITIZE_THREAD__  // one block after the other: races between blocks are not looked for
    forget(shared.data(), shared.size());
    if (__start_nnx_shared) forget(__start_nnx_shared, __stop_nnx_shared - __start_nnx_shared);
    let_go(&start_of_block);
#endif
    if (Error error = run_block()) return error;
#ifdef __SANITIZE_THREAD__
    take_up(&end_of_block);
#endif
  }
  return NONE;
}

#ifdef __SANITIZE_THREAD__
// Has the sanitizer forget these threads: the more it knows, the more clocks it compares at each barrier.
extern "C" UNSEEN void forget_threads() {
  for (Fiber& fiber : fibers)
    if (fiber.seen) __tsan_destroy_fiber(fiber.seen), fiber.seen = nullptr;
}
#endif

// While it lasts, floats below the normal ones are 0, read or written. There are no doubles so small.
class Flushed {
  unsigned before = _mm_getcsr();

 public:
  Flushed() {
    const unsigned flush_results = 1u << 15, read_as_zero = 1u << 6;
    if (sizeof(REAL) == sizeof(float)) _mm_setcsr(before | flush_results | read_as_zero);
  }
  ~Flushed() { _mm_setcsr(before); }
};

// A kernel and the addresses of its arguments, in order.
template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  void** arguments;

  template <size_t... place>
  void run(std::index_sequence<place...>) {
    kernel(*static_cast<Parameters*>(arguments[place])...);
  }
  static void enter(void* self) { static_cast<Call*>(self)->run(std::index_sequence_for<Parameters...>()); }
};

// shape: grid x, y, z and block x, y, z. seed: of the order of threads and blocks; 0 is one after the other.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), const unsigned* shape, size_t shared_bytes, void** arguments,
           unsigned long long seed) {
  grid = {shape[0], shape[1], shape[2]};
  block = {shape[3], shape[4], shape[5]};
  random_state = seed;
  if (size_t(block.x) * block.y * block.z > 1024) return TOO_MANY_THREADS;
  if (shared_bytes > 227 * 1024) return TOO_MUCH_SHARED;
  threads = int(block.x * block.y * block.z);
  if (int(fibers.size()) < threads) fibers.resize(threads);
  Call<Parameters...> call = {kernel, arguments};
  entry = Call<Parameters...>::enter;
  entry_arguments = &call;
#ifdef __SANITIZE_THREAD__
  scheduler_seen = __tsan_get_current_fiber();
#endif
  Flushed flushed;
  return run_grid(shared_bytes);
}

}  // namespace cpu
