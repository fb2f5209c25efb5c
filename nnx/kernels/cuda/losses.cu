// Losses whose outputs stand for themselves: binary cross-entropy, of probabilities and of logits, squared and absolute
// error. One number for each row: the mean over its columns.
//
// Floor: 2 arrays read for the losses, 3 moved for a gradient; the fused pass reads 2 and writes 1, or 2 with
// probabilities.
#include "elementwise.cuh"
#include "means.cuh"
#include "losses.cuh"

extern "C" __global__ void sigmoid_cross_entropy(const REAL* logits, const REAL* target, REAL* losses,
                                                 REAL* probabilities, REAL* gradient, long long rows, long long columns,
                                                 REAL low, REAL high) {
  REAL count = (REAL)(rows * columns);
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      REAL x = logits[i], t = target[i], p = sigmoid_of(x);
      total += logit_of(x, t, low, high);
      if (probabilities) probabilities[i] = p;
      gradient[i] = (p - t) / count;
    }
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) losses[row] = total / (REAL)columns;
  });
}
