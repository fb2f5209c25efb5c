// What the kernels share: names of types, walking over an array, reductions of a warp and of a block, numbers.
//
// Compiled with -DREAL=float or -DREAL=double, by NVRTC, which has neither standard headers nor INFINITY.
// No kernel adds floats atomically: the same input gives the same bits, on every run.

#ifndef REAL
#define REAL float
#endif

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256  // of a block, everywhere: launches.py says the same
#define WARPS (THREADS / 32)
#define ALL_LANES 0xffffffffu

// Where things stand in a training step's arrays: nnx/kernels/step_state.py says the same.
enum { STEP, CURSOR, DONE };
enum { LEARNING_RATE, DECAY, BETA_1, BETA_2, EPSILON, WEIGHT_DECAY, MOMENTUM_DECAY };
enum { LOSS, HITS, PENALTY, STATS };

// ---- places ---------------------------------------------------------------------------------------------------------

// The number of this thread in the grid, and of threads in it: element counts may exceed 32 bits.
__device__ __forceinline__ i64 grid_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ i64 grid_threads() { return (i64)gridDim.x * blockDim.x; }

// a / b for a >= 0, b > 0. A 64-bit division costs some 100 instructions, and most numbers fit into 32 bits.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) {
  return ((a | b) >> 32) == 0 ? (i64)((u32)a / (u32)b) : a / b;
}

__device__ __forceinline__ i64 quotient_up(i64 a, i64 b) { return quotient(a + b - 1, b); }
__device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
// i, or the nearest index of so many.
__device__ __forceinline__ i64 within(i64 i, i64 count) { return i < 0 ? 0 : smaller(i, count - 1); }

// ---- wide accesses --------------------------------------------------------------------------------------------------

// Neighbours that one instruction loads or stores: 16 bytes is the most, and what keeps the memory busy.
#define WIDE (16 / (int)sizeof(REAL))

template <int N>
struct __align__(N * sizeof(REAL)) Numbers {
  REAL at[N];
};

template <int N>
__device__ __forceinline__ Numbers<N> load(const REAL* from) {
  return *reinterpret_cast<const Numbers<N>*>(from);
}

template <int N>
__device__ __forceinline__ void store(REAL* to, const Numbers<N>& numbers) {
  *reinterpret_cast<Numbers<N>*>(to) = numbers;
}

__device__ __forceinline__ bool aligned(const void* a) { return (reinterpret_cast<u64>(a) & 15) == 0; }

// How many elements from `first` on: a type, so that loops over them unroll.
template <int N>
struct Span {
  i64 first;
  static constexpr int count = N;
  __device__ __forceinline__ Numbers<N> load_from(const REAL* a) const { return load<N>(a + first); }
  __device__ __forceinline__ void store_to(REAL* a, const Numbers<N>& numbers) const { store<N>(a + first, numbers); }
};

// Call body(span) until every one of n elements has had its turn, in wide spans where all arrays are aligned.
template <class Body>
__device__ __forceinline__ void for_each(i64 n, bool all_aligned, Body body) {
  i64 wide = all_aligned ? n / WIDE : 0;
  for (i64 i = grid_thread(); i < wide; i += grid_threads()) body(Span<WIDE>{i * WIDE});
  for (i64 i = wide * WIDE + grid_thread(); i < n; i += grid_threads()) body(Span<1>{i});
}

// y[i] = f(x[i]). y may be x: each element is read and written by one thread.
template <class F>
__device__ __forceinline__ void map(const REAL* x, REAL* y, i64 n, F f) {
  for_each(n, aligned(x) && aligned(y), [&](auto span) {
    auto numbers = span.load_from(x);
#pragma unroll
    for (int k = 0; k < span.count; k++) numbers.at[k] = f(numbers.at[k]);
    span.store_to(y, numbers);
  });
}

// c[i] = f(a[i], b[i]). c may be a or b.
template <class F>
__device__ __forceinline__ void map(const REAL* a, const REAL* b, REAL* c, i64 n, F f) {
  for_each(n, aligned(a) && aligned(b) && aligned(c), [&](auto span) {
    auto left = span.load_from(a);
    auto right = span.load_from(b);
#pragma unroll
    for (int k = 0; k < span.count; k++) left.at[k] = f(left.at[k], right.at[k]);
    span.store_to(c, left);
  });
}

