// What is done to a row: softmax, its gradient, its cross-entropy, its largest number.
//
// A row is anything with [j], and a team shares it (common.cuh). x and y may be one row: a number is read for the last
// time by the thread that then writes it.
#include "common.cuh"

// ---- softmax --------------------------------------------------------------------------------------------------------

template <class Team, class X, class Y>
__device__ __forceinline__ void softmax_row(Team team, X x, Y y, i64 columns) {
  REAL top = -infinity(), total = 0;
  for (i64 j = team.lane; j < columns; j += team.size) top = Max()(top, x[j]);
  top = team.reduce(top, Max());
  for (i64 j = team.lane; j < columns; j += team.size) total += exponential(x[j] - top);
  total = team.reduce(total, Sum());
  for (i64 j = team.lane; j < columns; j += team.size) y[j] = exponential(x[j] - top) / total;
}

// The Jacobian diagflat(y) - y @ y.T times the gradient needs only the row's sum of y * dy. dx may be dy.
template <class Team, class Y, class X>
__device__ __forceinline__ void softmax_backward_row(Team team, Y y, Y dy, X dx, i64 columns) {
  REAL total = 0;
  for (i64 j = team.lane; j < columns; j += team.size) total += y[j] * dy[j];
  total = team.reduce(total, Sum());
  for (i64 j = team.lane; j < columns; j += team.size) dx[j] = y[j] * (dy[j] - total);
}

// ---- softmax and cross-entropy in one -------------------------------------------------------------------------------

// A label that is no class makes its loss NaN, instead of reading beyond the row.
__device__ __forceinline__ bool is_class(i64 label, i64 columns) { return label >= 0 && label < columns; }

// The row's own view of its target: which share of class j is wanted, and whether it makes sense.
struct Label {
  i64 label;
  bool valid;
  __device__ __forceinline__ REAL share(i64 j) const { return (REAL)(j == label); }
};

template <class Row>
struct Distribution {
  Row shares;
  static constexpr bool valid = true;
  __device__ __forceinline__ REAL share(i64 j) const { return shares[j]; }
};

struct Costs {
  REAL scale;      // 1 / rows: the gradient is that of the mean loss
  REAL low, high;  // bounds of -log(p), as if p had been clipped
};

// Write the gradient, call keep(j, p) for every probability, return the loss. -log(p) is log(total) - (x - top): the
// other order would lose all digits where logits are 1e4.
template <class Team, class X, class Target, class Y, class Keep>
__device__ __forceinline__ REAL softmax_cross_entropy_row(Team team, X x, Target target, Y gradient, Costs costs,
                                                          i64 columns, Keep keep) {
  REAL top = -infinity(), total = 0, loss = 0;
  for (i64 j = team.lane; j < columns; j += team.size) top = Max()(top, x[j]);
  top = team.reduce(top, Max());
  for (i64 j = team.lane; j < columns; j += team.size) total += exponential(x[j] - top);
  total = team.reduce(total, Sum());
  REAL log_total = logarithm(total);
  for (i64 j = team.lane; j < columns; j += team.size) {
    REAL shifted = x[j] - top, p = exponential(shifted) / total, wanted = target.share(j);
    // where nothing is wanted a class costs nothing, though 0 * inf is NaN
    if (wanted > 0) loss += wanted * clamp(log_total - shifted, costs.low, costs.high);
    keep(j, p);
    gradient[j] = (p - wanted) * costs.scale;
  }
  loss = team.reduce(loss, Sum());
  return target.valid ? loss : not_a_number();
}

// ---- weights --------------------------------------------------------------------------------------------------------

// What a sample of weight 0 holds does not matter, not even where it is no number.
template <class T>
__device__ __forceinline__ T weighed(T value, T weight) {
  return weight == 0 ? 0 : value * weight;
}

// ---- the largest number ---------------------------------------------------------------------------------------------

struct Best {
  REAL value;
  i64 place;
};

// Of equals the first is the best, and NaN is above all numbers: as NumPy's argmax has it.
__device__ __forceinline__ bool beats(Best a, Best b) {
  bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
  if (a_is_nan != b_is_nan) return a_is_nan;
  if (a.value == b.value || a_is_nan) return a.place < b.place;
  return a.value > b.value;
}

// The best of the numbers that are this thread's own.
template <class Team, class X>
__device__ __forceinline__ Best largest(Team team, X x, i64 columns) {
  Best best = {-infinity(), columns};
  for (i64 j = team.lane; j < columns; j += team.size) {
    Best other = {x[j], j};
    if (beats(other, best)) best = other;
  }
  return best;
}
