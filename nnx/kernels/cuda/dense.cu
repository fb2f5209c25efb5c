// What a dense layer needs beside a library's matrix product: bias and activation after it, the bias's gradient, and a
// product of our own for small and thin matrices and for machines without that library.
//
// Floor: bias and activation move 2 arrays; column sums read 1, and move 3 with the ReLU's gradient in the same pass;
// the product is 2 m n k operations.
#include "elementwise.cuh"

// ---- bias and activation --------------------------------------------------------------------------------------------

// The grid reads whole rows at a time, so that a thread stays in its N columns: their bias is loaded once, and no
// element's index is divided.
template <int N>
__device__ __forceinline__ void add_bias(REAL* y, const REAL* bias, i64 rows, i64 columns, int activation) {
  i64 across = columns / N, lines = quotient(grid_threads(), across);
  if (lines == 0) lines = 1;
  for (i64 start = grid_thread(); start < lines * across; start += grid_threads()) {
    Numbers<N> biases = load<N>(bias + (start - quotient(start, across) * across) * N);
    for (i64 i = start; i < rows * across; i += lines * across) {
      Numbers<N> numbers = load<N>(y + i * N);
#pragma unroll
      for (int k = 0; k < N; k++) numbers.at[k] = activate(numbers.at[k] + biases.at[k], activation);
      store<N>(y + i * N, numbers);
    }
  }
}

extern "C" __global__ void bias_activation(REAL* y, const REAL* bias, long long rows, long long columns,
                                           int activation) {
  if (columns % WIDE == 0 && aligned(y) && aligned(bias))
    add_bias<WIDE>(y, bias, rows, columns, activation);
  else
    add_bias<1>(y, bias, rows, columns, activation);
}

// ---- column sums ----------------------------------------------------------------------------------------------------
//
// A thread has WIDE neighbouring columns, and reads several rows of them before it adds the first: memory answers after
// hundreds of clocks, and who waits for every row gets one in that time.

// How many numbers a thread adds up one after the other. It then adds these sums to each other: what is lost by rounding
// grows with the length of both (nnx/kernels/rounding.py).
#define RUN 128

#define TILE_COLUMNS 128  // of a block, all of whose threads share them, row by row: launches.py says the same

// WIDE neighbours in one access, or where not all arrays begin and go on at multiples of it, `count` of them one by one.
template <bool ALIGNED>
__device__ __forceinline__ Numbers<WIDE> load_some(const REAL* from, int count) {
  if constexpr (ALIGNED) return load<WIDE>(from);
  Numbers<WIDE> numbers = {};
#pragma unroll
  for (int k = 0; k < WIDE; k++)
    if (k < count) numbers.at[k] = from[k];
  return numbers;
}

template <bool ALIGNED>
__device__ __forceinline__ void store_some(REAL* to, const Numbers<WIDE>& numbers, int count) {
  if constexpr (ALIGNED) return store<WIDE>(to, numbers);
#pragma unroll
  for (int k = 0; k < WIDE; k++)
    if (k < count) to[k] = numbers.at[k];
}

__device__ __forceinline__ void add_to(Numbers<WIDE>& total, const Numbers<WIDE>& numbers) {
#pragma unroll
  for (int k = 0; k < WIDE; k++) total.at[k] += numbers.at[k];
}

// Where a matrix's numbers come from: `load` reads what `number` then makes of it.
template <bool ALIGNED>
struct AsTheyAre {
  const REAL* x;
  static constexpr bool aligned = ALIGNED;
  static constexpr int deep = 8;  // rows that a thread reads before it adds the first
  typedef Numbers<WIDE> Loaded;
  __device__ __forceinline__ Loaded load(i64 i, int count) const { return load_some<ALIGNED>(x + i, count); }
  __device__ __forceinline__ Numbers<WIDE> number(i64, int, const Loaded& loaded) const { return loaded; }
};

template <bool ALIGNED>
struct ThroughRelu {
  const REAL *y, *dy;
  REAL* dx;
  static constexpr bool aligned = ALIGNED;
  static constexpr int deep = 4;
  struct Loaded {
    Numbers<WIDE> y, dy;
  };
  __device__ __forceinline__ Loaded load(i64 i, int count) const {
    return {load_some<ALIGNED>(y + i, count), load_some<ALIGNED>(dy + i, count)};
  }
  __device__ __forceinline__ Numbers<WIDE> number(i64 i, int count, const Loaded& loaded) const {
    Numbers<WIDE> gradients;
#pragma unroll
    for (int k = 0; k < WIDE; k++) gradients.at[k] = relu_backward_of(loaded.y.at[k], loaded.dy.at[k]);
    store_some<ALIGNED>(dx + i, gradients, count);
    return gradients;
  }
};

