// Categorical cross-entropy of probabilities, and of logits in one pass with their softmax.
//
// Floor: the losses alone read p once (labels: one number a row); a gradient reads and writes one array. The fused pass
// reads the logits and writes the gradient, 2 arrays, and a third where probabilities are kept.
// Targets are class indices (labels) or distributions over the classes, each a kernel of its own.
#include "elementwise.cuh"
#include "rows.cuh"

// ---- of probabilities -----------------------------------------------------------------------------------------------

extern "C" __global__ void cross_entropy_labels(const REAL* p, const long long* target, REAL* losses, long long rows,
                                                long long columns) {
  for (i64 row = grid_thread(); row < rows; row += grid_threads()) {
    i64 label = target[row];
    losses[row] = is_class(label, columns) ? nll_of(p[row * columns + label], 1) : not_a_number();
  }
}

extern "C" __global__ void cross_entropy_distributions(const REAL* p, const REAL* target, REAL* losses, long long rows,
                                                       long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      total += nll_of(p[i], target[i]);
    }
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) losses[row] = total;
  });
}

extern "C" __global__ void cross_entropy_backward_labels(const REAL* p, const long long* target, REAL* dp,
                                                         long long rows, long long columns) {
  REAL scale = (REAL)1 / (REAL)rows;
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    if (row < 0) return;
    i64 label = target[row];
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      dp[i] = nll_backward_of(p[i], (REAL)(j == label), scale);
    }
  });
}

extern "C" __global__ void cross_entropy_backward_distributions(const REAL* p, const REAL* target, REAL* dp,
                                                                long long rows, long long columns) {
  REAL scale = (REAL)1 / (REAL)rows;
  map(p, target, dp, rows * columns, [&](REAL share, REAL wanted) { return nll_backward_of(share, wanted, scale); });
}

// ---- of logits ------------------------------------------------------------------------------------------------------

struct Outputs {
  REAL* losses;         // [rows]
  REAL* probabilities;  // [rows, columns], or null
  REAL* gradient;       // [rows, columns]
  Costs costs;
};

template <class Team, class Target>
__device__ __forceinline__ void write_row(Team team, const REAL* logits, Target target, const Outputs& out, i64 row,
                                          i64 first, i64 columns) {
  auto keep = [&](i64 j, REAL p) {
    if (out.probabilities) out.probabilities[first + j] = p;
  };
  REAL loss = softmax_cross_entropy_row(team, logits + first, target, out.gradient + first, out.costs, columns, keep);
  if (columns > 0 && team.lane == 0) out.losses[row] = loss;
}

__device__ __forceinline__ Label label_of(const i64* target, i64 row, i64 columns) {
  i64 label = row < 0 ? 0 : target[row];
  return Label{label, is_class(label, columns)};
}

extern "C" __global__ void softmax_cross_entropy_labels_warp(const REAL* logits, const long long* target, REAL* losses,
                                                             REAL* probabilities, REAL* gradient, long long rows,
                                                             long long columns, REAL low, REAL high) {
  Outputs out = {losses, probabilities, gradient, {(REAL)1 / (REAL)rows, low, high}};
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    write_row(team, logits, label_of(target, row, columns), out, row, row * columns, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_labels_block(const REAL* logits, const long long* target, REAL* losses,
                                                              REAL* probabilities, REAL* gradient, long long rows,
                                                              long long columns, REAL low, REAL high) {
  __shared__ REAL shared[WARPS];
  Outputs out = {losses, probabilities, gradient, {(REAL)1 / (REAL)rows, low, high}};
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    write_row(team, logits, label_of(target, row, columns), out, row, row * columns, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_distributions_warp(const REAL* logits, const REAL* target,
                                                                    REAL* losses, REAL* probabilities, REAL* gradient,
                                                                    long long rows, long long columns, REAL low,
                                                                    REAL high) {
  Outputs out = {losses, probabilities, gradient, {(REAL)1 / (REAL)rows, low, high}};
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    write_row(team, logits, Distribution<const REAL*>{target + first}, out, row, first, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_distributions_block(const REAL* logits, const REAL* target,
                                                                     REAL* losses, REAL* probabilities, REAL* gradient,
                                                                     long long rows, long long columns, REAL low,
                                                                     REAL high) {
  __shared__ REAL shared[WARPS];
  Outputs out = {losses, probabilities, gradient, {(REAL)1 / (REAL)rows, low, high}};
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    write_row(team, logits, Distribution<const REAL*>{target + first}, out, row, first, width);
  });
}
