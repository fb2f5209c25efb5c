// The penalty l1 * sum|w| + l2 * sum w**2 of a layer's weights, and its gradient added to theirs (chapter 14).
//
// Floor: w read, dw read and written: 3 arrays in one pass. The sum is in double and in a fixed order: each block adds
// up its share, a second launch the blocks; a lone block writes the result itself.
#include "optimizers.cuh"

extern "C" __global__ void regularize(const REAL* w, REAL* dw, double* parts, double* penalty, long long n, double l1,
                                      double l2) {
  __shared__ double shared[WARPS];
  REAL each = (REAL)l1, twice_l2 = (REAL)(2 * l2);
  double sizes = 0, squares = 0;
  for_each(n, aligned(w) && aligned(dw), [&](auto span) {
    auto weights = span.load_from(w), gradients = span.load_from(dw);
#pragma unroll
    for (int k = 0; k < span.count; k++) {
      REAL weight = weights.at[k];
      gradients.at[k] = regularized(gradients.at[k], weight, each, twice_l2);
      sizes += magnitude((double)weight);
      squares += (double)weight * (double)weight;
    }
    span.store_to(dw, gradients);
  });
  double total = reduce_block(l1 * sizes + l2 * squares, shared, Sum());
  if (threadIdx.x == 0) (gridDim.x == 1 ? penalty : parts + blockIdx.x)[0] = total;
}

// One block.
extern "C" __global__ void regularize_total(const double* parts, double* penalty, long long count) {
  __shared__ double shared[WARPS];
  double total = 0;
  for (i64 i = threadIdx.x; i < count; i += THREADS) total += parts[i];
  total = reduce_block(total, shared, Sum());
  if (threadIdx.x == 0) penalty[0] = total;
}
