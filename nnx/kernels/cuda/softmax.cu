// Softmax of each row, its gradient, and the notes' Jacobian.
//
// Floor: 2 arrays moved forward, 3 backward. A row is read three times, for its maximum, its sum and its result, the
// second and third time from the first-level cache; exp is computed twice rather than stored. Short rows take some
// lanes of a warp each, long ones a block. The Jacobian's floor is its own rows * columns**2 numbers.
#include "common.cuh"

// y may be x: an element is read for the last time by the thread that then writes it.
template <class Team>
__device__ __forceinline__ void softmax_row(Team team, const REAL* x, REAL* y, i64 columns) {
  REAL top = -infinity(), total = 0;
  for (i64 j = team.lane; j < columns; j += team.size) top = Max()(top, x[j]);
  top = team.reduce(top, Max());
  for (i64 j = team.lane; j < columns; j += team.size) total += exponential(x[j] - top);
  total = team.reduce(total, Sum());
  for (i64 j = team.lane; j < columns; j += team.size) y[j] = exponential(x[j] - top) / total;
}

extern "C" __global__ void softmax_warp(const REAL* x, REAL* y, long long rows, long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    softmax_row(team, x + row * columns, y + row * columns, width);
  });
}

extern "C" __global__ void softmax_block(const REAL* x, REAL* y, long long rows, long long columns) {
  __shared__ REAL shared[WARPS];
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    softmax_row(team, x + row * columns, y + row * columns, width);
  });
}

// The Jacobian diagflat(y) - y @ y.T times the gradient needs only the row's sum of y * dy. dx may be dy.
template <class Team>
__device__ __forceinline__ void softmax_backward_row(Team team, const REAL* y, const REAL* dy, REAL* dx, i64 columns) {
  REAL total = 0;
  for (i64 j = team.lane; j < columns; j += team.size) total += y[j] * dy[j];
  total = team.reduce(total, Sum());
  for (i64 j = team.lane; j < columns; j += team.size) dx[j] = y[j] * (dy[j] - total);
}

extern "C" __global__ void softmax_backward_warp(const REAL* y, const REAL* dy, REAL* dx, long long rows,
                                                 long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    softmax_backward_row(team, y + first, dy + first, dx + first, width);
  });
}

extern "C" __global__ void softmax_backward_block(const REAL* y, const REAL* dy, REAL* dx, long long rows,
                                                  long long columns) {
  __shared__ REAL shared[WARPS];
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    softmax_backward_row(team, y + first, dy + first, dx + first, width);
  });
}

// Row i of sample n's matrix is y[i] * (identity - y): a row of the grid's rows * columns.
extern "C" __global__ void softmax_jacobian(const REAL* y, REAL* jacobian, long long rows, long long columns) {
  for_each_row_by_lanes(rows * columns, columns, [&](auto team, i64 row, i64 width) {
    if (row < 0) return;
    i64 sample = quotient(row, columns), i = row - sample * columns;
    const REAL* outputs = y + sample * columns;
    REAL own = outputs[i];
    for (i64 j = team.lane; j < width; j += team.size)
      jacobian[row * columns + j] = (i == j ? own : (REAL)0) - own * outputs[j];
  });
}
