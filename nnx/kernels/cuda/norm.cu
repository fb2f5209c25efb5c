// Normalization: of each row (layer_norm), and of each column, by its own moments or by running ones (batch_norm).
//
// Floor: reading what is normalized and writing it twice, before gamma and after. A row is read four times, all but the
// first time from the first-level cache; columns are read twice more, by blocks that take 32 of them, for their moments.
#include "norm.cuh"

#define ACROSS 32  // columns of a block's share of the moments: launches.py says the same

// ---- of each row ----------------------------------------------------------------------------------------------------

template <class Team>
__device__ __forceinline__ void layer_norm(Team team, const REAL* x, const REAL* gamma, const REAL* beta,
                                           REAL* normalized, REAL* scales, REAL* y, i64 row, i64 width, i64 columns,
                                           REAL epsilon) {
  i64 first = row * columns;
  REAL scale = layer_norm_row(team, x + first, gamma, beta, y + first, epsilon, width, [&](i64 j, REAL number) {
    if (normalized) normalized[first + j] = number;
  });
  if (scales && row >= 0 && team.lane == 0) scales[row] = scale;
}

extern "C" __global__ void layer_norm_warp(const REAL* x, const REAL* gamma, const REAL* beta, REAL* normalized,
                                           REAL* scales, REAL* y, long long rows, long long columns, REAL epsilon) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    layer_norm(team, x, gamma, beta, normalized, scales, y, row, width, columns, epsilon);
  });
}

extern "C" __global__ void layer_norm_block(const REAL* x, const REAL* gamma, const REAL* beta, REAL* normalized,
                                            REAL* scales, REAL* y, long long rows, long long columns, REAL epsilon) {
  __shared__ REAL shared[WARPS];
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    layer_norm(team, x, gamma, beta, normalized, scales, y, row, width, columns, epsilon);
  });
}

extern "C" __global__ void layer_norm_backward_warp(const REAL* normalized, const REAL* scales, const REAL* gamma,
                                                    const REAL* dy, REAL* dx, long long rows, long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    REAL scale = row < 0 ? 0 : scales[row];
    layer_norm_backward_row(team, normalized + first, scale, gamma, dy + first, dx + first, width);
  });
}

extern "C" __global__ void layer_norm_backward_block(const REAL* normalized, const REAL* scales, const REAL* gamma,
                                                     const REAL* dy, REAL* dx, long long rows, long long columns) {
  __shared__ REAL shared[WARPS];
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    layer_norm_backward_row(team, normalized + first, scales[row], gamma, dy + first, dx + first, width);
  });
}

// ---- of each column -------------------------------------------------------------------------------------------------

// The sum over lines of what each thread has for its column; every line gets it. All must call.
__device__ __forceinline__ double over_lines(double value, double* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  double total = 0;
  for (int line = threadIdx.x % ACROSS; line < THREADS; line += ACROSS) total += shared[line];
  __syncthreads();  // before the next sum is written there
  return total;
}

__device__ __forceinline__ void keep(Moments moments, double* means, REAL* scales, i64 column, i64 columns) {
  means[column] = moments.mean;
  means[columns + column] = moments.rest;
  scales[column] = moments.scale;
}

// Neighbouring threads take neighbouring columns, and lines of them every so many rows. In double: a thread adds up as
// many numbers as it takes.
extern "C" __global__ void batch_moments(const REAL* x, REAL* mean, REAL* variance, double* means, REAL* scales,
                                         long long rows, long long columns, double epsilon, double momentum) {
  __shared__ double shared[THREADS];
  int line = threadIdx.x / ACROSS;
  for (i64 first = (i64)blockIdx.x * ACROSS; first < columns; first += (i64)gridDim.x * ACROSS) {
    i64 column = first + threadIdx.x % ACROSS;
    i64 last = column < columns ? rows : 0;
    double total = 0, rest = 0, squares = 0;
    for (i64 row = line; row < last; row += THREADS / ACROSS) total += (double)x[row * columns + column];
    double centre = over_lines(total, shared) / rows;
    for (i64 row = line; row < last; row += THREADS / ACROSS) {
      double off = (double)x[row * columns + column] - centre;
      rest += off;
      squares += off * off;
    }
    rest = over_lines(rest, shared);
    squares = over_lines(squares, shared);
    if (line > 0 || column >= columns) continue;
    Running running = {mean + column, variance + column, momentum};
    keep(moments_of(centre, rest, squares, rows, epsilon, running), means, scales, column, columns);
  }
}