template <bool ALIGNED>
struct OfTwo {
  const REAL *x, *y;
  static constexpr bool aligned = ALIGNED;
  static constexpr int deep = 4;
  struct Loaded {
    Numbers<WIDE> x, y;
  };
  __device__ __forceinline__ Loaded load(i64 i, int count) const {
    return {load_some<ALIGNED>(x + i, count), load_some<ALIGNED>(y + i, count)};
  }
  __device__ __forceinline__ Numbers<WIDE> number(i64, int, const Loaded& loaded) const {
    Numbers<WIDE> products;
#pragma unroll
    for (int k = 0; k < WIDE; k++) products.at[k] = loaded.x.at[k] * loaded.y.at[k];
    return products;
  }
};

// The same number, a multiple of WIDE. That it is one must be seen in its making: else the compiler, which knows nothing of
// `aligned`, stores neighbours one by one.
template <bool ALIGNED>
__device__ __forceinline__ i64 in_groups(i64 elements) {
  return ALIGNED ? elements & -(i64)WIDE : elements;
}

// Add `rows` rows, `apart` elements from each other, of which the first is at `at`: all are read before one is added.
template <class Source>
__device__ __forceinline__ void add_rows(Numbers<WIDE>& total, const Source& source, i64 at, i64 apart, int count,
                                         int rows) {
  typename Source::Loaded loaded[Source::deep];
#pragma unroll
  for (int d = 0; d < Source::deep; d++)
    if (d < rows) loaded[d] = source.load(in_groups<Source::aligned>(at + d * apart), count);
#pragma unroll
  for (int d = 0; d < Source::deep; d++)
    if (d < rows)
      add_to(total, source.number(in_groups<Source::aligned>(at + d * apart), count, loaded[d]));
}

// The sums over `rows` rows, run by run: RUN is a multiple of how deep a source is read.
template <class Source>
__device__ __forceinline__ Numbers<WIDE> sum_rows(const Source& source, i64 at, i64 apart, int count, i64 rows) {
  Numbers<WIDE> total = {};
  while (rows > 0) {
    Numbers<WIDE> run = {};
    i64 left = smaller(rows, RUN);
    rows -= left;
    for (; left >= Source::deep; left -= Source::deep, at += Source::deep * apart)
      add_rows(run, source, at, apart, count, Source::deep);
    if (left > 0) add_rows(run, source, at, apart, count, (int)left);
    add_to(total, run);
  }
  return total;
}

// Add up `shared`, which holds `lines` rows of `width` groups of columns, into its first row: halves onto halves.
__device__ __forceinline__ void fold_lines(Numbers<WIDE>* shared, int lines, int width, int line) {
  __syncthreads();
  for (int left = lines; left > 1;) {
    int half = (left + 1) / 2;
    if (line + half < left) add_to(shared[threadIdx.x], shared[threadIdx.x + half * width]);
    __syncthreads();
    left = half;
  }
}

// sums[band, column] = the sum of that column of `source` in that band: grid.y bands of rows. The threads of a block are
// as many lines as fit, so that none is idle. Which rows a thread adds up, and in what order, depends on the shape alone.
template <class Source>
__device__ __forceinline__ void sum_columns(const Source& source, REAL* sums, i64 rows, i64 columns,
                                            Numbers<WIDE>* shared) {
  i64 height = quotient_up(rows, gridDim.y), first_row = blockIdx.y * height;
  i64 last_row = smaller(rows, first_row + height);
  for (i64 tile = (i64)blockIdx.x * TILE_COLUMNS; tile < columns; tile += (i64)gridDim.x * TILE_COLUMNS) {
    int across = (int)smaller(columns - tile, TILE_COLUMNS), width = (across + WIDE - 1) / WIDE;
    int lines = THREADS / width, line = threadIdx.x / width, first = (threadIdx.x - line * width) * WIDE;
    int count = across - first < WIDE ? across - first : WIDE;
    if (line < lines) {
      i64 at = (first_row + line) * columns + tile + first, left = last_row - first_row - line;
      shared[threadIdx.x] = sum_rows(source, at, lines * columns, count, left > 0 ? quotient_up(left, lines) : 0);
    }
    fold_lines(shared, lines, width, line);
    if (line == 0) store_some<false>(sums + blockIdx.y * columns + tile + first, shared[threadIdx.x], count);
    // the next tile begins in the thread's own place: no barrier
  }
}

// Two blocks on a multiprocessor are enough: told so, the compiler gives each thread the registers for all that is on its
// way. Left to itself it takes few on some GPUs, and then waits for every row.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    column_sums(const REAL* x, REAL* sums, long long rows, long long columns) {
  __shared__ Numbers<WIDE> shared[THREADS];
  if (columns % WIDE == 0 && aligned(x))
    sum_columns(AsTheyAre<true>{x}, sums, rows, columns, shared);
  else
    sum_columns(AsTheyAre<false>{x}, sums, rows, columns, shared);
}

