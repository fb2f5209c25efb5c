// Softmax of each row, its gradient, and the notes' Jacobian.
//
// Floor: 2 arrays moved forward, 3 backward. A row is read three times, for its maximum, its sum and its result, the
// second and third time from the first-level cache; exp is computed twice rather than stored. Short rows take some
// lanes of a warp each, long ones a block. The Jacobian's floor is its own rows * columns**2 numbers.
#include "rows.cuh"

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
