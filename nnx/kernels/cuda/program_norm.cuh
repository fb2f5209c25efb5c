// Normalization over all samples in a program: moments of each feature, what they make of it, and its gradient.
//
// Floor: reading each number of a feature twice, in shared memory, by the lanes of a warp. They are calls, since inlined
// they would cost the whole kernel registers.
#include "norm.cuh"
#include "program.cuh"

// Call body(feature, its first sample) for every feature, each by one warp.
template <class Body>
__device__ __forceinline__ void for_features(const Row& row, int samples, Body body) {
  for (int j = warp_of_block(); j < row.inputs; j += warps_of_block()) body(j, row.x + j * samples);
}

// out [inputs] = the sum of each feature of x.
__device__ __noinline__ void sum(Row row, int samples) {
  for_features(row, samples, [&](int j, const REAL* x) {
    REAL total = 0;
    for (int s = lane_of_warp(); s < samples; s += 32) total += x[s];
    total = reduce_lanes(total, 32, Sum());
    if (lane_of_warp() == 0) row.out[j] = total;
  });
}

// also: Moments of each feature of x; weights, biases: running mean and variance, which they are taken from if `kind` is
// 1, else moved to this batch's; a: epsilon, b: momentum.
__device__ __noinline__ void moments(Row row, int samples) {
  Moments* known = reinterpret_cast<Moments*>(row.also);
  for_features(row, samples, [&](int j, const REAL* x) {
    double total = 0, rest = 0, squares = 0;
    for (int s = lane_of_warp(); s < samples; s += 32) total += (double)x[s];
    double mean = reduce_lanes(total, 32, Sum()) / samples;
    for (int s = lane_of_warp(); s < samples; s += 32) {
      double off = (double)x[s] - mean;
      rest += off;
      squares += off * off;
    }
    rest = reduce_lanes(rest, 32, Sum());
    squares = reduce_lanes(squares, 32, Sum());
    if (lane_of_warp() > 0) return;
    Running running = {row.weights + j, row.biases + j, row.b};
    if (row.kind)
      known[j] = fixed_moments(row.weights[j], row.biases[j], row.a);
    else
      known[j] = moments_of(mean, rest, squares, samples, row.a, running);
  });
}

// y: Moments of each feature of x; weights, biases: gamma, beta; also: what is normalized.
__device__ __noinline__ void batch_norm(Row row, int samples) {
  const Moments* known = reinterpret_cast<const Moments*>(row.y);
  for_items((int)row.inputs * samples, [&](int i) {
    int j = i / samples;
    REAL number = known[j].normalized(row.x[i]);
    row.also[i] = number;
    row.out[i] = number * row.weights[j] + row.biases[j];
  });
}

// x: what was normalized; y: its gradient; weights: gamma; also, biases: the gradients of gamma and beta; hits: Moments,
// which the samples had no part in if `kind` is 1.
__device__ __noinline__ void batch_norm_backward(Row row, int samples) {
  const Moments* known = reinterpret_cast<const Moments*>(row.hits);
  REAL share = row.kind ? (REAL)0 : (REAL)1 / samples;
  for_items((int)row.inputs * samples, [&](int i) {
    int j = i / samples;
    REAL factor = row.weights[j] * known[j].scale;
    row.out[i] = batch_norm_backward_of(row.y[i], row.x[i], row.biases[j], row.also[j], share, factor);
  });
}
