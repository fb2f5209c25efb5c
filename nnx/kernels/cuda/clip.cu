// What is done to all gradients before an optimizer takes them, and to all parameters after it.
//
// Floor: each array read and written once; `clip` reads g twice, since its length takes all of it. Squares are added up
// in double and in a fixed order: each block its share, then every block all the shares.
#include "optimizers.cuh"

// Keep each number within +-value, nan as it is; parts [grid.x]: the squares of each block's share.
extern "C" __global__ void clip_squares(REAL* g, double* parts, long long n, REAL value) {
  __shared__ double shared[WARPS];
  double squares = 0;
  for_each(n, aligned(g), [&](auto span) {
    auto gradients = span.load_from(g);
#pragma unroll
    for (int k = 0; k < span.count; k++) {
      gradients.at[k] = clamp(gradients.at[k], -value, value);
      squares += (double)gradients.at[k] * (double)gradients.at[k];
    }
    span.store_to(g, gradients);
  });
  squares = reduce_block(squares, shared, Sum());
  if (threadIdx.x == 0) parts[blockIdx.x] = squares;
}

extern "C" __global__ void clip_scale(REAL* g, const double* parts, long long count, long long n, double norm) {
  __shared__ double shared[WARPS];
  double squares = 0;
  for (i64 i = threadIdx.x; i < count; i += THREADS) squares += parts[i];
  double scale = scale_of(reduce_block(squares, shared, Sum()), norm);
  if (scale == 1) return;
  map(g, g, n, [&](REAL gradient) { return gradient * (REAL)scale; });
}

// g += m; m = 0.
extern "C" __global__ void collect(REAL* g, REAL* m, long long n) {
  for_each(n, aligned(g) && aligned(m), [&](auto span) {
    auto gradients = span.load_from(g), kept = span.load_from(m);
#pragma unroll
    for (int k = 0; k < span.count; k++) {
      gradients.at[k] += kept.at[k];
      kept.at[k] = 0;
    }
    span.store_to(g, gradients);
    span.store_to(m, kept);
  });
}

// a: the mean of p over the steps after step `since`.
extern "C" __global__ void average(REAL* a, const REAL* p, const long long* counters, long long n, double decay,
                                   long long since) {
  __shared__ double shared;
  if (threadIdx.x == 0) shared = share_of(decay, counters[STEP] - since + 1);
  __syncthreads();
  REAL share = (REAL)shared;
  map(a, p, a, n, [&](REAL mean, REAL value) { return mean + share * (value - mean); });
}
