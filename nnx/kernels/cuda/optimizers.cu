// Optimizers over one flat buffer of parameters p, gradients g and moments m, v (chapter 10; Kingma and Ba, 2015;
// Loshchilov and Hutter, 2019).
//
// Floor: every buffer moved once: in float 20 bytes a parameter, Adam 28. Arithmetic is a tenth of that time, so square
// root and division are the exact ones.
// The rates and the step stand in device memory: a recorded launch reads those of its own step whenever it is replayed.
#include "common.cuh"

// What a step needs of `hyper` and `counters`. The first thread of a block works it out in double, since every thread's
// own division of doubles would cost more than its parameters do.
struct Rates {
  REAL rate, epsilon;
  REAL keep_1, add_1, keep_2, add_2;  // beta and 1 - beta of the two moments
  REAL grow_1, grow_2;                // 1 / (1 - beta**t) of the two: Adam's bias correction
  REAL shrink;                        // 1 - rate * weight decay
};

__device__ __forceinline__ double rate_of(const double* hyper, const i64* counters) {
  return hyper[LEARNING_RATE] / (1 + hyper[DECAY] * (double)counters[STEP]);
}

// By squaring: the power of a step number, in a few registers.
__device__ __forceinline__ double power(double base, i64 exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

__device__ __forceinline__ void share_rates(Rates* shared, const double* hyper, const i64* counters) {
  if (threadIdx.x == 0) {
    shared->rate = (REAL)rate_of(hyper, counters);
    shared->epsilon = (REAL)hyper[EPSILON];
    shared->keep_1 = (REAL)hyper[BETA_1];
    shared->add_1 = (REAL)(1 - hyper[BETA_1]);
  }
}

__device__ __forceinline__ void share_adam_rates(Rates* shared, const double* hyper, const i64* counters) {
  if (threadIdx.x == 0) {
    i64 time = counters[STEP] + 1;
    shared->keep_2 = (REAL)hyper[BETA_2];
    shared->add_2 = (REAL)(1 - hyper[BETA_2]);
    shared->grow_1 = (REAL)(1 / (1 - power(hyper[BETA_1], time)));
    shared->grow_2 = (REAL)(1 / (1 - power(hyper[BETA_2], time)));
    shared->shrink = (REAL)(1 - rate_of(hyper, counters) * hyper[WEIGHT_DECAY]);
  }
}

// Call update(p, g, m) for every parameter with its one moment.
template <class Update>
__device__ __forceinline__ void update_each(REAL* p, const REAL* g, REAL* m, i64 n, Update update) {
  for_each(n, aligned(p) && aligned(g) && aligned(m), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g), moments = span.load_from(m);
#pragma unroll
    for (int k = 0; k < span.count; k++) update(parameters.at[k], gradients.at[k], moments.at[k]);
    span.store_to(m, moments);
    span.store_to(p, parameters);
  });
}

// m = momentum * m - rate * g; p += m. The momentum stands in hyper[BETA_1].
extern "C" __global__ void sgd(REAL* p, const REAL* g, REAL* m, const double* hyper, const long long* counters,
                               long long n) {
  __shared__ Rates shared;
  share_rates(&shared, hyper, counters);
  __syncthreads();
  Rates by = shared;
  update_each(p, g, m, n, [&](REAL& parameter, REAL gradient, REAL& moment) {
    moment = by.keep_1 * moment - by.rate * gradient;
    parameter += moment;
  });
}

// v += g**2; p -= rate * g / (sqrt(v) + epsilon).
extern "C" __global__ void adagrad(REAL* p, const REAL* g, REAL* v, const double* hyper, const long long* counters,
                                   long long n) {
  __shared__ Rates shared;
  share_rates(&shared, hyper, counters);
  __syncthreads();
  Rates by = shared;
  update_each(p, g, v, n, [&](REAL& parameter, REAL gradient, REAL& square) {
    square += gradient * gradient;
    parameter -= by.rate * gradient / (square_root(square) + by.epsilon);
  });
}

// v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon). rho stands in hyper[BETA_1].
extern "C" __global__ void rmsprop(REAL* p, const REAL* g, REAL* v, const double* hyper, const long long* counters,
                                   long long n) {
  __shared__ Rates shared;
  share_rates(&shared, hyper, counters);
  __syncthreads();
  Rates by = shared;
  update_each(p, g, v, n, [&](REAL& parameter, REAL gradient, REAL& square) {
    square = by.keep_1 * square + by.add_1 * gradient * gradient;
    parameter -= by.rate * gradient / (square_root(square) + by.epsilon);
  });
}

// Both moments, corrected for their start at 0; the weight decay is the parameters' own, not the gradient's (AdamW).
extern "C" __global__ void adam(REAL* p, const REAL* g, REAL* m, REAL* v, const double* hyper,
                                const long long* counters, long long n) {
  __shared__ Rates shared;
  share_rates(&shared, hyper, counters);
  share_adam_rates(&shared, hyper, counters);
  __syncthreads();
  Rates by = shared;
  for_each(n, aligned(p) && aligned(g) && aligned(m) && aligned(v), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g);
    auto moments = span.load_from(m), squares = span.load_from(v);
#pragma unroll
    for (int k = 0; k < span.count; k++) {
      REAL gradient = gradients.at[k];
      REAL moment = by.keep_1 * moments.at[k] + by.add_1 * gradient;
      REAL square = by.keep_2 * squares.at[k] + by.add_2 * gradient * gradient;
      REAL descent = by.rate * (moment * by.grow_1) / (square_root(square * by.grow_2) + by.epsilon);
      parameters.at[k] = parameters.at[k] * by.shrink - descent;
      moments.at[k] = moment;
      squares.at[k] = square;
    }
    span.store_to(m, moments);
    span.store_to(v, squares);
    span.store_to(p, parameters);
  });
}
