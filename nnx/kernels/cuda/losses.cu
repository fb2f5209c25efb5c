// Losses whose outputs stand for themselves: binary cross-entropy, of probabilities and of logits, squared and absolute
// error. One number for each row: the mean over its columns.
//
// Floor: 2 arrays read for the losses, 3 moved for a gradient; the fused pass reads 2 and writes 1, or 2 with
// probabilities.
#include "elementwise.cuh"

// losses[row] = mean over columns of cost(a, b).
template <class Cost>
__device__ __forceinline__ void mean_of_rows(const REAL* a, const REAL* b, REAL* losses, i64 rows, i64 columns,
                                             Cost cost) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) total += cost(a[row * columns + j], b[row * columns + j]);
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) losses[row] = total / (REAL)columns;
  });
}

// ---- binary cross-entropy -------------------------------------------------------------------------------------------

extern "C" __global__ void binary_cross_entropy(const REAL* p, const REAL* target, REAL* losses, long long rows,
                                                long long columns) {
  mean_of_rows(p, target, losses, rows, columns, [](REAL share, REAL t) { return binary_of(share, t); });
}

extern "C" __global__ void binary_cross_entropy_backward(const REAL* p, const REAL* target, REAL* gradient,
                                                         long long n) {
  REAL scale = (REAL)(1.0 / (double)n);
  map(p, target, gradient, n, [&](REAL share, REAL t) { return binary_backward_of(share, t, scale); });
}

extern "C" __global__ void sigmoid_cross_entropy(const REAL* logits, const REAL* target, REAL* losses,
                                                 REAL* probabilities, REAL* gradient, long long rows, long long columns,
                                                 REAL low, REAL high) {
  REAL count = (REAL)(rows * columns);
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      REAL x = logits[i], t = target[i], p = logistic(x);
      total += logit_of(x, t, low, high);
      if (probabilities) probabilities[i] = p;
      gradient[i] = (p - t) / count;
    }
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) losses[row] = total / (REAL)columns;
  });
}

// ---- errors ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void mean_squared_error(const REAL* prediction, const REAL* target, REAL* losses, long long rows,
                                              long long columns) {
  mean_of_rows(prediction, target, losses, rows, columns, [](REAL a, REAL b) { return square_of(a, b); });
}

extern "C" __global__ void mean_squared_error_backward(const REAL* prediction, const REAL* target, REAL* gradient,
                                                       long long n) {
  REAL scale = (REAL)(2.0 / (double)n);
  map(prediction, target, gradient, n, [&](REAL a, REAL b) { return square_backward_of(a, b, scale); });
}

extern "C" __global__ void mean_absolute_error(const REAL* prediction, const REAL* target, REAL* losses, long long rows,
                                               long long columns) {
  mean_of_rows(prediction, target, losses, rows, columns, [](REAL a, REAL b) { return abs_error_of(a, b); });
}

extern "C" __global__ void mean_absolute_error_backward(const REAL* prediction, const REAL* target, REAL* gradient,
                                                        long long n) {
  REAL scale = (REAL)(1.0 / (double)n);
  map(prediction, target, gradient, n, [&](REAL a, REAL b) { return abs_error_backward_of(a, b, scale); });
}
