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

// How many numbers a thread adds up one after the other. It then adds these sums to each other: what is lost by rounding
// grows with the length of both (nnx/kernels/rounding.py).
#define RUN 128

// Add up `shared`, which holds `lines` rows of `width` numbers, into its first row: halves onto halves.
__device__ __forceinline__ void fold_lines(REAL* shared, int lines, int width, int line) {
  __syncthreads();
  for (int left = lines; left > 1;) {
    int half = (left + 1) / 2;
    if (line + half < left) shared[threadIdx.x] += shared[threadIdx.x + half * width];
    __syncthreads();
    left = half;
  }
}

// sums[band, column] = the sum of number(i) over the elements i of that column in that band: grid.y bands of rows.
// Where columns are few a block reads several rows at once, so that no thread is idle.
template <class Number>
__device__ __forceinline__ void sum_columns(REAL* sums, i64 rows, i64 columns, REAL* shared, Number number) {
  i64 height = quotient_up(rows, gridDim.y), first_row = blockIdx.y * height;
  i64 last_row = smaller(rows, first_row + height);
  for (i64 tile = (i64)blockIdx.x * THREADS; tile < columns; tile += grid_threads()) {
    int width = (int)smaller(columns - tile, THREADS), lines = THREADS / width;
    int line = threadIdx.x / width, column = threadIdx.x - line * width;
    REAL total = 0;
    if (line < lines)
      for (i64 row = first_row + line; row < last_row;) {
        i64 end = smaller(last_row, row + RUN * lines);
        REAL run = 0;
        for (; row < end; row += lines) run += number(row * columns + tile + column);
        total += run;
      }
    shared[threadIdx.x] = total;
    fold_lines(shared, lines, width, line);
    if (line == 0) sums[blockIdx.y * columns + tile + column] = shared[threadIdx.x];  // its own place: no barrier
  }
}

extern "C" __global__ void column_sums(const REAL* x, REAL* sums, long long rows, long long columns) {
  __shared__ REAL shared[THREADS];
  sum_columns(sums, rows, columns, shared, [&](i64 i) { return x[i]; });
}

// dx may be dy.
extern "C" __global__ void relu_backward_column_sums(const REAL* y, const REAL* dy, REAL* dx, REAL* sums,
                                                     long long rows, long long columns) {
  __shared__ REAL shared[THREADS];
  sum_columns(sums, rows, columns, shared, [&](i64 i) { return dx[i] = relu_slope(y[i], dy[i]); });
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
      c[(blockIdx.y * m + r) * n + col] = complete ? activate(sum, activation) : sum;
    }
  }
}