// The same of rows of which other processes have the rest: about a mean of its own, then about that of all rows.
extern "C" __global__ void column_means(const REAL* x, double* means, long long rows, long long columns) {
  __shared__ double shared[THREADS];
  int line = threadIdx.x / ACROSS;
  for (i64 first = (i64)blockIdx.x * ACROSS; first < columns; first += (i64)gridDim.x * ACROSS) {
    i64 column = first + threadIdx.x % ACROSS;
    i64 last = column < columns ? rows : 0;
    double total = 0, rest = 0;
    for (i64 row = line; row < last; row += THREADS / ACROSS) total += (double)x[row * columns + column];
    double centre = over_lines(total, shared) / rows;
    for (i64 row = line; row < last; row += THREADS / ACROSS) rest += (double)x[row * columns + column] - centre;
    rest = over_lines(rest, shared);
    if (line == 0 && column < columns) means[column] = centre + rest / rows;
  }
}

extern "C" __global__ void column_spreads(const REAL* x, const double* means, double* spreads, long long rows,
                                          long long columns) {
  __shared__ double shared[THREADS];
  int line = threadIdx.x / ACROSS;
  for (i64 first = (i64)blockIdx.x * ACROSS; first < columns; first += (i64)gridDim.x * ACROSS) {
    i64 column = first + threadIdx.x % ACROSS;
    i64 last = column < columns ? rows : 0;
    double squares = 0;
    for (i64 row = line; row < last; row += THREADS / ACROSS) {
      double off = (double)x[row * columns + column] - means[column];
      squares += off * off;
    }
    squares = over_lines(squares, shared);
    if (line == 0 && column < columns) spreads[column] = squares / rows;
  }
}

extern "C" __global__ void pooled_moments(const double* pooled, const double* spreads, REAL* mean, REAL* variance,
                                          double* means, REAL* scales, long long rows, long long columns, double epsilon,
                                          double momentum) {
  for (i64 column = grid_thread(); column < columns; column += grid_threads()) {
    Running running = {mean + column, variance + column, momentum};
    keep(moments_of(pooled[column], 0, spreads[column] * rows, rows, epsilon, running), means, scales, column, columns);
  }
}

extern "C" __global__ void running_moments(const REAL* mean, const REAL* variance, double* means, REAL* scales,
                                           long long columns, double epsilon) {
  for (i64 column = grid_thread(); column < columns; column += grid_threads()) {
    keep(fixed_moments(mean[column], variance[column], epsilon), means, scales, column, columns);
  }
}

extern "C" __global__ void batch_norm(const REAL* x, const double* means, const REAL* scales, const REAL* gamma,
                                      const REAL* beta, REAL* normalized, REAL* y, long long rows, long long columns) {
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    i64 column = i - quotient(i, columns) * columns;
    Moments moments = {means[column], means[columns + column], scales[column]};
    REAL number = moments.normalized(x[i]);
    if (normalized) normalized[i] = number;
    y[i] = number * gamma[column] + beta[column];
  }
}

extern "C" __global__ void batch_norm_backward(const REAL* normalized, const REAL* scales, const REAL* gamma,
                                               const REAL* dy, const REAL* dgamma, const REAL* dbeta, REAL* dx,
                                               long long rows, long long columns) {
  REAL share = (REAL)1 / rows;
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    i64 column = i - quotient(i, columns) * columns;
    REAL factor = gamma[column] * scales[column];
    dx[i] = batch_norm_backward_of(dy[i], normalized[i], dbeta[column], dgamma[column], share, factor);
  }
}

extern "C" __global__ void fixed_norm_backward(const REAL* scales, const REAL* gamma, const REAL* dy, REAL* dx,
                                               long long rows, long long columns) {
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    i64 column = i - quotient(i, columns) * columns;
    dx[i] = dy[i] * (gamma[column] * scales[column]);
  }
}