// ---- numbers --------------------------------------------------------------------------------------------------------
// Overloads, so that float stays float. Without fast math exp(-inf) is 0, log(0) is -inf, and NaN stays NaN.

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float exponential_less_1(float x) { return expm1f(x); }
__device__ __forceinline__ double exponential_less_1(double x) { return expm1(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float logarithm_of_1_plus(float x) { return log1pf(x); }
__device__ __forceinline__ double logarithm_of_1_plus(double x) { return log1p(x); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }
__device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return fabs(x); }
__device__ __forceinline__ REAL infinity() { return (REAL)__int_as_float(0x7f800000); }
__device__ __forceinline__ REAL not_a_number() { return infinity() - infinity(); }

// NaN passes: every comparison with it is false.
__device__ __forceinline__ REAL clamp(REAL x, REAL low, REAL high) { return x < low ? low : x > high ? high : x; }

// ---- reductions -----------------------------------------------------------------------------------------------------

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// NaN is lost where a number stands beside it; whoever uses it meets the NaN again in exp(x - max).
struct Max {
  __device__ __forceinline__ REAL operator()(REAL a, REAL b) const { return a > b ? a : b; }
};

// The reduction over each group of `lanes` neighbours, a power of two; every lane gets it. All 32 of a warp must call.
template <class T, class Operator>
__device__ __forceinline__ T reduce_lanes(T value, int lanes, Operator combine) {
  for (int distance = lanes >> 1; distance > 0; distance >>= 1)
    value = combine(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// The reduction over a block of THREADS; every thread gets it. All must call.
template <class T, class Operator>
__device__ __forceinline__ T reduce_block(T value, T* shared, Operator combine) {
  value = reduce_lanes(value, 32, combine);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) value = combine(value, shared[warp]);
  __syncthreads();  // before the next reduction writes there
  return value;
}

// ---- rows -----------------------------------------------------------------------------------------------------------

// A team of threads that shares a row: lane `lane` of `size` takes elements lane, lane + size, ...
struct LanesOfWarp {
  int lane, size;
  template <class T, class Operator>
  __device__ __forceinline__ T reduce(T value, Operator combine) const {
    return reduce_lanes(value, size, combine);
  }
};

struct Block {
  int lane, size;
  REAL* shared;  // [WARPS]
  template <class Operator>
  __device__ __forceinline__ REAL reduce(REAL value, Operator combine) const {
    return reduce_block(value, shared, combine);
  }
};

// As many lanes of a warp as the row has columns, or the power of two above: 10 columns leave 6 of 16 lanes idle, where
// a whole warp would leave 22 of 32.
__device__ __forceinline__ int doublings_for(i64 columns) {
  int doublings = 0;
  while (doublings < 5 && (1 << doublings) < columns) doublings++;
  return doublings;
}

// Call body(team, row, columns) for every row. The lanes of a warp go together, because they shuffle together: those
// that have no row left get row -1 with 0 columns, and must come along without touching memory.
template <class Body>
__device__ __forceinline__ void for_each_row_by_lanes(i64 rows, i64 columns, Body body) {
  int doublings = doublings_for(columns), lanes = 1 << doublings;
  LanesOfWarp team = {(int)threadIdx.x & (lanes - 1), lanes};
  i64 rows_at_a_time = grid_threads() >> doublings;
  i64 first_of_warp = (grid_thread() & ~31LL) >> doublings;
  for (i64 ahead = 0; first_of_warp + ahead < rows; ahead += rows_at_a_time) {
    i64 row = (grid_thread() >> doublings) + ahead;
    body(team, row < rows ? row : -1, row < rows ? columns : 0);
  }
}

// The same with a block for each row.
template <class Body>
__device__ __forceinline__ void for_each_row_by_block(i64 rows, i64 columns, REAL* shared, Body body) {
  Block team = {(int)threadIdx.x, (int)blockDim.x, shared};
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) body(team, row, columns);
}