// dx may be dy.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    relu_backward_column_sums(const REAL* y, const REAL* dy, REAL* dx, REAL* sums, long long rows, long long columns) {
  __shared__ Numbers<WIDE> shared[THREADS];
  if (columns % WIDE == 0 && aligned(y) && aligned(dy) && aligned(dx))
    sum_columns(ThroughRelu<true>{y, dy, dx}, sums, rows, columns, shared);
  else
    sum_columns(ThroughRelu<false>{y, dy, dx}, sums, rows, columns, shared);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    product_column_sums(const REAL* x, const REAL* y, REAL* sums, long long rows, long long columns) {
  __shared__ Numbers<WIDE> shared[THREADS];
  if (columns % WIDE == 0 && aligned(x) && aligned(y))
    sum_columns(OfTwo<true>{x, y}, sums, rows, columns, shared);
  else
    sum_columns(OfTwo<false>{x, y}, sums, rows, columns, shared);
}

// ---- product --------------------------------------------------------------------------------------------------------

#define TILE 32  // rows and columns of a block's share of the result, and how deep it reads at a time
#define HALF_TILE (TILE / 2)
#define RUN_OF_TILES 16  // in depth, whose products are added up as they come, as RUN says

// A tile of one factor, by depth and by line (the row of a, the column of b). One column more than it holds, so that
// neither writing it along the depth nor reading it along the lines meets one memory bank twice.
typedef REAL Tile[TILE][TILE + 1];

// Neighbours in memory are read by neighbouring threads, whichever way the matrix is stored; 0 beyond its edges.
__device__ __forceinline__ void load_tile(Tile& tile, const REAL* matrix, i64 first_line, i64 lines, i64 first_depth,
                                          i64 depths, i64 line_stride, i64 depth_stride) {
  for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
    int near = i % TILE, far = i / TILE;
    int depth = depth_stride == 1 ? near : far, line = depth_stride == 1 ? far : near;
    i64 at_line = first_line + line, at_depth = first_depth + depth;
    bool inside = at_line < lines && at_depth < depths;
    tile[depth][line] = inside ? matrix[at_line * line_stride + at_depth * depth_stride] : (REAL)0;
  }
}

// Each thread has the four sums at its place in the four quarters of the tile.
__device__ __forceinline__ void multiply_tiles(const Tile& left, const Tile& right, int deep, int row, int column,
                                               REAL (&sums)[2][2]) {
#pragma unroll 8
  for (int d = 0; d < deep; d++) {
    REAL above = left[d][row], below = left[d][row + HALF_TILE];
    REAL west = right[d][column], east = right[d][column + HALF_TILE];
    sums[0][0] += above * west;
    sums[0][1] += above * east;
    sums[1][0] += below * west;
    sums[1][1] += below * east;
  }
}

// A call: within the kernel all activations would take registers that its loop needs, and stand there four times.
__device__ __noinline__ REAL activated(REAL x, int activation) { return activate(x, activation); }

extern "C" __global__ void product(const REAL* a, const REAL* b, const REAL* bias, REAL* c, long long m, long long n,
                                   long long k, int a_transposed, int b_transposed, int activation) {
  __shared__ Tile left, right;
  i64 share = quotient_up(k, gridDim.y), first_depth = blockIdx.y * share;
  i64 last_depth = smaller(k, first_depth + share);
  i64 tiles_across = quotient_up(n, TILE), tiles = tiles_across * quotient_up(m, TILE);
  int row = threadIdx.x / HALF_TILE, column = threadIdx.x % HALF_TILE;
  bool complete = gridDim.y == 1;
  for (i64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    i64 down = quotient(tile, tiles_across), first_row = down * TILE;
    i64 first_column = (tile - down * tiles_across) * TILE;
    REAL sums[2][2] = {}, run[2][2] = {};
    for (i64 depth = first_depth; depth < last_depth; depth += TILE) {
      load_tile(left, a, first_row, m, depth, last_depth, a_transposed ? 1 : k, a_transposed ? m : 1);
      load_tile(right, b, first_column, n, depth, last_depth, b_transposed ? k : 1, b_transposed ? 1 : n);
      __syncthreads();
      multiply_tiles(left, right, (int)smaller(last_depth - depth, TILE), row, column, run);
      if ((depth - first_depth) / TILE % RUN_OF_TILES == RUN_OF_TILES - 1 || depth + TILE >= last_depth)
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter++) {
          sums[quarter / 2][quarter % 2] += run[quarter / 2][quarter % 2];
          run[quarter / 2][quarter % 2] = 0;
        }
      __syncthreads();
    }
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      i64 r = first_row + row + quarter / 2 * HALF_TILE, col = first_column + column + quarter % 2 * HALF_TILE;
      if (r >= m || col >= n) continue;
      REAL sum = sums[quarter / 2][quarter % 2];
      if (complete && bias) sum += bias[col];
      c[(blockIdx.y * m + r) * n + col] = complete ? activated(sum, activation) : sum;
    }
  }
}
