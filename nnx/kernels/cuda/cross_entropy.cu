// Categorical cross-entropy of probabilities, and of logits in one pass with their softmax.
//
// Floor: the losses alone read p once (labels: one number a row); a gradient reads and writes one array. The fused pass
// reads the logits and writes the gradient, 2 arrays, and a third where probabilities are kept.
// Targets are class indices (labels) or distributions over the classes, each a kernel of its own.
#include "common.cuh"

// ---- of probabilities -----------------------------------------------------------------------------------------------

// A label that is no class makes its loss NaN, instead of reading beyond the row.
__device__ __forceinline__ bool is_class(i64 label, i64 columns) { return label >= 0 && label < columns; }
__device__ __forceinline__ REAL not_a_number() { return infinity() - infinity(); }

extern "C" __global__ void cross_entropy_labels(const REAL* p, const long long* target, REAL* losses, long long rows,
                                                long long columns) {
  for (i64 row = grid_thread(); row < rows; row += grid_threads()) {
    i64 label = target[row];
    losses[row] = is_class(label, columns) ? -logarithm(clipped(p[row * columns + label])) : not_a_number();
  }
}

extern "C" __global__ void cross_entropy_distributions(const REAL* p, const REAL* target, REAL* losses, long long rows,
                                                       long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      total += target[i] * logarithm(clipped(p[i]));
    }
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) losses[row] = -total;
  });
}

extern "C" __global__ void cross_entropy_backward_labels(const REAL* p, const long long* target, REAL* dp,
                                                         long long rows, long long columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    if (row < 0) return;
    i64 label = target[row];
    for (i64 j = team.lane; j < width; j += team.size) {
      i64 i = row * columns + j;
      dp[i] = -(REAL)(j == label) / clipped(p[i]) / (REAL)rows;
    }
  });
}

extern "C" __global__ void cross_entropy_backward_distributions(const REAL* p, const REAL* target, REAL* dp,
                                                                long long rows, long long columns) {
  map(p, target, dp, rows * columns, [&](REAL probability, REAL wanted) {
    return -wanted / clipped(probability) / (REAL)rows;
  });
}

// ---- of logits ------------------------------------------------------------------------------------------------------

struct Outputs {
  REAL* losses;         // [rows]
  REAL* probabilities;  // [rows, columns], or null
  REAL* gradient;       // [rows, columns]
  REAL scale;           // 1 / rows: the gradient is that of the mean loss
  REAL low, high;       // bounds of -log(p), as if p had been clipped
};

// The row's own view of its target: which share of class j is wanted, and whether it makes sense.
struct Label {
  i64 label;
  bool valid;
  __device__ __forceinline__ REAL share(i64 j) const { return (REAL)(j == label); }
};

struct Distribution {
  const REAL* shares;
  static constexpr bool valid = true;
  __device__ __forceinline__ REAL share(i64 j) const { return shares[j]; }
};

// -log(p) is log(total) - (x - top): the other order would lose all digits where logits are 1e4.
template <class Team, class Target>
__device__ __forceinline__ void softmax_cross_entropy_row(Team team, const REAL* logits, Target target,
                                                          const Outputs& out, i64 row, i64 first, i64 columns) {
  const REAL* x = logits + first;
  REAL top = -infinity(), total = 0, loss = 0;
  for (i64 j = team.lane; j < columns; j += team.size) top = Max()(top, x[j]);
  top = team.reduce(top, Max());
  for (i64 j = team.lane; j < columns; j += team.size) total += exponential(x[j] - top);
  total = team.reduce(total, Sum());
  REAL log_total = logarithm(total);
  for (i64 j = team.lane; j < columns; j += team.size) {
    REAL shifted = x[j] - top, p = exponential(shifted) / total, wanted = target.share(j);
    // where nothing is wanted a class costs nothing, though 0 * inf is NaN
    if (wanted > 0) loss += wanted * clamp(log_total - shifted, out.low, out.high);
    if (out.probabilities) out.probabilities[first + j] = p;
    out.gradient[first + j] = (p - wanted) * out.scale;
  }
  loss = team.reduce(loss, Sum());
  if (columns > 0 && team.lane == 0) out.losses[row] = target.valid ? loss : not_a_number();
}

__device__ __forceinline__ Label label_of(const i64* target, i64 row, i64 columns) {
  i64 label = row < 0 ? 0 : target[row];
  return Label{label, is_class(label, columns)};
}

extern "C" __global__ void softmax_cross_entropy_labels_warp(const REAL* logits, const long long* target, REAL* losses,
                                                             REAL* probabilities, REAL* gradient, long long rows,
                                                             long long columns, REAL low, REAL high) {
  Outputs out = {losses, probabilities, gradient, (REAL)1 / (REAL)rows, low, high};
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    softmax_cross_entropy_row(team, logits, label_of(target, row, columns), out, row, row * columns, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_labels_block(const REAL* logits, const long long* target, REAL* losses,
                                                              REAL* probabilities, REAL* gradient, long long rows,
                                                              long long columns, REAL low, REAL high) {
  __shared__ REAL shared[WARPS];
  Outputs out = {losses, probabilities, gradient, (REAL)1 / (REAL)rows, low, high};
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    softmax_cross_entropy_row(team, logits, label_of(target, row, columns), out, row, row * columns, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_distributions_warp(const REAL* logits, const REAL* target,
                                                                    REAL* losses, REAL* probabilities, REAL* gradient,
                                                                    long long rows, long long columns, REAL low,
                                                                    REAL high) {
  Outputs out = {losses, probabilities, gradient, (REAL)1 / (REAL)rows, low, high};
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    softmax_cross_entropy_row(team, logits, Distribution{target + first}, out, row, first, width);
  });
}

extern "C" __global__ void softmax_cross_entropy_distributions_block(const REAL* logits, const REAL* target,
                                                                     REAL* losses, REAL* probabilities, REAL* gradient,
                                                                     long long rows, long long columns, REAL low,
                                                                     REAL high) {
  __shared__ REAL shared[WARPS];
  Outputs out = {losses, probabilities, gradient, (REAL)1 / (REAL)rows, low, high};
  for_each_row_by_block(rows, columns, shared, [&](auto team, i64 row, i64 width) {
    i64 first = row * columns;
    softmax_cross_entropy_row(team, logits, Distribution{target + first}, out, row, first, width);
  });
}
